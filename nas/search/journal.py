"""The journal file of a search, which several processes may write."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from nas.errors import SearchError

_SYNC_INTERVAL_S = 1.0


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
                except ValueError:  # also raised if a crash of the machine left bytes that are not text
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
