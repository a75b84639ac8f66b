"""Programs that are forked from the template behave as if they ran in a new interpreter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import forked
import pytest

import nas


@pytest.mark.parametrize(
    ("code", "exit_code", "error"),
    [
        ("print(sys.argv[1:], __name__, os.environ['SETTING'], pathlib.Path.cwd().name)", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit('a message')", 1, "a message\n"),
        ("raise ValueError('wrong')", 1, "ValueError: wrong\n"),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
    ],
)
def test_a_program_has_the_output_and_the_exit_code_of_a_new_interpreter(code, exit_code, error, monkeypatch, tmp_path):
    monkeypatch.setenv("SETTING", "value")
    monkeypatch.chdir(tmp_path)
    done = forked.run("-c", f"import os, pathlib, signal, sys\n{code}", "one", "two")
    assert done.returncode == exit_code and done.stderr.endswith(error) and bool(done.stderr) == bool(error)
    assert done.stdout == (f"['one', 'two'] __main__ value {tmp_path.name}\n" if "print" in code else "")


def test_a_file_and_a_module_are_run_with_their_arguments(tmp_path):
    file = tmp_path / "program.py"
    (tmp_path / "neighbour.py").write_text("VALUE = 7")
    file.write_text("import sys\nfrom neighbour import VALUE\nprint(VALUE, sys.argv)")
    assert forked.run(file, "x").stdout == f"7 {[str(file), 'x']}\n"
    assert forked.run("-m", "nas.cli", "--version").stdout == f"{nas.__version__}\n"


def test_a_program_can_be_killed_and_is_not_a_child_of_the_test_process():
    program = forked.Program("-c", "import os, time\nprint(os.getppid(), flush=True)\ntime.sleep(100)")
    assert program.poll() is None
    program.kill()
    output, error = program.communicate()
    assert program.returncode == program.poll() == -signal.SIGKILL and error == ""
    assert output == "" or int(output) != os.getpid()
    with pytest.raises(TimeoutError, match="did not end within"):
        forked.Program("-c", "import time\ntime.sleep(100)").communicate(timeout=0.01)


def test_a_ray_worker_is_forked_with_any_options_of_the_interpreter(tmp_path):
    file = tmp_path / "worker.py"
    file.write_text("import sys\nprint(sys.argv[1:])\nsys.exit(3)")
    script = Path(forked.__file__).with_name("forked_worker.py")
    for flags in ([], ["-s"], ["-s", "-S"]):  # Ray passes these options on; PYTHONNOUSERSITE sets -s
        options = ["--language=PYTHON", *flags, file, "--serialized-runtime-env-context={}", "x"]
        done = subprocess.run([sys.executable, script, *options], check=False, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (3, "['x']\n"), done.stderr
