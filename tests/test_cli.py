"""Every subcommand has help with valid examples and an option `--json`; also completion and one-line errors."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import typer.main
from typer.testing import CliRunner

from nas.cli import app
from nas.space import shipped_spaces

COMMAND = typer.main.get_command(app)
SUBCOMMANDS = {
    **{name: command for name, command in COMMAND.commands.items() if name != "device"},
    **{f"device {name}": command for name, command in COMMAND.commands["device"].commands.items()},
}


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_subcommand_has_help_with_valid_examples(name):
    command = SUBCOMMANDS[name]
    assert command.help and "--json" in [option for parameter in command.params for option in parameter.opts]
    assert all(parameter.help for parameter in command.params if parameter.name != "help")
    examples = [line.strip("`").split() for line in command.epilog.splitlines() if line.startswith("`")]
    for words in examples:
        assert words[: len(name.split()) + 1] == ["nas", *name.split()]
        command.make_context(name, words[len(name.split()) + 1 :])  # raises if an argument or option does not exist
    assert examples


def test_help_does_not_import_heavy_packages():
    script = (
        "import sys; sys.argv = ['nas', 'init', '--help']\nfrom nas.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'numpy', 'ray', 'datasets'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "For example:" in result.stdout and "nas init my-study" in result.stdout


def test_brackets_in_the_name_of_a_space_are_not_interpreted_as_markup(nas, tiny_study, tmp_path):
    space = shipped_spaces()["tiny"].read_text().replace('name = "tiny"', 'name = "a [/b] [v2]"')
    (tiny_study.parent / "mine.toml").write_text(space)
    tiny_study.write_text(tiny_study.read_text().replace('name = "tiny"', 'name = "mine.toml"'))
    output, _ = nas("check", tiny_study, "--runs", tmp_path / "runs")
    assert "search space: a [/b] [v2], 295,704 architectures" in output


def test_search_prints_the_number_of_candidates_with_each_outcome(nas, tiny_study, tmp_path, monkeypatch):
    state = SimpleNamespace(outcomes={"evaluated": 12, "repeated": 3, "over_budget": 4, "lost": 0})
    monkeypatch.setattr("nas.pipeline.search_candidates", lambda run: state)
    output, _ = nas("search", tiny_study, "--runs", tmp_path / "runs")
    assert output == "candidates: 12 evaluated, 3 repeated, 4 over budget, 0 lost\n"


def _completions(line):
    environment = {"_NAS_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    result = CliRunner().invoke(app, [], prog_name="nas", env=environment)
    return result.stdout.split()


def test_completion_suggests_subcommands_built_in_studies_and_devices(tiny_study):
    assert _completions("nas ch") == ["check"]
    assert _completions("nas run quick") == ["quickstart"]
    assert _completions(f"nas device bundle {tiny_study} c") == ["cpu"]
    assert _completions("nas device bundle no-such-study c") == []


def test_install_completion_adds_a_script_to_bashrc(tmp_path):
    environment = os.environ | {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    command = [sys.executable, "-m", "nas.cli", "--install-completion", "bash"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "installed" in result.stdout
    (script,) = (tmp_path / ".bash_completions").iterdir()
    assert "complete_bash" in script.read_text() and str(script) in (tmp_path / ".bashrc").read_text()


def test_system_errors_are_one_line_with_and_without_a_file_name(nas, monkeypatch):
    for problem, line in (
        (ConnectionResetError(104, "reset by peer"), "error: reset by peer; run the same command again\n"),
        (FileNotFoundError(2, "nothing there", "a.toml"), "error: a.toml: nothing there; correct the path\n"),
    ):
        monkeypatch.setattr("nas.study.Study.load", lambda *arguments, problem=problem: (_ for _ in ()).throw(problem))
        assert nas("check", "quickstart", code=2) == ("", line)


def test_a_closed_pipe_ends_a_command_without_an_error_message(searched_study):
    command = [sys.executable, "-m", "nas.cli", "front", str(searched_study), "--json"]
    command += ["--runs", str(searched_study.parent / "runs")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 1
