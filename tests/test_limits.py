"""Limits of the machine: one-line messages with location and remedy, no partly written files, resumed commands."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import TINY_STUDY, make_rows, make_tokenizer

from nas.data.files import read_rows, write_table
from nas.device import Device
from nas.errors import DataError, DeviceError, MachineError
from nas.files import write_atomically, write_folder, write_json, write_text
from nas.latency.workers import LocalWorker
from nas.limits import error_line, machine_limit_of, working_on

TOO_LARGE = "a file would exceed the allowed file size (ulimit -f)"


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Limit the size of files during the block. Writing then fails as on a full disk, even for root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class _Capabilities(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


@contextmanager
def bound_by_permissions(folder: Path) -> Iterator[None]:
    """Make file permissions apply to this process during the block, even if it runs as root."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (_Capabilities * 2)()
    if os.geteuid() == 0 and libc.capget(header, sets) == 0:
        own = sets[0].effective
        sets[0].effective = own & ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
        libc.capset(header, sets)
    try:
        closed = folder / "closed"
        closed.mkdir(mode=0o500)
        if os.access(closed, os.W_OK, effective_ids=True):
            pytest.skip("file permissions do not apply to this user")
        yield
    finally:
        if os.geteuid() == 0:
            sets[0].effective = own
            libc.capset(header, sets)


def _exception_of(function, *arguments):
    with pytest.raises(Exception) as problem:
        function(*arguments)
    return problem.value


def test_limits_are_recognised_in_the_exceptions_of_libraries(tmp_path):
    numbers = {"a": torch.zeros(10_000)}
    with largest_file(1000):
        problems = [
            _exception_of(save_file, numbers, tmp_path / "weights"),
            _exception_of(make_tokenizer().save_pretrained, tmp_path / "tokenizer"),
            _exception_of((tmp_path / "text").write_text, "x" * 10_000),
        ]
    assert [str(machine_limit_of(problem, "there")) for problem in problems] == [
        f"there: {TOO_LARGE}; raise the limit, then run the same command again"
    ] * 3
    memory = _exception_of(torch.empty, 2**60)
    for problem in (memory, MemoryError()):
        assert str(machine_limit_of(problem)).startswith("the memory is exhausted; close other programs")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "a: no free space on the disk; free some"),
        (errno.EDQUOT, "a: the disk quota is exhausted; free some"),
        (errno.EACCES, "a: permission denied; change its owner or permissions"),
        (errno.EROFS, "a: the file system is read-only; use another folder"),
        (errno.EMFILE, "a: too many files are open (ulimit -n); raise the limit"),
        (errno.EIO, "a: the disk reported a read or write error"),
        (errno.ENAMETOOLONG, "a: the name is too long; use a shorter one"),
        (errno.ENOTDIR, "a: Not a directory; a folder is needed here, but a file exists"),
        (errno.ENOENT, "a: No such file or directory; correct the path"),
    ],
)
def test_the_message_about_a_limit_names_a_remedy(number, message):
    assert error_line(OSError(number, os.strerror(number), "a")).startswith(message)


def test_an_error_about_input_is_replaced_only_if_a_limit_caused_it():
    def read(problem):
        try:
            raise problem
        except (OSError, ValueError):
            raise DataError("data: cannot be read; correct [task]") from None

    limit = error_line(_exception_of(read, PermissionError(errno.EACCES, "denied", "/x/train.csv")))
    assert limit.startswith("/x/train.csv: permission denied")
    blocked = PermissionError(errno.EACCES, "Permission denied")  # without a path, such as that of a connection
    for problem in (FileNotFoundError(errno.ENOENT, "nothing", "/x"), ValueError("odd"), blocked):
        assert error_line(_exception_of(read, problem)) == "data: cannot be read; correct [task]"
    assert error_line(ValueError("a mistake in nas")) is None
    with pytest.raises(ValueError, match="a mistake in nas"), working_on(Path("a")):
        raise ValueError("a mistake in nas")


