"""Python programs in processes of their own that need not import PyTorch and transformers again.

Those imports take most of the time of a program on a tiny study. So the process of the tests is forked once, after its
imports and before it computes anything (`start`), and the copy forks itself for each program. A program has its own
arguments, environment, streams and `__main__`; it can be killed, and it ends with an exit code, as if an interpreter
had been started for it. What depends on the start of an interpreter, such as environment variables that libraries read
while they are imported, is not seen this way and needs `subprocess`.
"""

from __future__ import annotations

import array
import atexit
import importlib
import json
import os
import runpy
import socket
import subprocess
import sys
import threading
import traceback
import types
import warnings
from pathlib import Path
from typing import Any, NoReturn

_PRELOADED = ("nas.cli", "nas.pipeline", "nas.search")
_LARGEST_REQUEST = 1 << 16
_template: list[socket.socket] = []
"""The connection to the copy that forks itself, once there is one."""


def start() -> None:
    """Fork the copy that programs are forked from."""
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nothing, stream)
        kept = os.dup2(other.fileno(), 3)
        os.closerange(4, 4096)  # what the tests' process is connected to must not stay open when it ends
        try:
            _serve(socket.socket(fileno=kept))
        finally:
            os._exit(1)
    other.close()
    _template.append(own)


class Program:
    """What `python ARGUMENTS` would be: `-c CODE`, `-m MODULE` or a path, and what the program is given."""

    def __init__(self, *arguments: str | os.PathLike[str]) -> None:
        self._streams = [os.fdopen(os.memfd_create(name), "w+") for name in ("output", "error")]
        ended, status = os.pipe()
        self._status = os.fdopen(ended)
        asked = {
            "arguments": list(map(os.fspath, arguments)),
            "environment": dict(os.environ),
            "folder": str(Path.cwd()),
        }
        descriptors = array.array("i", [*(stream.fileno() for stream in self._streams), status])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
        _template[0].sendmsg([json.dumps(asked).encode()], rights)
        os.close(status)
        self.pid = int(self._status.readline())
        self.returncode: int | None = None
        self._waiting = threading.Thread(target=self._wait, daemon=True)
        self._waiting.start()

    def _wait(self) -> None:
        self.returncode = int(self._status.readline())
        self._status.close()

    def kill(self) -> None:
        os.kill(self.pid, 9)

    def poll(self) -> int | None:
        return self.returncode

    def communicate(self, timeout: float = 280.0) -> tuple[str, str]:
        """Wait for the end; returns standard output and standard error."""
        self._waiting.join(timeout)
        if self.returncode is None:
            self.kill()
            raise TimeoutError(f"process {self.pid} did not end within {timeout:.0f} s")
        texts = []
        for stream in self._streams:
            stream.seek(0)
            texts.append(stream.read())
        return texts[0], texts[1]


def run(*arguments: str | os.PathLike[str]) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    program = Program(*arguments)
    output, error = program.communicate()
    assert program.returncode is not None
    return subprocess.CompletedProcess(arguments, program.returncode, output, error)


def _serve(connection: socket.socket) -> None:
    """Fork for each request until nobody is left who could ask."""
    while True:
        text, rights, *_ = connection.recvmsg(_LARGEST_REQUEST, socket.CMSG_SPACE(3 * 4))
        if not text:
            os._exit(0)
        for module in _PRELOADED:
            importlib.import_module(module)
        output, error, status = array.array("i", rights[0][2])
        if os.fork() == 0:
            connection.close()
            _supervise(json.loads(text), (output, error), status)
        for descriptor in (output, error, status):
            os.close(descriptor)
        while _reaped():
            pass


def _reaped() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _supervise(asked: dict[str, Any], streams: tuple[int, int], status: int) -> NoReturn:
    """Run the program in a process, and tell its number and how it ended."""
    program = os.fork()
    if program == 0:
        os.close(status)
        _become(asked, streams)
    for stream in streams:
        os.close(stream)
    os.write(status, f"{program}\n".encode())
    _, ended = os.waitpid(program, 0)
    os.write(status, f"{os.waitstatus_to_exitcode(ended)}\n".encode())
    os._exit(0)


def _become(asked: dict[str, Any], streams: tuple[int, int]) -> NoReturn:
    """Be the program, to its end."""
    for number, stream in enumerate(streams, start=1):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    warnings.resetwarnings()
    warnings.simplefilter("ignore", DeprecationWarning)
    code = 0
    try:
        _execute(*asked["arguments"])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _execute(what: str, *given: str) -> None:
    if what == "-m":
        sys.argv = [*given]
        runpy.run_module(given[0], run_name="__main__", alter_sys=True)
        return
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    if what == "-c":
        code, *given = given  # type: ignore[assignment]
        sys.argv = ["-c", *given]
    else:
        code, sys.argv = Path(what).read_text(), [what, *given]
        main.__file__ = what
        sys.path.insert(0, str(Path(what).parent))
    exec(compile(code, what, "exec"), main.__dict__)
