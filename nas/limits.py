"""One-line error messages for limits of the machine: disk space, permissions, open files, memory and similar limits.

Libraries report such limits in many forms: as `OSError` with or without a path, as their own exceptions that quote the
system's message, or as exceptions that wrap one of these. `machine_limit_of` recognises all of these forms.
`working_on` converts such an exception to a `MachineError`. The command line prints the message that `error_line`
returns.
"""

from __future__ import annotations

import errno
import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nas.errors import MachineError, NasError

_RUN_AGAIN = "then run the same command again"
_NO_SPACE = f"free some space or use another folder, {_RUN_AGAIN}"
_NO_PERMISSION = f"change its owner or permissions or use another folder, {_RUN_AGAIN}"
_LIMITS = {
    errno.ENOSPC: ("no free space on the disk", _NO_SPACE),
    errno.EDQUOT: ("the disk quota is exhausted", _NO_SPACE),
    errno.EFBIG: ("a file would exceed the allowed file size (ulimit -f)", f"raise the limit, {_RUN_AGAIN}"),
    errno.EACCES: ("permission denied", _NO_PERMISSION),
    errno.EPERM: ("permission denied", _NO_PERMISSION),
    errno.EROFS: ("the file system is read-only", f"use another folder, {_RUN_AGAIN}"),
    errno.EMFILE: ("too many files are open (ulimit -n)", f"raise the limit, {_RUN_AGAIN}"),
    errno.ENFILE: ("too many files are open on this machine", f"close other programs, {_RUN_AGAIN}"),
    errno.ENOMEM: (
        "the memory is exhausted",
        f"close other programs or reduce batch sizes and the number of workers, {_RUN_AGAIN}",
    ),
    errno.EIO: ("the disk reported a read or write error", f"check the disk or use another folder, {_RUN_AGAIN}"),
    errno.ENAMETOOLONG: ("the name is too long", "use a shorter one"),
}
_LIMITS_WITHOUT_PATH = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Limits that do not depend on a file or folder. Their messages do not include the `path` given to `machine_limit_of`.
"""
_OTHER_REMEDIES = {
    errno.ENOENT: "correct the path",
    errno.ENOTDIR: "a folder is needed here, but a file exists: move the file away or use another folder",
    errno.EEXIST: "a folder is needed here, but a file exists: move the file away or use another folder",
    errno.EISDIR: "a file is needed here, but a folder exists: move the folder away or use another name",
}
_QUOTED_NUMBER = re.compile(r"(?:os error|errno) (\d+)", re.IGNORECASE)
_NUMBER_OF_WORDS = {
    "can't allocate memory": errno.ENOMEM,
    "out of memory": errno.ENOMEM,
    "database or disk is full": errno.ENOSPC,
    "no usable temporary directory": errno.EACCES,
    **{
        os.strerror(number).lower(): number
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENOMEM)
    },
}
_FILE_PHRASES = ("(os error", "local file")
"""Phrases that show that a library's message is about a file. If a message lacks them and the exception names no path,
"permission denied" may be about a network connection.
"""
_CACHE_VARIABLES = (
    "HF_DATASETS_CACHE",
    "HF_HUB_CACHE",
    "HF_MODULES_CACHE",
    "HF_HOME",
    "XDG_CACHE_HOME",
    "RAY_TMPDIR",
    "TMPDIR",
)
"""Environment variables that set the cache folders and temporary folders of libraries."""


def machine_limit_of(problem: BaseException, path: Path | str | None = None) -> MachineError | None:
    """Return a `MachineError` for the limit of the machine that caused an exception, or None if no limit caused it.

    `path` is the file or folder that was being read or written. The error names it if the exception itself names no
    file or folder. If `problem` is a `NasError` that was raised while another exception was being handled, the other
    exception is examined, because the code may have mistaken a limit of the machine for invalid input.
    """
    if isinstance(problem, MachineError):
        return problem
    if isinstance(problem, NasError):
        return machine_limit_of(problem.__context__) if problem.__context__ else None
    cause: BaseException | None = problem
    while cause is not None:
        if isinstance(cause, NasError):
            return machine_limit_of(cause)
        if number := _limit_number(cause):
            description, remedy = _LIMITS[number]
            location = getattr(cause, "filename", None) or (path if number not in _LIMITS_WITHOUT_PATH else None)
            if "temporary directory" in str(cause):
                return MachineError(f"{cause.args[-1]}: set TMPDIR to a writable folder")
            start = f"{_path_text(location)}: " if location else ""
            return MachineError(f"{start}{description}; {_cache_remedy(location, path) or remedy}")
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return None


def _limit_number(problem: BaseException) -> int | None:
    """Return the `errno` of the machine's limit that an exception reports, or None if it reports no limit."""
    if isinstance(problem, MemoryError):
        return errno.ENOMEM
    message = str(problem)[:2000]
    quoted = _QUOTED_NUMBER.search(message)
    own_number = problem.errno if isinstance(problem, OSError) and not isinstance(problem, ssl.SSLError) else None
    number = own_number or (int(quoted[1]) if quoted else None)
    if number not in _LIMITS:
        return next((number for words, number in _NUMBER_OF_WORDS.items() if words in message.lower()), None)
    of_file = getattr(problem, "filename", None) or any(words in message for words in _FILE_PHRASES)
    return number if of_file or number not in (errno.EACCES, errno.EPERM) else None


def _path_text(location: object) -> str:
    return os.fsdecode(location) if isinstance(location, bytes | os.PathLike | str) else str(location)


def _cache_remedy(location: object, worked_on: Path | str | None) -> str | None:
    """Return advice to move a library's cache, or None if `location` is not in a cache or is inside `worked_on`."""
    text = _path_text(location)
    if worked_on and Path(text).is_relative_to(worked_on):
        return None
    for name in _CACHE_VARIABLES:
        if (folder := os.environ.get(name)) and Path(text).is_relative_to(folder):
            return f"set {name} to a writable folder with free space, {_RUN_AGAIN}"
    if "/.cache/huggingface" in text:
        return f"set HF_HOME to a writable folder with free space, {_RUN_AGAIN}"
    return None


@contextmanager
def working_on(path: Path) -> Iterator[None]:
    """Raise a `MachineError` if a limit of the machine causes an exception in the `with` block.

    The error names `path` if the exception names no file or folder.
    """
    try:
        yield
    except Exception as problem:
        limit = machine_limit_of(problem, path)
        if limit is None or limit is problem:
            raise
        raise limit from None


def error_line(problem: Exception) -> str | None:
    """Return the message to print for a user's mistake or a system error, or None for any other exception."""
    if limit := machine_limit_of(problem):
        return str(limit)
    if isinstance(problem, NasError):
        return str(problem)
    if not isinstance(problem, OSError):
        return None
    location = f"{_path_text(problem.filename)}: " if problem.filename else ""
    remedy = _OTHER_REMEDIES.get(problem.errno or 0, "run the same command again")
    return f"{location}{problem.strerror or problem}; {remedy}"
