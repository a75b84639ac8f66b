"""The snapshots of the Hugging Face hub that a run uses. They are recorded when the run starts.

`hub.json` holds the commits of the models and of the data set. If a branch on the hub moves later, the run keeps its
commit, since a new commit must not cause hours of training to be repeated. A message then explains how to use the newer
commit.
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
"""The parts of a run that may come from the hub: the compressed model, a student's separate teacher, the data set."""
_KINDS: dict[Role, Kind] = {"model": "model", "separate teacher": "model", "dataset": "dataset"}


def asked(study: Study) -> dict[Role, tuple[str, str | None]]:
    """Return the hub ids of the models and the data set that a study names, each with its revision."""
    found: dict[Role, tuple[str, str | None]] = {}
    if has_hub_teacher(study):
        found["model"] = (study.compressed.model, study.compressed.revision)
    if study.student and study.teacher.is_loaded and _is_of_hub(study, study.teacher.model):
        found["separate teacher"] = (study.teacher.model, study.teacher.revision)
    if study.task.hub:
        found["dataset"] = (study.task.hub, study.task.revision)
    return found


def has_hub_teacher(study: Study) -> bool:
    """Whether the model that is compressed comes from the hub, and not from a folder or the built-in task."""
    return _is_of_hub(study, study.compressed.model)


def _is_of_hub(study: Study, model: str) -> bool:
    return model != "embedded" and not study.resolve(model).is_dir()


def _table(study: Study, role: Role) -> str:
    """Return the name of the table in the study that contains the hub id of a role."""
    if role == "model":
        return "student" if study.student else "teacher"
    return "task" if role == "dataset" else "teacher"


def snapshot(run: Run, role: Role) -> Snapshot:
    """Return the snapshot that the run uses: the recorded one or, if there is none, the hub's current one.

    A recorded snapshot is used only if the study still names the same id and revision.
    """
    return _noted(run, role) or _seen(_KINDS[role], *asked(run.study)[role])[0]


def commit(run: Run, role: Role) -> str | None:
    """Return the commit of a model or of the data set; None if that does not come from the hub."""
    return snapshot(run, role).commit if role in asked(run.study) else None


def commits(run: Run) -> dict[str, str]:
    """Return the commits of all models and the data set that come from the hub, by the name of the study's table."""
    return {_table(run.study, role): snapshot(run, role).commit for role in asked(run.study)}


def keep(run: Run) -> None:
    """Record the snapshots that a run uses, and report if the hub has newer ones."""
    wanted = asked(run.study)
    known = {
        role: {"id": found.name, "revision": wanted[role][1], "commit": found.commit}
        for role, found in looked_at(run).items()
    }
    if known and known != _notes(run):
        write_json(run.snapshots, known)


def looked_at(run: Run) -> dict[Role, Snapshot]:
    """Return the snapshots that a run uses, or will use once it starts. Report if the hub has newer ones."""
    return {role: _look_at(run, role) for role in asked(run.study)}


def check_hub_data(task: Task, found: Snapshot) -> None:
    """Raise `DataError` if a data set lacks the configuration or a split that a task names. Downloads no rows."""
    with busy(f"Checking {found}"):
        known = splits(found, task.config)
    splits_of_it = (name for name in task.unlabelled if name not in task.unlabelled_files)
    for source in (*chain.from_iterable(task.sets.values()), *splits_of_it):
        for name in split_names_in(source):
            check_split(found, known, name)


def hub_model(run: Run, weights: bool, role: Role = "model") -> Path:
    """Return the folder of a hub model's files. Missing files are downloaded, but weights only if `weights` is set."""
    found = snapshot(run, role)
    with busy(f"Downloading {found}"):
        return model_folder(found, weights)


def forget() -> None:
    """Clear the cached answers of the hub, so that this process queries the hub again, as a new process would."""
    _seen.cache_clear()
    _say_newer.cache_clear()


def errors_with_hub_ids(work: Callable[Concatenate[Run, P], T]) -> Callable[Concatenate[Run, P], T]:
    """Wrap `work` so that its errors name a snapshot by its hub id, not by its folder in the cache."""

    @wraps(work)
    def named(run: Run, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return work(run, *args, **kwargs)
        except NasError as problem:
            said = str(problem)
            for found in _known(run):
                said = said.replace(str(found.folder), str(found))
            raise type(problem)(said) from None

    return named


def _notes(run: Run) -> dict[str, Any]:
    return read_json(run.snapshots, StudyError) if run.snapshots.exists() else {}


def _known(run: Run) -> Iterator[Snapshot]:
    """Yield the snapshots of a run, except those that cannot be determined because of an error."""
    for role in asked(run.study):
        with suppress(NasError):
            yield snapshot(run, role)


def _noted(run: Run, role: Role) -> Snapshot | None:
    name, revision = asked(run.study)[role]
    note = _notes(run).get(role)
    if not note or (note["id"], note["revision"]) != (name, revision) or not run.is_finished("data"):
        return None  # none of the run's current results was made from a recorded commit: use the newest commit
    return Snapshot(_KINDS[role], name, note["commit"])


def _look_at(run: Run, role: Role) -> Snapshot:
    """Return a run's snapshot, and report if its branch or tag has moved."""
    name, revision = asked(run.study)[role]
    noted = _noted(run, role)
    if noted:
        _say_newer(noted, revision, _table(run.study, role))
        return noted
    return _seen(_KINDS[role], name, revision)[0]


@lru_cache(maxsize=8)
def _seen(kind: Kind, name: str, revision: str | None) -> tuple[Snapshot, str]:
    """Return the snapshot of a revision, and why the hub was unreachable (empty if it was reachable).

    The answer is cached, so that a revision refers to the same commit in the whole process. An unreachable hub is
    reported.
    """
    found, doubt = find(kind, name, revision)
    if doubt:
        say(f"{name}: {doubt}; using {found.commit[:7]}, the last commit that was seen")
    return found, doubt


@lru_cache(maxsize=8)
def _say_newer(noted: Snapshot, revision: str | None, table: str) -> None:
    """Report, once per process, if a branch or tag has moved away from the run's commit."""
    if revision and is_commit(revision):
        return
    stays = f"this run stays at commit {noted.commit[:7]}, from which it was started"
    try:
        now, doubt = latest(noted.kind, noted.name, revision)
    except NasError as problem:
        say(f"{problem}; {stays}")
        return
    if doubt:
        say(f"{noted.name}: {doubt}; {stays}")
    elif now and now != noted.commit:
        newer = f'to use the newer one, set {table}.revision = "{now}"'
        say(f"{noted.name}: {revision or 'main'} is at {now[:7]} now; {stays} ({newer})")
