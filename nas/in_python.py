"""Runs of studies that are defined in Python. Data sets and loaded models can replace the paths in a study file.

`run_of` writes these objects and a study file to the folder of the run. The same objects produce the same files, so a
later call resumes the run, even in a different process. The command line can also use this study file.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from nas.data.files import write_table
from nas.device import NAME, NAME_RULE, Device
from nas.errors import NasError, StudyError, TeacherError, shown
from nas.files import draft_folder, file_digest, given_path, toml_literal, write_text
from nas.limits import working_on
from nas.pipeline.run import Run
from nas.proposal import LENGTH, SPACE_FILE, STUDY_FILE, TeacherProperties, budget_table, fitting_space, space_text
from nas.study import Study
from nas.tasks.custom_metric import register

FOLDER = "given"
"""The subfolder of the run that holds the study file and the files that the study file names."""
_DATA_KEYS, _MODEL_KEYS = ("train", "test", "search"), ("teacher", "student")
_STORAGE_VARIABLE = "STORAGE"
"""The name of the variable that replaces the URL of a database in the study file, because a URL may contain a password.
"""


def run_of(name: str, *, runs: str | Path = "runs", **tables: Any) -> Run:
    """Return the run of a study. The keyword arguments are the tables of a study file, with the same keys.

    In `task`, a `datasets.Dataset` or a pandas data frame can replace the name of a file. In `teacher` and `student`,
    `model` can be a loaded model, with its tokenizer as `tokenizer`. `task.metric` can be a function that takes
    predictions and references and returns a higher value for better predictions (see `nas.tasks.custom_metric`).

    A budget can be a string, as for `nas init`: a percentage of the teacher's latency ("20%"), a number of milliseconds
    ("4.0"), or the permitted loss of accuracy in points ("1pt"). The string can begin with a name ("fast=20%"). If
    `devices` is missing, the device is this machine with ONNX Runtime, one thread and one text at a time. The text has
    128 tokens, or fewer if the model supports fewer. `search_space`, `task.max_length` and `task.holdout` default to
    the values that `nas init` proposes.

    Raises a `NasError` if an argument is invalid.
    """
    if not re.fullmatch(NAME, name):
        raise StudyError(f"name: {NAME_RULE}, but got {name!r}; change the name")
    folder = Path(runs).resolve() / name
    is_new = not folder.exists()
    with working_on(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with draft_folder(folder / FOLDER) as draft:
                try:
                    study, variables = _write_study(draft, {"name": name, **tables})
                    with Run.of(study, Path(runs)).locked():
                        if not _same_files(draft, folder / FOLDER):
                            shutil.rmtree(folder / FOLDER, ignore_errors=True)
                            draft.replace(folder / FOLDER)
                    return Run.of(Study.load(folder / FOLDER, variables), Path(runs))
                except NasError as problem:
                    raise type(problem)(str(problem).replace(str(draft), str(folder / FOLDER))) from None
        finally:
            if is_new and not any(folder.iterdir()):
                folder.rmdir()


def _write_study(folder: Path, tables: dict[str, Any]) -> tuple[Study, dict[str, str]]:
    """Write a study file and all files that it names. Return the study and the values of its variables."""
    folder.chmod(0o755)
    for key in ("task", *_MODEL_KEYS):
        if not isinstance(tables.get(key, {}), Mapping):
            raise StudyError(
                f"{key}: must be a mapping with the settings of [{key}], but got {shown(tables[key])}; pass a "
                "dictionary"
            )
    values = {key: dict(value) if isinstance(value, Mapping) else value for key, value in tables.items()}
    values["task"] = _with_files(folder, values.get("task", {}))
    for key in _MODEL_KEYS:
        if key in values:
            values[key] = _with_model(folder, key, values[key])
    properties = _compressed_properties(folder, values)
    length = min(LENGTH, properties.positions) if properties else LENGTH
    values["task"] = {"max_length": length, **values["task"]}
    values.setdefault("devices", [{"name": "here", "sequence_length": length}])
    first_device = next((device["name"] for device in values["devices"] if "name" in device), "here")
    values["budgets"] = [
        budget_table(budget, first_device, "budgets:") if isinstance(budget, str) else budget
        for budget in values.get("budgets", ())
    ]
    if "search_space" not in values:
        values["search_space"] = {"name": _space_name(folder, properties, values.get("devices", ()))}
    variables = {}
    if storage := values.get("search", {}).get("storage"):
        variables[_STORAGE_VARIABLE] = str(storage)
        values["search"] |= {"storage": f"${{{_STORAGE_VARIABLE}}}"}
        values["variables"] = {_STORAGE_VARIABLE: "the URL of the database that keeps the trials"}
    write_text(folder / STUDY_FILE, "".join(_as_toml(values)))
    return Study.load(folder, variables), variables


def _with_files(folder: Path, task: Mapping[str, Any]) -> dict[str, Any]:
    """Write the data of a task to files. Return the task's table with the names of these files."""
    values = {key: _data_name(folder, key, value) if key in _DATA_KEYS else value for key, value in task.items()}
    if "unlabelled" in task:
        values["unlabelled"] = [
            _data_name(folder, f"unlabelled-{number}", value)
            for number, value in enumerate(task["unlabelled"], start=1)
        ]
    if callable(metric := values.get("metric")):
        try:
            values["metric"] = register(metric)
        except ValueError as problem:
            raise StudyError(f"task.{problem}") from None
    for key in ("text", "pair"):
        if isinstance(values.get(key), str):
            values[key] = [values[key]]
    return values


