"""Detects, by file locks or by counters in a database, which drivers of a search are alive."""

from __future__ import annotations

import fcntl
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from sqlalchemy.exc import SQLAlchemyError

DRIVER = "driver"
_HEARTBEAT_INTERVAL_S = 5.0
_HEARTBEAT_TIMEOUT_S = 30.0


class Drivers(Protocol):
    """Keeps track of which drivers (processes that run a search) are alive."""

    def join(self, driver: str) -> None:
        """Register this process, with the id `driver`, as alive until it leaves or dies. Repeated calls do nothing."""

    def is_alive(self, driver: str) -> bool: ...

    def leave(self) -> None:
        """Declare that the driver in this process has ended."""


class LockFiles:
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


class Heartbeats:
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
        self._storage.set_study_user_attr(self._study_id, f"{DRIVER} {driver}", count)

    def is_alive(self, driver: str) -> bool:
        now = time.monotonic()
        if driver not in self._last_counts or now - self._last_read > min(1.0, _HEARTBEAT_INTERVAL_S):
            self._last_read = now
            for key, count in self._storage.get_study_user_attrs(self._study_id).items():
                name = key.removeprefix(f"{DRIVER} ")
                if name != key and self._last_counts.get(name, (None,))[0] != count:
                    self._last_counts[name] = count, now
        count, since = self._last_counts.get(driver, (-1, now))
        return count >= 0 and now - since < _HEARTBEAT_TIMEOUT_S

    def leave(self) -> None:
        if self._thread is not None:
            self._stopped.set()
            self._thread.join()
            self._stopped, self._thread = threading.Event(), None
