"""A run whose study is made in Python: data sets and loaded models stand where a study file names files.

What is given is written into the run's folder, as the study file that it amounts to and the files that this names. The
same objects give the same files, so a later call, also in another process, goes on with what is there, and the command
line works on the study too.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from nas.data.files import write_table
from nas.device import NAME
from nas.errors import NasError, StudyError, TeacherError
from nas.files import file_digest, given_path, write_text
from nas.limits import working_on
from nas.pipeline.run import Run
from nas.proposal import LENGTH, SPACE_FILE, STUDY_FILE, Teacher, budget_table, fitting_space, space_text
from nas.study import Study
from nas.tasks.own_metric import given

FOLDER = "given"
"""Where in the run's folder the study and what it names are written."""
_DATA, _MODELS = ("train", "test", "search"), ("teacher", "student")
_STORAGE = "STORAGE"
"""The variable that stands for the address of a database, which is never written down."""


def run_of(name: str, *, runs: str | Path = "runs", **tables: Any) -> Run:
    """Return the run of a study that is given as the tables of a study file, each as a keyword argument.

    `task` may have a `datasets.Dataset` or a pandas data frame in place of each name of a file. `teacher` and `student`
    may have a loaded model as `model`, with its `tokenizer` beside it. `task.metric` may be a function of predictions
    and references, for which higher is better (see `nas.tasks.own_metric`).

    A budget may be a text, as for `nas init`: a share of the teacher's latency ("20%"), milliseconds ("4.0") or points
    that may be lost ("1pt"), each with a name before an equals sign or without. Without `devices` latency is that of
    this machine under ONNX Runtime, with one thread and one text of 128 tokens. `search_space`, `task.max_length` and
    `task.holdout` are those that `nas init` proposes, where they are left out.

    Raises the `NasError` that loading the study would raise.
    """
    if not re.fullmatch(NAME, name):
        raise StudyError(f"name: must have letters, digits, dots, dashes and underscores only, but got {name!r}")
    folder = Path(runs).resolve() / name
    is_new = not folder.exists()
    with working_on(folder):
        folder.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{FOLDER}.", dir=folder))
        try:
            study, variables = _write(draft, {"name": name, **tables})
            with Run.of(study, Path(runs)).locked():
                if not _same_files(draft, folder / FOLDER):
                    shutil.rmtree(folder / FOLDER, ignore_errors=True)
                    draft.replace(folder / FOLDER)
            return Run.of(Study.load(folder / FOLDER, variables), Path(runs))
        except NasError as problem:
            raise type(problem)(str(problem).replace(str(draft), str(folder / FOLDER))) from None
        finally:
            shutil.rmtree(draft, ignore_errors=True)
            if is_new and not any(folder.iterdir()):
                folder.rmdir()


def _write(folder: Path, tables: dict[str, Any]) -> tuple[Study, dict[str, str]]:
    """Write the study and what it names into a folder; returns it with the values of its variables."""
    folder.chmod(0o755)
    for key in ("task", *_MODELS):
        if not isinstance(tables.get(key, {}), Mapping):
            raise StudyError(
                f"{key}: must be a mapping with the settings of [{key}], but got {tables[key]!r}; give one"
            )
    values = {key: dict(value) if isinstance(value, Mapping) else value for key, value in tables.items()}
    values["task"] = _with_files(folder, values.get("task", {}))
    for key in _MODELS:
        if key in values:
            values[key] = _with_model(folder, key, values[key])
    known = _compressed(folder, values)
    length = min(LENGTH, known.positions) if known else LENGTH
    values["task"] = {"max_length": length, **values["task"]}
    values.setdefault("devices", [{"name": "here", "sequence_length": length}])
    first = next((device["name"] for device in values["devices"] if "name" in device), "here")
    values["budgets"] = [
        budget_table(budget, first) if isinstance(budget, str) else budget for budget in values.get("budgets", ())
    ]
    if "search_space" not in values:
        values["search_space"] = {"name": _space(folder, known)}
    variables = {}
    if storage := values.get("search", {}).get("storage"):
        variables[_STORAGE] = str(storage)
        values["search"] |= {"storage": f"${{{_STORAGE}}}"}
        values["variables"] = {_STORAGE: "the URL of the database that keeps the trials"}
    write_text(folder / STUDY_FILE, "".join(_as_toml(values)))
    return Study.load(folder, variables), variables


