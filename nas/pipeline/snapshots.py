"""Records which snapshots (commits) of models and data sets on the Hugging Face hub a run uses.

The commits are written to `hub.json` when the run starts. If a branch on the hub moves later, the run keeps the
recorded commit, so that no training has to be repeated. A message then explains how to use the new commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache, wraps
from itertools import chain
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

from nas.errors import NasError, StudyError
from nas.files import read_json, write_json
from nas.hub import Kind, Snapshot, check_split, find, is_commit, latest, model_folder, split_names_in, splits
from nas.pipeline.run import Run
from nas.progress import busy, say
from nas.study import Study, Task

T = TypeVar("T")
P = ParamSpec("P")
Role = Literal["model", "separate teacher", "dataset"]
"""The roles of hub snapshots in a run: the model to compress, a student's separate teacher, or the data set."""
_KINDS: dict[Role, Kind] = {"model": "model", "separate teacher": "model", "dataset": "dataset"}


def hub_sources(study: Study) -> dict[Role, tuple[str, str | None]]:
    """Return the hub id and the revision of each model and data set that a study takes from the hub, keyed by role."""
    sources: dict[Role, tuple[str, str | None]] = {}
    if has_hub_teacher(study):
        sources["model"] = (study.compressed.model, study.compressed.revision)
    if study.student and study.teacher.is_loaded and _is_hub_id(study, study.teacher.model):
        sources["separate teacher"] = (study.teacher.model, study.teacher.revision)
    if study.task.hub:
        sources["dataset"] = (study.task.hub, study.task.revision)
    return sources


def has_hub_teacher(study: Study) -> bool:
    """Whether the model to compress comes from the hub, and not from a folder or the built-in task."""
    return _is_hub_id(study, study.compressed.model)


def _is_hub_id(study: Study, model: str) -> bool:
    return model != "embedded" and not study.resolve(model).is_dir()


def _study_table(study: Study, role: Role) -> str:
    """Return the name of the study's table that sets the hub id for a role."""
    if role == "model":
        return study.compressed_table
    return "task" if role == "dataset" else "teacher"


def snapshot(run: Run, role: Role) -> Snapshot:
    """Return the snapshot that the run uses: the recorded one or else the hub's current one.

    The recorded snapshot is used only if the study still names its hub id and revision, and the step `data` is
    finished.
    """
    return _recorded(run, role) or _resolved(_KINDS[role], *hub_sources(run.study)[role])


def commit(run: Run, role: Role) -> str | None:
    """Return the commit of the model or data set in this role; None if this role has no hub id in the study."""
    return snapshot(run, role).commit if role in hub_sources(run.study) else None


def pinned_task(run: Run) -> Task:
    """Return the study's task. If its data set comes from the hub, its revision is the commit that the run uses."""
    return run.study.task.model_copy(update={"revision": commit(run, "dataset")})


def commits(run: Run) -> dict[str, str]:
    """Return the commit of each model and data set from the hub, keyed by the study's table that sets its hub id."""
    return {_study_table(run.study, role): snapshot(run, role).commit for role in hub_sources(run.study)}


def record_snapshots(run: Run) -> None:
    """Record the snapshots that a run uses, and tell the user if the hub has newer commits."""
    sources = hub_sources(run.study)
    records = {
        role: {"id": hub_snapshot.name, "revision": sources[role][1], "commit": hub_snapshot.commit}
        for role, hub_snapshot in snapshots_of(run).items()
    }
    if records and records != _records(run):
        write_json(run.snapshots, records)


def snapshots_of(run: Run) -> dict[Role, Snapshot]:
    """Return the snapshots that a run uses or will use, keyed by role. Tell the user if the hub has newer commits."""
    snapshots: dict[Role, Snapshot] = {}
    for role, (_, revision) in hub_sources(run.study).items():
        if recorded := _recorded(run, role):
            _say_newer(recorded, revision, _study_table(run.study, role))
        snapshots[role] = snapshot(run, role)
    return snapshots


def check_hub_data(task: Task, data_set: Snapshot) -> None:
    """Raise `DataError` if a data set lacks the configuration or a split that a task names. Downloads no rows."""
    with busy(f"Checking {data_set}"):
        split_names = splits(data_set, task.config)
    unlabelled_splits = (name for name in task.unlabelled if name not in task.unlabelled_files)
    for source in (*chain.from_iterable(task.sets.values()), *unlabelled_splits):
        for name in split_names_in(source):
            check_split(data_set, split_names, name)


def hub_model(run: Run, weights: bool, role: Role = "model") -> Path:
    """Return the folder of a hub model's files. Download missing files, but weights only if `weights` is set."""
    hub_snapshot = snapshot(run, role)
    with busy(f"Downloading {hub_snapshot}"):
        return model_folder(hub_snapshot, weights)


def forget() -> None:
    """Clear the cached answers of the hub, so that this process queries the hub again."""
    _resolved.cache_clear()
    _say_newer.cache_clear()


def errors_with_hub_ids(work: Callable[Concatenate[Run, P], T]) -> Callable[Concatenate[Run, P], T]:
    """Wrap `work` so that its errors name a snapshot by its hub id, not by its folder in the cache."""

    @wraps(work)
    def named(run: Run, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return work(run, *args, **kwargs)
        except NasError as problem:
            message = str(problem)
            for hub_snapshot in _known_snapshots(run):
                message = message.replace(str(hub_snapshot.folder), str(hub_snapshot))
            raise type(problem)(message) from None

    return named


def _records(run: Run) -> dict[str, Any]:
    return read_json(run.snapshots, StudyError) if run.snapshots.exists() else {}


def _known_snapshots(run: Run) -> Iterator[Snapshot]:
    """Yield the snapshots of a run, except those that cannot be determined because of an error."""
    for role in hub_sources(run.study):
        with suppress(NasError):
            yield snapshot(run, role)


def _recorded(run: Run, role: Role) -> Snapshot | None:
    name, revision = hub_sources(run.study)[role]
    record = _records(run).get(role)
    if not record or (record["id"], record["revision"]) != (name, revision) or not run.is_finished("data"):
        return None  # no current result of the run is based on a recorded commit, so the newest commit is used
    return Snapshot(_KINDS[role], name, record["commit"])


@lru_cache(maxsize=8)
def _resolved(kind: Kind, name: str, revision: str | None) -> Snapshot:
    """Return the snapshot of a revision. If the hub is unreachable, the user is told.

    The result is cached, so that a revision refers to the same commit for the lifetime of the process.
    """
    hub_snapshot, unreachable_reason = find(kind, name, revision)
    if unreachable_reason:
        say(f"{name}: {unreachable_reason}; using commit {hub_snapshot.commit[:7]}, the last one that the hub returned")
    return hub_snapshot


@lru_cache(maxsize=8)
def _say_newer(recorded: Snapshot, revision: str | None, table: str) -> None:
    """Tell the user, at most once per process, that a branch or tag no longer points to the recorded commit."""
    if revision and is_commit(revision):
        return
    stays_message = f"this run stays at commit {recorded.commit[:7]}, from which it was started"
    try:
        newest, unreachable_reason = latest(recorded.kind, recorded.name, revision)
    except NasError as problem:
        say(f"{problem}; {stays_message}")
        return
    if unreachable_reason:
        say(f"{recorded.name}: {unreachable_reason}; {stays_message}")
    elif newest and newest != recorded.commit:
        remedy = f'to use the newer commit, set {table}.revision = "{newest}"'
        say(f"{recorded.name}: {revision or 'main'} is at {newest[:7]} now; {stays_message} ({remedy})")
