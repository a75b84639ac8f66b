"""What the machine refuses (space, permission, open files, memory) as one line: where, what, and what to do about it.

Libraries report it in many forms: `OSError` with or without a path, exceptions of their own that quote the system, and
wrappers around either.
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

_AGAIN = "then give the same command again"
_NO_SPACE = f"free some, or use another place, {_AGAIN}"
_NO_PERMISSION = f"change its owner or permissions, or use another place, {_AGAIN}"
_LIMITS = {
    errno.ENOSPC: ("no space is left on the disk", _NO_SPACE),
    errno.EDQUOT: ("the disk quota is used up", _NO_SPACE),
    errno.EFBIG: ("a file may not become as large as needed (ulimit -f)", f"raise the limit, {_AGAIN}"),
    errno.EACCES: ("no permission", _NO_PERMISSION),
    errno.EPERM: ("no permission", _NO_PERMISSION),
    errno.EROFS: ("the file system is read-only", f"use another place, {_AGAIN}"),
    errno.EMFILE: ("too many files are open (ulimit -n)", f"raise the limit, {_AGAIN}"),
    errno.ENFILE: ("too many files are open on this machine", f"close other programs, {_AGAIN}"),
    errno.ENOMEM: ("the memory is used up", f"close other programs, or lower batch sizes and workers, {_AGAIN}"),
    errno.EIO: ("the disk failed", f"check it, or use another place, {_AGAIN}"),
    errno.ENAMETOOLONG: ("the name is too long", "give a shorter one"),
}
_OF_NO_PLACE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Limits that have nothing to do with the file or folder that is worked on."""
_OTHER_REMEDIES = {
    errno.ENOENT: "correct the path",
    errno.ENOTDIR: "a file is where a folder is needed: move it away, or use another place",
    errno.EEXIST: "a file is where a folder is needed: move it away, or use another place",
    errno.EISDIR: "a folder is where a file is needed: move it away, or use another place",
}
_QUOTED = re.compile(r"(?:os error|errno) (\d+)", re.IGNORECASE)
_IN_WORDS = {
    "can't allocate memory": errno.ENOMEM,
    "out of memory": errno.ENOMEM,
    "database or disk is full": errno.ENOSPC,
    "no usable temporary directory": errno.EACCES,
    **{
        os.strerror(number).lower(): number
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENOMEM)
    },
}
_OF_FILES = ("(os error", "local file")
"""How libraries quote the system about a file. Without a path, a missing permission may be that of a connection."""
_CACHES = ("HF_DATASETS_CACHE", "HF_HUB_CACHE", "HF_MODULES_CACHE", "HF_HOME", "XDG_CACHE_HOME", "RAY_TMPDIR", "TMPDIR")
"""Variables that say where libraries write besides a run."""


def limit_behind(problem: BaseException, path: Path | str | None = None) -> MachineError | None:
    """The limit of the machine that an exception rests on; None if it rests on none.

    `path` is what was written or read, for exceptions that do not say it. A `NasError` that was raised while another
    exception was handled rests on that one: whoever raised it took a limit of the machine for a wrong input.
    """
    if isinstance(problem, MachineError):
        return problem
    if isinstance(problem, NasError):
        return limit_behind(problem.__context__) if problem.__context__ else None
    seen: BaseException | None = problem
    while seen is not None:
        if isinstance(seen, NasError):
            return limit_behind(seen)
        if number := _number_of(seen):
            what, remedy = _LIMITS[number]
            where = getattr(seen, "filename", None) or (path if number not in _OF_NO_PLACE else None)
            if "temporary directory" in str(seen):
                return MachineError(f"{seen.args[-1]}: set TMPDIR to a folder that can be written")
            return MachineError(f"{f'{_text(where)}: ' if where else ''}{what}; {_cache_remedy(where, path) or remedy}")
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return None


def _number_of(problem: BaseException) -> int | None:
    """The system's number of a limit."""
    if isinstance(problem, MemoryError):
        return errno.ENOMEM
    said = str(problem)[:2000]
    quoted = _QUOTED.search(said)
    own = problem.errno if isinstance(problem, OSError) and not isinstance(problem, ssl.SSLError) else None
    number = own or (int(quoted[1]) if quoted else None)
    if number not in _LIMITS:
        return next((number for words, number in _IN_WORDS.items() if words in said.lower()), None)
    of_file = getattr(problem, "filename", None) or any(words in said for words in _OF_FILES)
    return number if of_file or number not in (errno.EACCES, errno.EPERM) else None


def _text(where: object) -> str:
    return os.fsdecode(where) if isinstance(where, bytes | os.PathLike | str) else str(where)


def _cache_remedy(where: object, worked_on: Path | str | None) -> str | None:
    """The variable that moves a library's cache elsewhere, if a path lies in one and not in what is worked on."""
    text = _text(where)
    if worked_on and Path(text).is_relative_to(worked_on):
        return None
    for name in _CACHES:
        if (folder := os.environ.get(name)) and Path(text).is_relative_to(folder):
            return f"set {name} to a folder that can be written and has space, {_AGAIN}"
    if "/.cache/huggingface" in text:
        return f"set HF_HOME to a folder that can be written and has space, {_AGAIN}"
    return None


@contextmanager
def working_on(path: Path) -> Iterator[None]:
    """Have the block's exceptions that rest on a limit of the machine say so, and that it was met at `path`."""
    try:
        yield
    except Exception as problem:
        limit = limit_behind(problem, path)
        if limit is None or limit is problem:
            raise
        raise limit from None


def refusal(problem: Exception) -> str | None:
    """The line for a user's mistake or for an exception that the system caused; None for any other one."""
    if limit := limit_behind(problem):
        return str(limit)
    if isinstance(problem, NasError):
        return str(problem)
    if not isinstance(problem, OSError):
        return None
    where = f"{_text(problem.filename)}: " if problem.filename else ""
    remedy = _OTHER_REMEDIES.get(problem.errno or 0, "give the same command again")
    return f"{where}{problem.strerror or problem}; {remedy}"
