"""The command line: help with examples that hold, completion, and a result for programs from every verb."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import typer.main
from typer.testing import CliRunner

from nas.cli import app
from nas.space import shipped_spaces

COMMAND = typer.main.get_command(app)
VERBS = {
    " ".join(name): verb
    for name, verb in [
        *(((name,), verb) for name, verb in COMMAND.commands.items() if name != "device"),
        *((("device", name), verb) for name, verb in COMMAND.commands["device"].commands.items()),
    ]
}


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_help_with_examples_that_hold(name):
    verb = VERBS[name]
    assert verb.help and "--json" in [option for parameter in verb.params for option in parameter.opts]
    assert all(parameter.help for parameter in verb.params if parameter.name != "help")
    lines = [line.strip("`").split() for line in verb.epilog.splitlines() if line.startswith("`")]
    for line in lines:
        assert line[: len(name.split()) + 1] == ["nas", *name.split()]
        verb.make_context(name, line[len(name.split()) + 1 :])  # raises where an argument or option is not known
    assert lines


def test_help_is_shown_without_heavy_packages():
    script = (
        "import sys; sys.argv = ['nas', 'init', '--help']\nfrom nas.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'numpy', 'ray', 'datasets'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "For example:" in result.stdout and "nas init my-study" in result.stdout


def test_brackets_in_a_space_s_name_are_shown_as_they_are(nas, tiny_study, tmp_path):
    space = shipped_spaces()["tiny"].read_text().replace('name = "tiny"', 'name = "a [/b] [v2]"')
    (tiny_study.parent / "mine.toml").write_text(space)
    tiny_study.write_text(tiny_study.read_text().replace('name = "tiny"', 'name = "mine.toml"'))
    code, output, error = nas("check", str(tiny_study), "--runs", str(tmp_path / "runs"))
    assert code == 0, error
    assert "search space: a [/b] [v2], 295,704 architectures" in output


def _completed(line):
    given = {"_NAS_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    result = CliRunner().invoke(app, [], prog_name="nas", env=given)
    return result.stdout.split()


def test_completion_knows_verbs_shipped_studies_and_devices(tiny_study):
    assert _completed("nas ch") == ["check"]
    assert _completed("nas run quick") == ["quickstart"]
    assert _completed(f"nas device bundle {tiny_study} c") == ["cpu"]
    assert _completed("nas device bundle no-such-study c") == []


def test_completion_is_installed(tmp_path):
    environment = os.environ | {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    command = [sys.executable, "-m", "nas.cli", "--install-completion", "bash"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "installed" in result.stdout
    (script,) = (tmp_path / ".bash_completions").iterdir()
    assert "complete_bash" in script.read_text() and str(script) in (tmp_path / ".bashrc").read_text()


def test_what_the_system_refuses_is_one_line_with_or_without_a_file(nas, monkeypatch):
    for problem, line in (
        (ConnectionResetError(104, "reset by peer"), "error: reset by peer; run the same command again\n"),
        (FileNotFoundError(2, "nothing there", "a.toml"), "error: a.toml: nothing there; correct the path\n"),
    ):
        monkeypatch.setattr("nas.study.Study.load", lambda *given, problem=problem: (_ for _ in ()).throw(problem))
        assert nas("check", "quickstart") == (2, "", line)


def test_a_closed_pipe_ends_quietly(searched_study):
    command = [sys.executable, "-m", "nas.cli", "front", str(searched_study), "--json"]
    command += ["--runs", str(searched_study.parent / "runs")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 1