def test_the_remedy_for_a_cache_that_is_not_writable_names_its_variable(monkeypatch):
    monkeypatch.setenv("HF_HOME", "/caches/hf")
    line = error_line(PermissionError(errno.EACCES, "denied", "/caches/hf/datasets"))
    assert line.startswith("/caches/hf/datasets: permission denied; set HF_HOME to a writable folder")
    line = error_line(PermissionError(errno.EACCES, "denied", "/caches/hf-runs/a"))  # not inside the cache
    assert line.startswith("/caches/hf-runs/a: permission denied; change its owner")


def test_the_remedy_for_a_run_inside_a_cache_does_not_name_the_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    run = tmp_path / "runs" / "x"
    full = OSError(errno.ENOSPC, "full", str(run / "front.json"))
    assert "set TMPDIR" not in str(machine_limit_of(full, run)) and "free some" in str(machine_limit_of(full, run))
    assert "set TMPDIR" in str(machine_limit_of(full))


def test_exhausted_memory_has_no_location_and_errors_of_other_libraries_are_not_limits(tmp_path):
    with pytest.raises(MachineError, match=r"^the memory is exhausted"), working_on(tmp_path):
        raise MemoryError
    assert machine_limit_of(ssl.SSLError(errno.EIO, "EOF occurred in violation of protocol")) is None
    assert machine_limit_of(RuntimeError("the server answered with error code 12")) is None


def test_a_write_that_exceeds_the_limit_leaves_no_new_file_and_keeps_the_old_one(tmp_path):
    rows, old = make_rows(300, 0), tmp_path / "old.json"
    write_json(old, [1])

    def fill(draft):
        (draft / "small").write_text("x")
        save_file({"a": torch.zeros(1000)}, draft / "large")

    writes = {
        "rows": lambda: write_table(rows, tmp_path / "rows"),
        "text": lambda: write_text(tmp_path / "deep" / "text", "x" * 2000),
        "old.json": lambda: write_json(old, "x" * 2000),
        "folder": lambda: write_folder(tmp_path / "folder", fill),
    }
    for name, write in writes.items():
        with largest_file(1000), pytest.raises(MachineError, match=rf"{name}: a file would exceed"):
            write()
    assert (
        sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "old.json"] and old.read_text() == "[\n  1\n]\n"
    )
    for write in writes.values():
        write()
    assert read_rows(str((tmp_path / "rows").rename(tmp_path / "rows.parquet"))).to_list() == rows.to_list()


def test_a_kill_while_a_folder_is_replaced_leaves_a_complete_folder(tmp_path, monkeypatch):
    def write(text):
        write_folder(tmp_path / "folder", lambda draft: [(draft / name).write_text(text) for name in ("a", "b")])

    def dies(folder, **_):
        next(folder.rglob("a")).unlink()
        raise KeyboardInterrupt

    write("old")
    monkeypatch.setattr("nas.files.shutil.rmtree", dies)
    with pytest.raises(KeyboardInterrupt):
        write("new")
    assert {path.name: path.read_text() for path in (tmp_path / "folder").iterdir()} == {"a": "new", "b": "new"}


def test_a_training_resumes_after_the_disk_was_full_at_different_moments(nas, tiny_study, tmp_path, simulated_times):
    tiny_study.write_text(TINY_STUDY.replace("epochs = 2.0", "epochs = 0.25").replace("steps = 30", "steps = 10"))
    command = ["train", str(tiny_study), "--runs", str(tmp_path / "runs")]
    lines = set()
    for size in (100, 3_000, 60_000, 200_000):
        with largest_file(size):
            output, error = nas(*command, code=2)
        last = error.splitlines()[-1]
        assert output == "" and "Traceback" not in error, error
        assert last.startswith(f"error: {tmp_path / 'runs'}") and TOO_LARGE in last
        lines.add(last)
    assert len(lines) > 1
    nas(*command)
    assert not list((tmp_path / "runs").rglob(".*.*"))  # no temporary file is left


@pytest.mark.parametrize(
    "closed", ["study.toml", "train.parquet", "teacher/config.json", "teacher/tokenizer.json", "runs"]
)
def test_the_message_about_a_missing_permission_names_the_file(nas, tiny_study, tmp_path, closed):
    folder = tiny_study.parent
    (folder / "runs").mkdir()
    path = folder / closed
    path.chmod(0o500 if path.is_dir() else 0)
    with bound_by_permissions(tmp_path):
        output, error = nas("train", tiny_study, "--runs", folder / "runs", code=2)
    last = error.splitlines()[-1]
    assert output == "" and "Traceback" not in error
    assert last.startswith(f"error: {path}") and "permission denied; change its owner or permissions" in last, last
    path.chmod(0o700)
    nas("check", tiny_study, "--runs", folder / "runs")