def _with_files(folder: Path, task: Mapping[str, Any]) -> dict[str, Any]:
    """The table of a task, with its data written to files."""
    values = {key: _data(folder, key, value) if key in _DATA else value for key, value in task.items()}
    if "unlabelled" in task:
        values["unlabelled"] = [
            _data(folder, f"unlabelled-{number}", value) for number, value in enumerate(task["unlabelled"], start=1)
        ]
    if callable(metric := values.get("metric")):
        try:
            values["metric"] = given(metric)
        except ValueError as problem:
            raise StudyError(f"task.{problem}") from None
    for key in ("text", "pair"):
        if isinstance(values.get(key), str):
            values[key] = [values[key]]
    return values


def _data(folder: Path, name: str, rows: Any) -> Any:
    """The name of the file that rows were written to, or of the one that is given."""
    import pandas  # datasets brings it

    if isinstance(rows, pandas.DataFrame):
        rows = Dataset.from_pandas(rows, preserve_index=False)
    if not isinstance(rows, Dataset):
        return _absolute(rows)
    write_table(rows, folder / f"{name}.parquet")
    return f"{name}.parquet"


def _with_model(folder: Path, key: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """The table of a teacher or student, with its model and its tokenizer written to a folder."""
    values = {name: value for name, value in table.items() if name != "tokenizer"}
    model, tokenizer = values.get("model"), table.get("tokenizer")
    if not hasattr(model, "save_pretrained"):
        return values | {"model": _absolute(model)}
    assert model is not None
    model.save_pretrained(str(folder / key))
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder / key))
    elif not (folder / key / "tokenizer.json").exists():  # as sentence-transformers writes it with the model
        raise TeacherError(f"{key}.tokenizer: a loaded model needs its tokenizer; give it beside {key}.model")
    return values | {"model": f"./{key}"}


def _absolute(name: Any) -> Any:
    """The path of a file or folder that is there, as the study can name it from its folder; other names as they are."""
    if not isinstance(name, str | Path):
        return name
    path = given_path(str(name))
    return str(path.resolve()) if path.exists() else str(name)


def _compressed(folder: Path, values: Mapping[str, Any]) -> Teacher | None:
    """The model that is compressed; None for one of a hub, which is not looked at."""
    key = "student" if "student" in values else "teacher"
    name = values.get(key, {}).get("model", "")
    return Teacher.at(str(folder / name) if name == f"./{key}" else name)


def _space(folder: Path, known: Teacher | None) -> str:
    """The name of the search space that fits a model, which is written if none that is shipped does."""
    if known is None:
        raise StudyError("search_space: must be given for a model of the hub, which is not looked at here; name one")
    if (shipped := fitting_space(known.shape)) is not None:
        return shipped
    write_text(folder / SPACE_FILE, space_text(known.shape))
    return SPACE_FILE


def _same_files(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files."""
    found = [
        {path.relative_to(folder): file_digest(path) for path in folder.rglob("*") if path.is_file()}
        for folder in (one, other)
    ]
    return found[0] == found[1]


def _as_toml(values: Mapping[str, Any]) -> Iterator[str]:
    """Settings as the text of a TOML file: what is no table first."""
    tables = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    lists = {key: value for key, value in values.items() if key in ("devices", "budgets")}
    for key in values.keys() - tables.keys() - lists.keys():
        yield f"{key} = {_value(values[key])}\n"
    for key, table in (*tables.items(), *((key, table) for key, listed in lists.items() for table in listed)):
        yield f"\n[[{key}]]\n" if key in lists else f"\n[{key}]\n"
        yield from (f"{_value(name)} = {_value(value)}\n" for name, value in table.items() if value is not None)


def _value(value: Any) -> str:
    """A value in TOML."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_value(key)} = {_value(inner)}' for key, inner in value.items())} }}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value.item() if hasattr(value, "item") else value, ensure_ascii=False, default=str)
