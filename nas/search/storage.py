"""Persistent storage of a search's trials, in a journal file or in a database with a given URL.

A driver is a process that runs the search. `Trials` (`sampler.py`) keeps in a `Storage` everything that must survive if
a driver is killed. Several drivers may share a storage. Each driver sees the trials that the other drivers start and
finish, and detects the trials that a dead driver left unfinished.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import BaseJournalBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from nas.errors import SearchError

optuna.logging.set_verbosity(optuna.logging.WARNING)

_DRIVER = "driver"
_SYNC_INTERVAL_S = 1.0
_HEARTBEAT_INTERVAL_S = 5.0
_HEARTBEAT_TIMEOUT_S = 30.0
_TRIES, _RETRY_DELAY_S = 5, 0.2


class Storage:
    """The stored trials of one search, shared by all drivers (processes that run the search).

    Methods raise `SearchError` if the database fails or the journal file is damaged.
    """

    def __init__(self, where: Path | str, name: str, inputs: str, values: Sequence[str]) -> None:
        """Open the journal file (a path) or the database (a URL) at `where`, and create it if it does not exist.

        `name` is the name of the study. `inputs` is a digest of everything that the results of the search depend on. A
        database may hold several searches, each with a different pair of `name` and `inputs`. A journal file holds only
        one search. `values` lists the names of a trial's values: the first value is maximised, and all others are
        minimised.
        """
        self._where = where
        with _translated_errors(self._where), warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._journal = Journal(where) if isinstance(where, Path) else None
            self._storage = JournalStorage(self._journal) if self._journal else _connect(str(where))
            stored = self._storage.get_all_studies() if isinstance(where, Path) else []
            study = optuna.create_study(
                storage=self._storage,
                study_name=stored[0].study_name if stored else f"{name}-{inputs}",
                directions=[StudyDirection.MAXIMIZE, *[StudyDirection.MINIMIZE] * (len(values) - 1)],
                load_if_exists=True,
            )
            self._name = study.study_name
            self._study_id = self._storage.get_study_id_from_name(self._name)
            self.record_dependency("inputs", inputs)
            if not study.metric_names:
                study.set_metric_names(list(values))
        file = _file_path(where)
        self._drivers: _Drivers = (
            _LockFiles(file.with_name(f"{file.name}.drivers")) if file else _Heartbeats(self._storage, self._study_id)
        )
        self._driver_id = uuid.uuid4().hex[:12]
        self._unfinished: dict[int, FrozenTrial] = {}
        self.count = 0
        """The number of different trials that `changes` has returned so far."""

    def record_dependency(self, name: str, digest: str) -> None:
        """Record the digest of an input on which results depend, such as the supernet's weights.

        Raises `SearchError` if a different digest was recorded under the same `name` before.
        """
        with _translated_errors(self._where):
            if name not in self._storage.get_study_user_attrs(self._study_id):
                self._storage.set_study_user_attr(self._study_id, name, digest)
            recorded = self._storage.get_study_user_attrs(self._study_id)[name]  # another driver may have been first
        if recorded != digest:
            remedy = (
                "remove this file"
                if isinstance(self._where, Path)
                else f"run `optuna delete-study --study-name {self._name}`"
            )
            raise SearchError(
                f"{_printable(self._where)}: the search was started with different {name} (digest {recorded}, "
                f"now {digest}); restore the original ones, or {remedy} to start a new search"
            )

    def changes(self) -> list[FrozenTrial]:
        """Return the trials that any driver has started or finished since the last call.

        Running trials that have not changed may be returned again.
        """
        with _translated_errors(self._where):
            trials = self._changes_in_journal(self._journal) if self._journal else self._changes_in_database()
        for trial in trials:
            if trial.state.is_finished():
                self._unfinished.pop(trial.number, None)
            else:
                self._unfinished[trial.number] = trial
        return trials

    def _changes_in_database(self) -> list[FrozenTrial]:
        trials = self._storage.get_all_trials(self._study_id, deepcopy=False)
        known_count, self.count = self.count, len(trials)
        return [*(trials[number] for number in self._unfinished), *trials[known_count:]]

    def _changes_in_journal(self, journal: Journal) -> list[FrozenTrial]:
        """Return the trials affected by new lines of the journal. Listing all trials each time would take too long."""
        self._storage.get_study_id_from_name(self._name)  # reads the new lines, and raises an error if one is invalid
        new_ids = list[int]()
        with suppress(KeyError):  # there are no more trials
            while True:
                new_ids.append(self._storage.get_trial_id_from_study_id_trial_number(self._study_id, self.count))
                self.count += 1
        changed_ids, journal.written = journal.written, set()
        older_ids = [trial._trial_id for trial in self._unfinished.values() if trial._trial_id in changed_ids]
        return [self._storage.get_trial(trial) for trial in (*older_ids, *new_ids)]

    def abandoned(self) -> list[FrozenTrial]:
        """Return the trials that are stored as running although their driver is dead."""
        running = [trial for trial in self._unfinished.values() if trial.state == TrialState.RUNNING]
        drivers = {trial.user_attrs.get(_DRIVER, "") for trial in running} - {self._driver_id}
        with _translated_errors(self._where):
            dead = {driver for driver in drivers if not self._drivers.is_alive(driver)}
        return [trial for trial in running if trial.user_attrs.get(_DRIVER, "") in dead]

    def add(self, trial: FrozenTrial) -> int:
        """Store a trial in one write, and return its number. An unfinished trial is assigned to this driver."""
        if not trial.state.is_finished():
            trial.set_user_attr(_DRIVER, self._driver_id)
        with _translated_errors(self._where):
            self._drivers.join(self._driver_id)
            return self._storage.get_trial_number_from_id(self._storage.create_new_trial(self._study_id, trial))

    def finish(self, number: int, values: Sequence[float], trial: FrozenTrial) -> None:
        """Finish the running trial `number`: first store the attributes of `trial`, and then store `values`.

        Does nothing if another driver has already finished the trial or given it up.
        """
        self._set_finished(number, TrialState.COMPLETE, trial.user_attrs, trial.system_attrs, values)

    def give_up(self, number: int, **attributes: str) -> None:
        """Mark the running trial `number` as failed, and store `attributes` with it."""
        self._set_finished(number, TrialState.FAIL, attributes, {}, None)

    def _set_finished(
        self,
        number: int,
        state: TrialState,
        user_attrs: Mapping[str, Any],
        system_attrs: Mapping[str, Any],
        values: Sequence[float] | None,
    ) -> None:
        with _translated_errors(self._where), suppress(UpdateFinishedTrialError):
            trial = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
            for key, value in user_attrs.items():
                self._storage.set_trial_user_attr(trial, key, value)
            for key, value in system_attrs.items():
                self._storage.set_trial_system_attr(trial, key, value)
            self._storage.set_trial_state_values(trial, state, values)

    def leave(self) -> None:
        """Announce that this driver has ended, so that other drivers can take over its running trials at once."""
        self._drivers.leave()
        if isinstance(self._where, Path):
            with self._where.open() as journal:
                os.fsync(journal)


@contextmanager
def _translated_errors(where: Path | str) -> Iterator[None]:
    """Convert errors of a database, or of its Python package, into a `SearchError`.

    The message is a single line without passwords.
    """
    try:
        yield
    except ImportError as problem:
        package = getattr(problem.__cause__, "name", None) or problem.name
        extra = {"psycopg": "postgresql", "pymysql": "mysql"}.get(package or "")
        remedy = f"pip install 'compact-bert-nas[{extra}]'" if extra else "install it"
        raise SearchError(
            f"search.storage: {_printable(where)} needs the package {package}, which is not installed; {remedy}"
        ) from None
    except (SQLAlchemyError, StorageInternalError) as problem:
        reason = problem if isinstance(problem, SQLAlchemyError) else problem.__cause__
        message = str(getattr(reason, "orig", None) or reason).strip().partition("\n")[0]
        raise SearchError(
            f"search.storage: {_printable(where)} cannot be used: {_without_password(message, where)}; correct the "
            "URL, or make sure that the server is running"
        ) from None


def check_database(url: str) -> None:
    """Raise `SearchError` if the Python package for a database is missing, or if the database cannot be opened."""
    file = _file_path(url)
    if file and not file.exists() and os.access(file.parent, os.W_OK):
        return  # connecting would create the file
    with _translated_errors(url):
        engine = sqlalchemy.create_engine(url)
        engine.connect().close()
        engine.dispose()


def database(url: str, folder: Path) -> str:
    """Return `url`, with the path of an SQLite file resolved relative to `folder`.

    URLs of other databases are returned unchanged.
    """
    parts = sqlalchemy.make_url(url)
    if parts.get_backend_name() != "sqlite":
        return url
    return parts.set(database=str(folder / (parts.database or ""))).render_as_string(hide_password=False)


def _open_database(url: str) -> RDBStorage:
    """Connect to a database, and create Optuna's tables if there are none.

    If several drivers start at once, creating a table may fail in all but one of them. The other drivers try again.
    """
    for _ in range(_TRIES):
        try:
            return RDBStorage(url)
        except (IntegrityError, OperationalError, ProgrammingError) as problem:
            if not isinstance(problem, IntegrityError) and "already exists" not in str(problem.orig):
                raise
            time.sleep(_RETRY_DELAY_S)
    return RDBStorage(url)


def _connect(url: str) -> BaseStorage:
    try:
        return get_storage(_open_database(url))
    except RuntimeError:
        raise SearchError(
            f"search.storage: {_printable(url)} was created by a different version of Optuna; name a different "
            "database, or upgrade this one with `optuna storage upgrade`"
        ) from None


def _file_path(where: Path | str) -> Path | None:
    """Return the path of the journal file or SQLite database; None for a database on a server."""
    if isinstance(where, Path):
        return where
    parts = sqlalchemy.make_url(where)
    return Path(parts.database or "") if parts.get_backend_name() == "sqlite" else None


def _printable(where: Path | str) -> str:
    """Return the location of a storage for messages: a path, or a URL without user, password and options."""
    if isinstance(where, Path):
        return str(where)
    parts = sqlalchemy.make_url(where)
    return sqlalchemy.URL.create(
        parts.drivername, host=parts.host, port=parts.port, database=parts.database
    ).render_as_string()


def _without_password(text: str, where: Path | str) -> str:
    parts = None if isinstance(where, Path) else sqlalchemy.make_url(where)
    secrets = [parts.password, *(value for key, value in parts.query.items() if "pass" in key)] if parts else []
    for secret in filter(None, secrets):
        text = text.replace(str(secret), "***")
    return text


class Journal(BaseJournalBackend):
    """A file with one line per operation, in the format of Optuna's `JournalFileBackend`.

    A process locks the file while it writes. If the process is killed, the operating system releases the lock, and the
    next process that writes removes an incomplete last line. Complete lines are not lost if a process is killed. The
    file is synced to disk at most once a second, because a sync may take as long as all other work that a driver does
    for a trial.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b", buffering=0)
        self._position = 0, 0  # number of complete lines read, and the offset of the next line
        self._last_sync = time.monotonic()
        self.written = set[int]()
        """The ids of the trials in the lines that were read since `Storage` last emptied this set."""

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        number, offset = self._position if self._position[0] == log_number_from else (0, 0)
        for line in self._content_from(offset).splitlines(keepends=True):
            if not line.endswith(b"\n"):
                return
            number, offset = number + 1, offset + len(line)
            self._position = number, offset
            if number > log_number_from:
                try:
                    log = json.loads(line)
                except ValueError:  # also for bytes that are not text, which a crash of the machine may leave
                    log = None
                if not (isinstance(log, dict) and {"op_code", "worker_id"} <= log.keys()):
                    raise SearchError(
                        f"{self._file.name}: line {number} is not an entry of Optuna's journal; "
                        "remove the file to start a new search"
                    )
                if "trial_id" in log:
                    self.written.add(log["trial_id"])
                yield log

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            tail = self._content_from(self._position[1])
            if tail and not tail.endswith(b"\n"):
                self._file.truncate(self._position[1] + tail.rfind(b"\n") + 1)
            while lines:
                lines = lines[self._file.write(lines) :]
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        if time.monotonic() - self._last_sync > _SYNC_INTERVAL_S:
            os.fsync(self._file)
            self._last_sync = time.monotonic()

    def _content_from(self, offset: int) -> bytes:
        size = os.fstat(self._file.fileno()).st_size
        return os.pread(self._file.fileno(), size - offset, offset) if size > offset else b""


