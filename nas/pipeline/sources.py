"""Finds the files and models that a run reads, and computes digests to detect changes in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

from nas import embedded
from nas.data.files import read_rows
from nas.errors import DataError, TeacherError
from nas.files import digest, file_digest
from nas.model.teacher_config import read_config
from nas.pipeline.error_names import student_named
from nas.pipeline.run import Run, once
from nas.pipeline.snapshots import Role, commit, errors_with_hub_ids, has_hub_teacher, hub_model, record_snapshots
from nas.pipeline.teacher_checks import check_shape
from nas.pipeline.teacher_labels import pooling_of
from nas.study import Study, TeacherSettings
from nas.tasks import is_custom, task_kind

_DATA_VERSION = 4
"""Increase this when the same files lead to different tokenised data than before, so that older data is rebuilt."""
TEACHER_VERSION = 3
"""Increase this when the same files lead to a different teacher than before, so that older teachers are rebuilt."""


def data_files(run: Run) -> dict[str, tuple[Path, ...]]:
    """Return the data files that the run reads, keyed by the name of the set; empty for a hub data set.

    The sets are `train`, `test` and, if the study names files for the search set, `search`.
    """
    if run.study.task.train == "embedded":
        return {name: (run.embedded / f"{name}.parquet",) for name in ("train", "test")}
    return given_files(run.study)


def given_files(study: Study) -> dict[str, tuple[Path, ...]]:
    """Return the data files that a study names, keyed by the name of the set.

    The sets are `train`, `test` and, if the study names files for the search set, `search`. The result is empty for a
    hub data set and for the built-in task.
    """
    if study.task.hub or study.task.train == "embedded":
        return {}
    return {name: tuple(map(study.resolve, paths)) for name, paths in study.task.sets.items()}


def check_distinct(files: Mapping[str, Sequence[Path]]) -> None:
    """Raise `DataError` if two sets have files with the same content, or if a set names a file twice.

    `files` holds the resolved paths of each set's files, keyed by the name of the set.
    """
    for name, paths in files.items():
        if repeated := next((path for path in paths if paths.count(path) > 1), None):
            raise DataError(f"{repeated}: task.{name} names this file more than once, by different paths; remove one")
    for (first, paths), (second, other_paths) in combinations(files.items(), 2):
        for path, other in product(paths, other_paths):
            if file_digest(path) == file_digest(other):
                if not len(read_rows(str(other))):
                    raise DataError(f"{other}: has no rows; give a data set with examples")
                raise DataError(
                    f"{other}: has the same content as {path}, but the {first} set and the {second} set must be "
                    f"disjoint; give different rows as task.{second}"
                )


@once
def task_identity(run: Run) -> dict[str, Any]:
    """Return the task's settings as JSON values, with digests instead of paths and the commit of a hub data set."""
    identities_by_set = {name: list(map(content_of, paths)) for name, paths in data_files(run).items()}
    file_identities = {
        name: identities if len(identities) > 1 else identities[0] for name, identities in identities_by_set.items()
    }
    # Unlabelled texts have a step of their own. Settings that older versions of nas lacked are left out if they are not
    # set or select the behaviour of these versions, so that older digests stay valid.
    newer_settings = ("threshold", "query", "search", "pair")
    left_out = {"unlabelled"} | {key for key in newer_settings if not getattr(run.study.task, key)}
    left_out |= {"output_width"} if run.study.task.output_width == "teacher" else set()
    task = run.study.task.model_dump(mode="json", exclude=left_out)
    # If the search set is a file, nothing is held out, but digests of older runs contain these former default settings.
    if run.study.task.search:
        task["holdout"] = {"size": 5000, "by": "row"}
    return task | file_identities | {"revision": commit(run, "dataset")}


def content_of(path: Path) -> list[str | None]:
    """Return the suffix and the digest of a data file. The digest is None if the file is missing."""
    return [path.suffix, file_digest(path) if path.is_file() else None]


@once
def teacher_identity(run: Run) -> dict[str, Any]:
    """Return the settings of the run's teacher as JSON values, as `model_identity` does."""
    return model_identity(run, run.study.compressed, teacher_source(run), "model")


def model_identity(run: Run, settings: TeacherSettings, source: str, role: Role) -> dict[str, Any]:
    """Return a model's settings as JSON values, with the commit of a hub model but without a folder's path.

    `source` is the folder or hub id of the model. The columns of a teacher's outputs are left out.
    """
    exclude = {"outputs", *(["model"] if Path(source).is_dir() else [])}
    return settings.model_dump(mode="json", exclude=exclude) | {"revision": commit(run, role)}


