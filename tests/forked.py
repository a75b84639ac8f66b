"""Python programs in processes of their own that need not import PyTorch and transformers again.

Those imports take most of the time of a program on a tiny study. So the process of the tests is forked once, after its
imports and before it computes anything (`start`), and the copy forks itself for each program. A program has its own
arguments, environment, streams and `__main__`; it can be killed, and it ends with an exit code, as if an interpreter
had been started for it. What depends on the start of an interpreter, such as environment variables that libraries read
while they are imported, is not seen this way and needs `subprocess`.

Workers of Ray clusters that the tests' process starts are such programs too (`lighten_ray`); those of a cluster
that is started by `ray start` are interpreters of their own.
"""

from __future__ import annotations

import array
import atexit
import importlib
import json
import os
import runpy
import select
import socket
import subprocess
import sys
import threading
import traceback
import types
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

_PRELOADED = ("nas.cli", "nas.pipeline", "nas.search")
"""Imported before the first program is forked. Ray is not: it reads its environment when it is imported."""
_LARGEST_REQUEST = 1 << 17
_ADDRESS = "NAS_TESTS_TEMPLATE"
"""The variable that holds the address at which the copy can be asked by processes that are not forked from it."""
_template: list[socket.socket] = []
"""The connection to the copy that forks itself, once there is one."""


def start() -> None:
    """Fork the copy that programs are forked from."""
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind("")  # the system chooses a name that is no file
    listener.listen()
    os.environ[_ADDRESS] = listener.getsockname()[1:].decode()
    if os.fork() == 0:
        kept = [os.dup(each.fileno()) for each in (other, listener)]
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nothing, stream)
        high = [os.dup2(number, 4090 + place) for place, number in enumerate(kept)]
        os.closerange(3, 4090)  # what the tests' process is connected to must not stay open when it ends
        try:
            _serve(*(socket.socket(fileno=os.dup2(number, 3 + place)) for place, number in enumerate(high)))
        finally:
            os._exit(1)
    other.close()
    listener.close()
    _template.append(own)


def lighten_ray() -> None:
    """Have the nodes of Ray that this process starts fork their workers, too, and leave out what the tests do not use.

    A worker of a search imports PyTorch and transformers, for eight seconds of a processor; dashboard, autoscaler and
    the reader of logs, each a process that imports Ray, take about as long together.
    """
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    made = RayParams.__init__

    def with_forked_workers(self: RayParams, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        self.setup_worker_path = str(Path(__file__).with_name("forked_worker.py"))
        self.include_log_monitor, self.no_monitor = False, True

    def no_dashboard(self: Node, **settings: Any) -> None:
        self._webui_url = ""

    RayParams.__init__, Node.start_api_server = with_forked_workers, no_dashboard  # type: ignore[method-assign]


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
        ask(_template[0], asked, [*(stream.fileno() for stream in self._streams), status])
        os.close(status)
        self.pid = int(self._status.readline())
        self.returncode: int | None = None
        self._waiting = threading.Thread(target=self._wait, daemon=True)
        self._waiting.start()

    def _wait(self) -> None:
        self.returncode = int(self._status.readline())
        self._status.close()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, 9)

    def poll(self) -> int | None:
        return self.returncode

    def wait(self) -> int | None:
        self._waiting.join()
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


def ask(template: socket.socket, asked: dict[str, Any], descriptors: list[int]) -> None:
    """Ask the copy for a program. `descriptors` are its output and its error, and where to write how it ended."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    template.sendmsg([json.dumps(asked).encode()], rights)


def _serve(connection: socket.socket, listener: socket.socket) -> None:
    """Fork for each request until the tests' process has ended."""
    while True:
        ready, _, _ = select.select([connection, listener], [], [])
        asking = listener.accept()[0] if connection not in ready else connection
        text, rights, *_ = asking.recvmsg(_LARGEST_REQUEST, socket.CMSG_SPACE(3 * 4))
        if asking is not connection:
            asking.close()
        elif not text:
            os._exit(0)
        if not text:
            continue
        for module in _PRELOADED:
            importlib.import_module(module)
        output, error, status = array.array("i", rights[0][2])
        if os.fork() == 0:
            connection.close()
            listener.close()
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
    for name in [name for name in sys.modules if name.partition(".")[0] == "psutil"]:
        del sys.modules[name]  # Ray's workers fail with one that was imported before the fork
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