class _Drivers(Protocol):
    """Keeps track of which drivers (processes that run a search) are alive."""

    def join(self, driver: str) -> None:
        """Register this process, with the id `driver`, as alive until it leaves or dies. Repeated calls do nothing."""

    def is_alive(self, driver: str) -> bool: ...

    def leave(self) -> None:
        """Declare that the driver in this process has ended."""


class _LockFiles:
    """Detects live drivers by file locks.

    The operating system releases the lock of a driver when the driver dies.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock: IO[str] | None = None

    def join(self, driver: str) -> None:
        if self._lock is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self._folder / driver).open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    def is_alive(self, driver: str) -> bool:
        lock_file = self._folder / (driver or "unmarked")
        try:
            with lock_file.open() as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        lock_file.unlink(missing_ok=True)
        return False

    def leave(self) -> None:
        if self._lock is not None:
            Path(self._lock.name).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None


class _Heartbeats:
    """Detects live drivers by counters in the database.

    Each driver increments its counter every 5 s. A driver is presumed dead after 30 s without an increment. The clocks
    of different machines are never compared. Optuna's own heartbeat is not used, because it belongs to trials instead
    of drivers. If a driver died before the first heartbeat of a trial, the trial would be stored as running for ever.
    """

    def __init__(self, storage: BaseStorage, study_id: int) -> None:
        self._storage, self._study_id = storage, study_id
        self._last_counts: dict[str, tuple[int, float]] = {}
        self._last_read = 0.0
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def join(self, driver: str) -> None:
        if self._thread is None:
            self._beat(driver, 0)
            self._thread = threading.Thread(target=self._keep_beating, args=(driver,), daemon=True)
            self._thread.start()

    def _keep_beating(self, driver: str) -> None:
        count = 0
        while not self._stopped.wait(_HEARTBEAT_INTERVAL_S):
            count += 1
            with suppress(SQLAlchemyError, StorageInternalError):  # the next attempt may succeed
                self._beat(driver, count)
        with suppress(SQLAlchemyError, StorageInternalError):
            self._beat(driver, -1)

    def _beat(self, driver: str, count: int) -> None:
        self._storage.set_study_user_attr(self._study_id, f"{_DRIVER} {driver}", count)

    def is_alive(self, driver: str) -> bool:
        now = time.monotonic()
        if driver not in self._last_counts or now - self._last_read > min(1.0, _HEARTBEAT_INTERVAL_S):
            self._last_read = now
            for key, count in self._storage.get_study_user_attrs(self._study_id).items():
                name = key.removeprefix(f"{_DRIVER} ")
                if name != key and self._last_counts.get(name, (None,))[0] != count:
                    self._last_counts[name] = count, now
        count, since = self._last_counts.get(driver, (-1, now))
        return count >= 0 and now - since < _HEARTBEAT_TIMEOUT_S

    def leave(self) -> None:
        if self._thread is not None:
            self._stopped.set()
            self._thread.join()
            self._stopped, self._thread = threading.Event(), None