def test_a_file_or_a_missing_folder_in_the_path_of_the_runs_is_refused(nas, tiny_study, tmp_path):
    (tmp_path / "file").touch()
    for runs in (tmp_path / "file", tmp_path / "file" / "runs", Path("/proc/no-folder")):
        output, error = nas("train", tiny_study, "--runs", runs, code=2)
        assert output == "" and error.startswith(f"error: {runs}"), error
        assert "move the file away" in error or "correct the path" in error


def test_a_study_of_local_files_needs_no_cache_no_home_and_no_modules_of_the_working_directory(tiny_study, tmp_path):
    few = TINY_STUDY.replace("epochs = 2.0", "epochs = 0.25").replace("steps = 30", 'steps = 4\nsampling = "spread"')
    tiny_study.write_text(few)
    for name in ("json", "random", "csv", "numpy", "torch", "tokenize", "nas.latency"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the working directory is run')\n")
    folders = dict.fromkeys(("HF_HOME", "HF_DATASETS_CACHE", "XDG_CACHE_HOME", "HOME"), "/proc/no-folder")
    root = str(Path(__file__).parents[1])
    command = [sys.executable, "-m", "nas.cli", "train", str(tiny_study), "--runs", str(tmp_path / "runs")]
    environment = os.environ | folders | {"PYTHONPATH": root}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "supernet: " in done.stdout, done.stderr


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_a_measuring_process_imports_no_modules_of_the_working_directory_and_its_end_is_explained(
    runtime, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("json", "random", "numpy", "torch", "pathlib"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the working directory is run')\n")
    with LocalWorker(Device(name="cpu", runtime=runtime)) as worker:
        assert worker.environment["runtime"].startswith(runtime)
        os.kill(worker._process.pid, signal.SIGKILL)
        with pytest.raises(MachineError, match="was killed, probably because memory ran out"):
            worker.measure({"networks": [], "rounds": 1}, lambda done: None)


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (signal.SIGTERM, DeviceError, "on cpu failed: the process ended with exit code -15; check that"),
        (signal.SIGKILL, MachineError, "was killed, probably because memory ran out"),
    ],
)
def test_the_end_of_a_measuring_process_without_a_message_is_explained(number, kind, message, monkeypatch):
    """The line `disturbed` is not a message. It only says that the measurement is repeated."""
    code = f"import os; print('answer {{}}\\ndisturbed', flush=True); os.kill(os.getpid(), {int(number)})"
    monkeypatch.setattr("nas.latency.workers._WORKER_PROGRAM", code)
    with LocalWorker(Device(name="cpu", runtime="torch")) as worker, pytest.raises(kind, match=message):
        worker.measure({"networks": [], "rounds": 1}, lambda done: None)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_under_standard_output_is_a_one_line_error():
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "nas.cli", "--version"]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
        done = subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "error: standard output: no free space on the disk; free some space or use another folder, "
        "then run the same command again\n"
    )


@pytest.mark.parametrize("kind", ["write_folder", "write_atomically"])
def test_files_of_a_killed_process_are_removed_by_the_next_one_and_those_of_a_running_one_are_kept(kind, tmp_path):
    killed = (
        "import os, signal\nfrom pathlib import Path\nfrom nas.files import write_atomically, write_folder\n"
        f"{kind}(Path({str(tmp_path / 'a')!r}), lambda draft: os.kill(os.getpid(), signal.SIGKILL))"
    )
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    write, found = {"write_folder": write_folder, "write_atomically": write_atomically}[kind], []

    def fill(draft):
        found.append(list(tmp_path.iterdir()))
        if len(found) == 1:
            write(tmp_path / "a", fill)
            found.append(list(tmp_path.iterdir()))

    write(tmp_path / "a", fill)
    assert [len(names) for names in found] == [1, 2, 2], "the leftover is gone, and both drafts were kept"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
