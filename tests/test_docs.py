"""What README and docs say is what the tests run: every block of code, file by file, on one tiny study.

A block that cannot be run here has a comment on the line before it, `<!-- not run: why -->`.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
import tomllib
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer.main
from datasets import Dataset
from tiny import make_labelled, make_ranked, make_tagged, write_embedding_study, write_tiny_study

from nas import cli
from nas.space import SearchSpace
from nas.study import Study, Supernet

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = [README, *sorted((ROOT / "docs").glob("*.md"))]
# What makes the study of the documents small enough for a test.
SMALL = """
[supernet]
steps = 10
[search]
evaluations = 10
population = 4
[export]
epochs = 0.2
"""
_BLOCK = re.compile(r"(?:<!-- not run: (?P<why>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    why_not_run: str | None


def _blocks(path, language=None):
    found = (Block(match["language"], match["text"], match["why"]) for match in _BLOCK.finditer(path.read_text()))
    return [block for block in found if language in (None, block.language)]


def _commands(block):
    return [words for line in block.text.splitlines() if (words := shlex.split(line, comments=True))]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Where a newcomer stands: a model and data, in the folder that commands are given in. The README was followed."""
    folder = tmp_path_factory.mktemp("docs")
    write_tiny_study(folder).unlink()
    (folder / "teacher").rename(folder / "my-bert")
    for old, new in (("train", "train"), ("test", "validation")):
        rows = Dataset.from_parquet(str(folder / f"{old}.parquet"), keep_in_memory=True)
        rows.rename_column("text", "sentence").to_csv(folder / f"{new}.csv")
    for name, count, seed in (("emotions", 1200, 0), ("emotions-test", 200, 1)):
        make_labelled(count, seed).rename_column("labels", "emotions").to_json(folder / f"{name}.jsonl")
    for name, count, seed in (("questions", 240, 0), ("questions-test", 40, 1)):
        make_ranked(count, seed).to_csv(folder / f"{name}.csv")
    for name, count, seed in (("entities", 1200, 0), ("entities-test", 200, 1)):
        rows = make_tagged(count, seed).rename_columns({"words": "tokens", "tags": "ner_tags"})
        rows.to_json(folder / f"{name}.jsonl")
    study = write_embedding_study(folder / "embedding")
    study.with_name("teacher").rename(folder / "all-MiniLM-L6-v2")
    study.with_name("train.parquet").rename(folder / "sentences.parquet")
    for old, new in (("search", "pairs-dev"), ("test", "pairs-test")):
        rows = Dataset.from_parquet(str(study.with_name(f"{old}.parquet")), keep_in_memory=True)
        rows.rename_columns({"first": "sentence1", "second": "sentence2"}).to_csv(folder / f"{new}.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _follow(README)
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in DOCS if path != README], ids=lambda path: path.name)
def test_blocks(path, world):
    _follow(path)


@pytest.mark.slow
def test_what_the_readme_leaves(world):
    found = json.loads((world / "runs" / "my-study" / "exports" / "fast" / "verification.json").read_text())
    assert found["met"] is True


def _follow(path):
    """Do what a document says, block by block."""
    for block in _blocks(path):
        runner = {"bash": _run_commands, "sh": _run_commands, "python": _run_python, "toml": _check_toml}.get(
            block.language
        )
        covered = runner or block.language == "" or block.why_not_run
        assert covered, f"{path.name}: a block of {block.language} is not covered"
        if runner and block.why_not_run is None:
            runner(block)


def _run_commands(block):
    for words in _commands(block):
        if words[0] == "python":
            subprocess.run([sys.executable, *words[1:]], check=True, capture_output=True)
        elif not words[0].startswith("scripts/"):  # test_scripts_of_the_readme_are_what_ci_runs
            assert words[0] == "nas", f"{words}: only nas, python and scripts can be run here; say why this is not"
            if words[1] == "init":
                Path(words[2], "study.toml").unlink(missing_ok=True)
            _nas(words)
            if words[1] == "init":
                _make_small(Path(words[2], "study.toml"))


def _nas(words):
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.setattr(sys, "argv", words)
        try:
            cli.main()
        except SystemExit as stop:
            assert not stop.code, words
        return printed.getvalue()


def _make_small(study):
    text = study.read_text()
    text = text[: text.index("[supernet]")].replace('"20%"', '"80%"')
    study.write_text(re.sub(r"(?m)^batch_size = 1\b", "warm_up = 1\nrepeats = 2\nbatch_size = 1", text) + SMALL)


def _run_python(block):
    with redirect_stdout(io.StringIO()) as printed:
        exec(compile(block.text, "<block>", "exec"), {"__name__": "__main__"})
    assert printed.getvalue().strip()


def _check_toml(block):
    """A whole study, or part of one, or part of a search space."""
    given = tomllib.loads(block.text)
    if set(given) <= {"dimensions", "compression"}:
        values = SearchSpace.load("bert-base").model_dump()
        merged = {key: values[key] | given.get(key, {}) for key in ("dimensions", "compression")}
        SearchSpace.model_validate(values | merged)
        return
    whole = tomllib.loads(_blocks(README, "toml")[0].text)
    given.pop("variables", None)  # their values are filled in when a study is read
    whole["devices"].append({"name": "phone", "where": "elsewhere"})
    for key, value in given.items():
        if isinstance(value, list):  # devices and budgets go by their names
            whole[key] = list({item["name"]: item for item in [*whole[key], *value]}.values())
        else:
            whole[key] = whole.get(key, {}) | value if isinstance(value, dict) else value
    Study.model_validate({"path": Path(), "name": "shown"} | whole)


def test_scripts_of_the_readme_are_what_ci_runs():
    named = [words[0] for words in _commands(_blocks(README, "bash")[0])]
    ci = (ROOT / ".ci" / "run").read_text()
    assert named == ["scripts/quickstart", "scripts/test"]
    assert all(f'"$root/{name}"' in ci and (ROOT / name).stat().st_mode & 0o111 for name in named)


def test_commands_that_are_not_run_are_commands():
    app = typer.main.get_command(cli.app)
    for words in (words for path in DOCS for block in _blocks(path, "bash") for words in _commands(block)):
        if words[0] == "nas":
            device = words[1] == "device"
            group = app.commands["device"] if device else app
            name, *arguments = words[2:] if device else words[1:]
            group.commands[name].make_context(name, arguments)


@pytest.mark.slow
def test_the_notebook_goes_from_a_data_frame_to_an_export(world):
    cells = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    names = {"__name__": "__main__"}
    with redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, "notebook.ipynb", "exec"), names)
    assert names["found"]["fast"]["met"] is True and len(names["front"].candidates) == 10
    assert "<circle" in names["front"]._repr_svg_() and "report.html" in printed.getvalue()


def test_settings_that_are_shown_are_the_defaults():
    blocks = (tomllib.loads(block.text) for block in _blocks(ROOT / "docs" / "own-model.md", "toml"))
    shown = next(block["supernet"] for block in blocks if "supernet" in block)
    defaults = Supernet().model_dump()
    assert shown == {name: defaults[name] for name in shown}


def test_links_lead_somewhere():
    for path in DOCS:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
