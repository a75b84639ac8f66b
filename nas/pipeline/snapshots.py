"""The snapshots of the hub that a run is made from: noted when it is begun, and kept.

`hub.json` holds the commit of the teacher and of the data set. A branch that has moved since changes nothing, as a
training of hours must not be rebuilt because somebody has pushed; it is said, with how to take the newer snapshot.
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
from nas.hub import Kind, Snapshot, check_split, find, is_commit, latest, model_folder, names_in, splits
from nas.pipeline.run import Run
from nas.progress import busy, say
from nas.study import Study, Task

T = TypeVar("T")
P = ParamSpec("P")
Role = Literal["model", "separate teacher", "dataset"]
"""What a run takes from the hub: the model that is compressed, the teacher of a student, the data."""
_KINDS: dict[Role, Kind] = {"model": "model", "separate teacher": "model", "dataset": "dataset"}


def asked(study: Study) -> dict[Role, tuple[str, str | None]]:
    """The ids that a study gives of models and of a data set of the hub, each with its revision."""
    found: dict[Role, tuple[str, str | None]] = {}
    if has_hub_teacher(study):
        found["model"] = (study.compressed.model, study.compressed.revision)
    if study.student and study.teacher.is_loaded and _is_of_hub(study, study.teacher.model):
        found["separate teacher"] = (study.teacher.model, study.teacher.revision)
    if study.task.hub:
        found["dataset"] = (study.task.hub, study.task.revision)
    return found


def has_hub_teacher(study: Study) -> bool:
    """Whether the model that is compressed is given by a hub id: it is neither a folder nor the embedded one."""
    return _is_of_hub(study, study.compressed.model)


def _is_of_hub(study: Study, model: str) -> bool:
    return model != "embedded" and not study.resolve(model).is_dir()


def _table(study: Study, role: Role) -> str:
    """The part of a study that names a repository."""
    if role == "model":
        return "student" if study.student else "teacher"
    return "task" if role == "dataset" else "teacher"


def snapshot(run: Run, role: Role) -> Snapshot:
    """The snapshot that the run is made from: the one noted for the id and revision that the study gives, if any."""
    return _noted(run, role) or _seen(_KINDS[role], *asked(run.study)[role])[0]


def commit(run: Run, role: Role) -> str | None:
    """The commit that a model or the data set is from; None for files."""
    return snapshot(run, role).commit if role in asked(run.study) else None


def commits(run: Run) -> dict[str, str]:
    """The commits of models and data set, by `teacher`, `student` and `task`, as far as they are of the hub."""
    return {_table(run.study, role): snapshot(run, role).commit for role in asked(run.study)}


def keep(run: Run) -> None:
    """Note the snapshots that a run is made from, and say where the hub has newer ones."""
    wanted = asked(run.study)
    known = {
        role: {"id": found.name, "revision": wanted[role][1], "commit": found.commit}
        for role, found in looked_at(run).items()
    }
    if known and known != _notes(run):
        write_json(run.snapshots, known)


def looked_at(run: Run) -> dict[Role, Snapshot]:
    """Return the snapshots that a run is, or would be, made from, and say which of them the hub has newer ones of."""
    return {role: _look_at(run, role) for role in asked(run.study)}


def check_hub_data(task: Task, found: Snapshot) -> None:
    """Raise `DataError` if a data set lacks the configuration or a split of a task; no rows are downloaded."""
    with busy(f"Looking at {found}"):
        known = splits(found, task.config)
    splits_of_it = (name for name in task.unlabelled if name not in task.unlabelled_files)
    for source in (*chain.from_iterable(task.sets.values()), *splits_of_it):
        for name in names_in(source):
            check_split(found, known, name)


def hub_model(run: Run, weights: bool, role: Role = "model") -> Path:
    """The folder of a hub model's files, downloaded where they are not there; the weights only if asked for."""
    found = snapshot(run, role)
    with busy(f"Downloading {found}"):
        return model_folder(found, weights)


def forget() -> None:
    """Ask the hub anew, as another process would."""
    _seen.cache_clear()
    _say_newer.cache_clear()


def said_of_ids(work: Callable[Concatenate[Run, P], T]) -> Callable[Concatenate[Run, P], T]:
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
    """The snapshots of a run that can be found."""
    for role in asked(run.study):
        with suppress(NasError):
            yield snapshot(run, role)


def _noted(run: Run, role: Role) -> Snapshot | None:
    name, revision = asked(run.study)[role]
    note = _notes(run).get(role)
    if not note or (note["id"], note["revision"]) != (name, revision) or not run.is_finished("data"):
        return None  # before there are data nothing is lost by taking what is there now
    return Snapshot(_KINDS[role], name, note["commit"])


def _look_at(run: Run, role: Role) -> Snapshot:
    """Return a run's snapshot, and say if its branch or tag has moved."""
    name, revision = asked(run.study)[role]
    noted = _noted(run, role)
    if noted:
        _say_newer(noted, revision, _table(run.study, role))
        return noted
    return _seen(_KINDS[role], name, revision)[0]


@lru_cache(maxsize=8)
def _seen(kind: Kind, name: str, revision: str | None) -> tuple[Snapshot, str]:
    """Resolve a revision once per process, so that it means one commit throughout; say if the hub was out of reach."""
    found, doubt = find(kind, name, revision)
    if doubt:
        say(f"{name}: {doubt}; {found.commit[:7]} is used, the last commit that was seen")
    return found, doubt


@lru_cache(maxsize=8)
def _say_newer(noted: Snapshot, revision: str | None, table: str) -> None:
    """Say, once a process, that a branch or tag is at another commit than the run's."""
    if revision and is_commit(revision):
        return
    stays = f"this run stays at commit {noted.commit[:7]}, which it was begun with"
    try:
        now, doubt = latest(noted.kind, noted.name, revision)
    except NasError as problem:
        say(f"{problem}; {stays}")
        return
    if doubt:
        say(f"{noted.name}: {doubt}; {stays}")
    elif now and now != noted.commit:
        newer = f'for the newer one set {table}.revision = "{now}"'
        say(f"{noted.name}: {revision or 'main'} is at {now[:7]} now; {stays} ({newer})")