@once
def data_inputs(run: Run) -> str:
    """Return the digest of everything that the tokenised data depends on."""
    teacher = teacher_identity(run)
    relevant_settings = {key: teacher.get(key) for key in ("model", "revision", "prune_vocabulary")}
    # Labels get the numbers that the teacher gives them, unless the teacher is fine-tuned.
    relevant_settings["tuned"] = teacher["fine_tune"] is not None
    source = teacher_source(run)
    tokenizer = file_digests(source, "*.json", "*.txt", "*.model")
    inputs = [_DATA_VERSION, task_identity(run), run.study.seed, relevant_settings, tokenizer]
    if run.study.task.evaluated_on == "texts":
        inputs.append([file_digests(source, "*.safetensors"), pooling_of(run.study, source)])
        inputs += _module_digests(run)
    return digest(inputs)


@once
def teacher_inputs(run: Run) -> str:
    """Return the digest of everything that the teacher depends on."""
    weights = file_digests(teacher_source(run), "*.safetensors")
    inputs = [TEACHER_VERSION, data_inputs(run), teacher_identity(run), run.study.seed, weights]
    return digest([*inputs, *_module_digests(run), *fine_tuning_versions(run.study, run.study.compressed)])


def fine_tuning_versions(study: Study, model: TeacherSettings) -> list[dict[str, int]]:
    """Return the entries that a model's digest contains only if earlier versions of nas fine-tuned it differently.

    If the study sets no number of epochs, fine-tuning evaluates the model to decide when to stop (see `scale_version`).
    """
    is_evaluated = model.fine_tune is not None and model.fine_tune.epochs is None
    version = scale_version(study)
    return [version] if version and is_evaluated else []


def scale_version(study: Study) -> dict[str, int]:
    """Return the entry of digests for the scale on which regressions are evaluated during a training.

    In earlier versions, this was not the scale of the data. Correlations do not depend on the scale, but user-defined
    metrics may. The entry is therefore left out if the metric is not user-defined.
    """
    task = study.task
    return {"scale": 1} if is_custom(task.metric) and task_kind(task.kind).predicts_numbers else {}


def _module_digests(run: Run) -> list[str]:
    """Return the digests of the files that `TaskKind.module_files` returns for the run's teacher.

    The result is empty if the teacher is a hub model. If there are no such files, digests of older runs do not contain
    the pooling. The pooling is then included only if it is not the usual mean, and if `data_inputs` does not contain it
    already.
    """
    kind, source = task_kind(run.study.task.kind), Path(teacher_source(run))
    digests = [file_digest(path) for path in kind.module_files(source)] if source.is_dir() else []
    pooling = pooling_of(run.study, str(source))
    if digests or not pooling or pooling["network_type"] != "encoder" or run.study.task.evaluated_on == "texts":
        return digests
    return [] if pooling["readout"] == "mean" else [f"readout {pooling['readout']}"]


def file_digests(source: str, *patterns: str) -> dict[str, str]:
    """Return the digest of each file that matches a pattern in the folder `source`, keyed by file name.

    The result is empty if `source` is a hub id.
    """
    return {path.name: file_digest(path) for pattern in patterns for path in Path(source).glob(pattern)}


def teacher_source(run: Run) -> str:
    """Return the folder or hub id from which the run's teacher is loaded."""
    if run.study.compressed.model == "embedded":
        return str(run.embedded / "teacher")
    return given_teacher(run.study)


def given_teacher(study: Study) -> str:
    """Return the folder or hub id of the model that a study compresses; raises the same errors as `given_model`."""
    with student_named(study):
        return given_model(study, study.compressed)


def given_model(study: Study, model: TeacherSettings) -> str:
    """Return the folder or hub id of the model that the settings in `model` describe.

    Raises `TeacherError` if the study names a folder that does not exist, or sets a revision for a folder.
    """
    folder = study.resolve(model.model)
    if folder.is_dir():
        if model.revision:
            raise TeacherError(
                f"teacher.revision: is {model.revision!r}, but only hub models have revisions, and {folder} is a "
                "folder; remove teacher.revision"
            )
        return str(folder)
    if model.model.startswith((".", "/", "~")):
        raise TeacherError(f"teacher.model: {folder} is not a folder; correct the path, or give a hub id")
    return model.model


def teacher_folder(run: Run, weights: bool = True) -> str:
    """Return the folder from which the teacher is loaded.

    If the teacher is a hub model, download its files first. Its weights are downloaded only if `weights` is set.
    """
    if not has_hub_teacher(run.study):
        return teacher_source(run)
    if not weights and run.is_done("teacher", teacher_inputs(run)):
        return str(run.teacher)  # this copy suffices, and the downloaded files may have been deleted
    with student_named(run.study):
        return str(hub_model(run, weights))


def embedded_inputs(run: Run) -> str:
    """Return the digest of the built-in task's settings.

    The digest does not cover the task's texts, which are taken from the documentation of installed packages.
    """
    return digest([run.study.seed, embedded.VERSION])


@errors_with_hub_ids
def settle_sources(run: Run) -> None:
    """Record the hub commits that the run uses. Raise a `NasError` if the teacher's configuration does not fit."""
    record_snapshots(run)
    source = teacher_folder(run, weights=False)
    check_shape(run.study, source, read_config(source))
