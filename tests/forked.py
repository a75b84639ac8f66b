"""Runs Python programs in separate processes that do not have to import PyTorch and transformers again.

For a program on a tiny study, these imports take most of the time. Therefore `start` forks the test process once, after
its imports and before it computes anything. The forked process is the template, which forks itself for each program. A
program has its own arguments, environment, streams and `__main__`. It can be killed, and it ends with an exit code, as
if it ran in a new interpreter. To test what happens when an interpreter starts, use `subprocess`. For example,
libraries read some environment variables only when they are imported.

The workers of a Ray cluster that the test process starts are also forked from the template (`lighten_ray`). The workers
of a cluster that `ray start` starts are new interpreters.
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
"""Modules that the template imports. Ray is not among them, because it reads its environment on import."""
_LARGEST_REQUEST = 1 << 17
_ADDRESS = "NAS_TESTS_TEMPLATE"
"""The environment variable with the template's address, for processes that do not have a connection to it."""
_template: list[socket.socket] = []
"""The connection to the template, once it has been started."""


def start() -> None:
    """Fork the template."""
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind("")  # the system chooses an abstract address, which is not a file
    listener.listen()
    os.environ[_ADDRESS] = listener.getsockname()[1:].decode()
    if os.fork() == 0:
        sockets = [os.dup(each.fileno()) for each in (other, listener)]
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nothing, stream)
        high = [os.dup2(number, 4090 + place) for place, number in enumerate(sockets)]
        os.closerange(3, 4090)  # connections of the test process must close when it ends
        try:
            _serve(*(socket.socket(fileno=os.dup2(number, 3 + place)) for place, number in enumerate(high)))
        finally:
            os._exit(1)
    other.close()
    listener.close()
    _template.append(own)


def lighten_ray() -> None:
    """Make the Ray nodes that this process starts fork their workers from the template, and start fewer processes.

    A new worker of a search would import PyTorch and transformers, which takes eight seconds of processor time. The
    dashboard, the autoscaler and the log monitor, which the tests do not need, together take about as long: each is a
    process that imports Ray.
    """
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    original_init = RayParams.__init__

    def with_forked_workers(self: RayParams, *args: Any, **kwargs: Any) -> None:
        original_init(self, *args, **kwargs)
        self.setup_worker_path = str(Path(__file__).with_name("forked_worker.py"))
        self.include_log_monitor, self.no_monitor = False, True

    def no_dashboard(self: Node, **settings: Any) -> None:
        self._webui_url = ""

    RayParams.__init__, Node.start_api_server = with_forked_workers, no_dashboard  # type: ignore[method-assign]


class Program:
    """A running program, like `python ARGUMENTS`. The arguments start with `-c CODE`, `-m MODULE` or a path."""

    def __init__(self, *arguments: str | os.PathLike[str]) -> None:
        self._streams = [os.fdopen(os.memfd_create(name), "w+") for name in ("output", "error")]
        reading, status = os.pipe()
        self._status = os.fdopen(reading)
        request = {
            "arguments": list(map(os.fspath, arguments)),
            "environment": dict(os.environ),
            "folder": str(Path.cwd()),
        }
        send(_template[0], request, [*(stream.fileno() for stream in self._streams), status])
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
        """Wait until the program ends. Return its standard output and standard error."""
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
    """Run a program, and wait until it ends."""
    program = Program(*arguments)
    output, error = program.communicate()
    assert program.returncode is not None
    return subprocess.CompletedProcess(arguments, program.returncode, output, error)


def send(template: socket.socket, request: dict[str, Any], descriptors: list[int]) -> None:
    """Ask the template to run a program.

    `descriptors` are the program's standard output and standard error, and a pipe for its process id and exit code.
    """
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    template.sendmsg([json.dumps(request).encode()], rights)


def _serve(connection: socket.socket, listener: socket.socket) -> None:
    """Fork for each request until the test process has ended."""
    while True:
        ready, _, _ = select.select([connection, listener], [], [])
        sender = listener.accept()[0] if connection not in ready else connection
        text, rights, *_ = sender.recvmsg(_LARGEST_REQUEST, socket.CMSG_SPACE(3 * 4))
        if sender is not connection:
            sender.close()
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
        while _reap_one():
            pass


def _reap_one() -> bool:
    """Whether a child process had ended, and was removed from the process table."""
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _supervise(request: dict[str, Any], streams: tuple[int, int], status: int) -> NoReturn:
    """Run the program in a child process, and write its process id and its exit code to `status`."""
    program = os.fork()
    if program == 0:
        os.close(status)
        _become(request, streams)
    for stream in streams:
        os.close(stream)
    os.write(status, f"{program}\n".encode())
    _, ended = os.waitpid(program, 0)
    os.write(status, f"{os.waitstatus_to_exitcode(ended)}\n".encode())
    os._exit(0)


def _become(request: dict[str, Any], streams: tuple[int, int]) -> NoReturn:
    """Turn this process into the program, and exit when the program ends."""
    for number, stream in enumerate(streams, start=1):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    warnings.resetwarnings()
    warnings.simplefilter("ignore", DeprecationWarning)
    for name in [name for name in sys.modules if name.partition(".")[0] == "psutil"]:
        del sys.modules[name]  # Ray's workers fail if psutil was imported before the fork
    code = 0
    try:
        _execute(*request["arguments"])
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


def _execute(kind: str, *rest: str) -> None:
    """Execute a program, given `-m`, `-c` or its path, and the other arguments."""
    if kind == "-m":
        sys.argv = [*rest]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        return
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    if kind == "-c":
        code, *rest = rest  # type: ignore[assignment]
        sys.argv = ["-c", *rest]
    else:
        code, sys.argv = Path(kind).read_text(), [kind, *rest]
        main.__file__ = kind
        sys.path.insert(0, str(Path(kind).parent))
    exec(compile(code, kind, "exec"), main.__dict__)