def _data_name(folder: Path, name: str, rows: Any) -> Any:
    """Write a data set to a file and return the file's name. For any other value, return the result of `_absolute`."""
    import pandas  # a dependency of datasets

    if isinstance(rows, pandas.DataFrame):
        rows = Dataset.from_pandas(rows, preserve_index=False)
    if not isinstance(rows, Dataset):
        return _absolute(rows)
    write_table(rows, folder / f"{name}.parquet")
    return f"{name}.parquet"


def _with_model(folder: Path, key: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table of a teacher or student. A loaded model is saved to a folder, whose path replaces it."""
    values = {name: value for name, value in table.items() if name != "tokenizer"}
    model, tokenizer = values.get("model"), table.get("tokenizer")
    if not hasattr(model, "save_pretrained"):
        return values | {"model": _absolute(model)}
    assert model is not None
    model.save_pretrained(str(folder / key))
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder / key))
    elif not (folder / key / "tokenizer.json").exists():  # sentence-transformers saves the tokenizer with the model
        raise TeacherError(f"{key}.tokenizer: a loaded model needs its tokenizer; give it in addition to {key}.model")
    return values | {"model": f"./{key}"}


def _absolute(name: Any) -> Any:
    """Return the absolute path of an existing file or folder. Return any other value, such as a hub id, unchanged."""
    if not isinstance(name, str | Path):
        return name
    path = given_path(str(name))
    return str(path.resolve()) if path.exists() else str(name)


def _compressed_properties(folder: Path, values: Mapping[str, Any]) -> TeacherProperties | None:
    """Return the properties of the model to compress, or None for a hub id, because hub models are not downloaded."""
    key = "student" if "student" in values else "teacher"
    name = values.get(key, {}).get("model", "")
    return TeacherProperties.at(str(folder / name) if name == f"./{key}" else name)


def _space_name(folder: Path, properties: TeacherProperties | None, devices: Iterable[Mapping[str, Any]]) -> str:
    """Return the name of a search space that fits a model: a shipped one or, if none fits, one written to `folder`."""
    if properties is None:
        raise StudyError(
            "search_space: must be given for a hub model, because its sizes are unknown before the download; set "
            "search_space.name"
        )
    named = [device.get("runtime", Device.model_fields["runtime"].default) for device in devices]
    runtimes = [runtime for runtime in named if isinstance(runtime, str)]
    if (shipped := fitting_space(properties.shape, runtimes)) is not None:
        return shipped
    write_text(folder / SPACE_FILE, space_text(properties.shape, runtimes))
    return SPACE_FILE


def _same_files(one: Path, other: Path) -> bool:
    """Whether two folders hold files with the same names and the same contents."""
    digests = [
        {path.relative_to(folder): file_digest(path) for path in folder.rglob("*") if path.is_file()}
        for folder in (one, other)
    ]
    return digests[0] == digests[1]


def _as_toml(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the parts of a TOML file with these settings, beginning with the values that are not tables."""
    tables = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    lists = {key: value for key, value in values.items() if key in ("devices", "budgets")}
    for key, value in values.items():
        if key not in tables and key not in lists:
            yield f"{key} = {toml_literal(value)}\n"
    for key, table in (*tables.items(), *((key, table) for key, listed in lists.items() for table in listed)):
        yield f"\n[[{key}]]\n" if key in lists else f"\n[{key}]\n"
        yield from (
            f"{toml_literal(name)} = {toml_literal(value)}\n" for name, value in table.items() if value is not None
        )
