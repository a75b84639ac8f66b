"""The code blocks of README and docs run without errors, page by page, on one tiny study with simulated latencies.

A block that the tests cannot run has a comment on the line before it: `<!-- not run: why -->`.
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
import simulated
import typer.main
from datasets import Dataset
from tiny import (
    FEW_BLOCKS,
    make_labelled,
    make_ranked,
    make_tagged,
    make_texts,
    write_embedding_study,
    write_tiny_study,
)

from nas import cli
from nas.space import SearchSpace
from nas.study import Study, Supernet

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = [README, *sorted((ROOT / "docs").glob("*.md"))]
# Settings that make the study of the pages small enough for a test.
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
def workplace(tmp_path_factory):
    """The current folder, with the model and the data that the pages use, after the blocks of the README were run."""
    folder = tmp_path_factory.mktemp("docs")
    write_tiny_study(folder).unlink()
    (folder / "teacher").rename(folder / "my-bert")
    for old, new in (("train", "train"), ("test", "validation")):
        rows = Dataset.from_parquet(str(folder / f"{old}.parquet"), keep_in_memory=True)
        rows.rename_column("text", "sentence").to_csv(folder / f"{new}.csv")
    for name, count, seed in (("emotions", 400, 0), ("emotions-test", 100, 1)):
        make_labelled(count, seed).rename_column("labels", "emotions").to_json(folder / f"{name}.jsonl")
    for name, count, seed in (("questions", 100, 0), ("questions-test", 40, 1)):
        make_ranked(count, seed).to_csv(folder / f"{name}.csv")
    for name, count, seed in (("entities", 400, 0), ("entities-test", 100, 1)):
        rows = make_tagged(count, seed).rename_columns({"words": "tokens", "tags": "ner_tags"})
        rows.to_json(folder / f"{name}.jsonl")
    study = write_embedding_study(folder / "embedding")
    study.with_name("teacher").rename(folder / "all-MiniLM-L6-v2")
    study.with_name("train.parquet").rename(folder / "sentences.parquet")
    for old, new in (("search", "pairs-dev"), ("test", "pairs-test")):
        rows = Dataset.from_parquet(str(study.with_name(f"{old}.parquet")), keep_in_memory=True)
        rows.rename_columns({"first": "sentence1", "second": "sentence2"}).to_csv(folder / f"{new}.csv")
    Dataset.from_dict({"text": make_texts(100, 3)}).to_parquet(folder / "sentences-test.parquet")
    _write_beir(folder / "scifact")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        simulated.install(patch)
        _run_blocks(README)
        yield folder


def _write_beir(folder):
    """Write a tiny retrieval data set in BEIR's format. Each query has the words of a passage."""
    folder.mkdir()
    texts = make_texts(100, 4)
    names = [f"D{number}" for number in range(100)]
    Dataset.from_dict({"_id": names, "title": ["w1 w2"] * 100, "text": texts}).to_parquet(folder / "corpus.parquet")
    queries = {"_id": names[:60], "text": [" ".join(f"{text} {text} w3 w4".split()[:5]) for text in texts[:60]]}
    Dataset.from_dict(queries).to_parquet(folder / "queries.parquet")
    for split, part in (("train", names[:30]), ("test", names[30:60])):
        qrels = {"query-id": part, "corpus-id": part, "score": [1] * 30}
        Dataset.from_dict(qrels).to_parquet(folder / f"qrels_{split}.parquet")


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in DOCS if path != README], ids=lambda path: path.name)
def test_the_code_blocks_of_a_page_run(path, workplace):
    _run_blocks(path)


@pytest.mark.slow
def test_the_export_of_the_readme_meets_its_budget(workplace):
    found = json.loads((workplace / "runs" / "my-study" / "exports" / "fast" / "verification.json").read_text())
    assert found["met"] is True


def _run_blocks(path):
    """Run the code blocks of a page in their order."""
    for block in _blocks(path):
        runner = {"bash": _run_commands, "sh": _run_commands, "python": _run_python, "toml": _check_toml}.get(
            block.language
        )
        covered = runner or block.language == "" or block.why_not_run
        assert covered, f"{path.name}: blocks of {block.language} cannot be run"
        if runner and block.why_not_run is None:
            runner(block)


def _run_commands(block):
    for words in _commands(block):
        if words[0] == "python":
            subprocess.run([sys.executable, *words[1:]], check=True, capture_output=True)
        elif not words[0].startswith("scripts/"):  # see test_ci_runs_the_scripts_of_the_readme
            assert words[0] == "nas", f"{words}: only nas, python and scripts can be run; say why this is not run"
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
    text = text[: text.index("[supernet]")].replace('"20%"', '"80%"').replace('name = "tiny"', 'name = "few.toml"')
    study.write_text(text.replace("fine_tune = true", "fine_tune = { epochs = 1.0 }") + SMALL)
    study.with_name("few.toml").write_text(FEW_BLOCKS)


def _run_python(block):
    with redirect_stdout(io.StringIO()) as printed:
        exec(compile(block.text, "<block>", "exec"), {"__name__": "__main__"})
    assert printed.getvalue().strip()


def _check_toml(block):
    """Validate a study, a part of a study, or a part of a search space."""
    shown = tomllib.loads(block.text)
    if set(shown) <= {"dimensions", "compression"}:
        values = SearchSpace.load("bert-base").model_dump()
        merged = {key: values[key] | shown.get(key, {}) for key in ("dimensions", "compression")}
        SearchSpace.model_validate(values | merged)
        return
    study = tomllib.loads(_blocks(README, "toml")[0].text)
    shown.pop("variables", None)  # their values are substituted when a study is read
    study["devices"].append({"name": "phone", "where": "elsewhere"})
    for key, value in shown.items():
        if isinstance(value, list):  # a device or budget replaces one of the same name
            study[key] = list({item["name"]: item for item in [*study[key], *value]}.values())
        elif isinstance(value, dict) and not {"train", "test", "text"} <= value.keys():
            study[key] = study.get(key, {}) | value
        else:  # a complete task replaces the one of the README
            study[key] = value
    Study.model_validate({"path": Path(), "name": "shown"} | study)


def test_ci_runs_the_scripts_of_the_readme():
    names = [words[0] for words in _commands(_blocks(README, "bash")[0])]
    ci = (ROOT / ".ci" / "run").read_text()
    assert names == ["scripts/quickstart", "scripts/test"]
    assert all(f'"$root/{name}"' in ci and (ROOT / name).stat().st_mode & 0o111 for name in names)


def test_all_commands_of_the_pages_have_valid_arguments():
    app = typer.main.get_command(cli.app)
    for words in (words for path in DOCS for block in _blocks(path, "bash") for words in _commands(block)):
        if words[0] == "nas":
            device = words[1] == "device"
            group = app.commands["device"] if device else app
            name, *arguments = words[2:] if device else words[1:]
            group.commands[name].make_context(name, arguments)


@pytest.mark.slow
def test_the_notebook_turns_a_data_frame_into_an_export(workplace):
    cells = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    names = {"__name__": "__main__"}
    with redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, "notebook.ipynb", "exec"), names)
    assert names["found"]["fast"]["met"] is True and len(names["front"].candidates) == 10
    assert "<circle" in names["front"]._repr_svg_() and "report.html" in printed.getvalue()


def test_own_model_md_shows_the_default_settings_of_the_supernet():
    blocks = (tomllib.loads(block.text) for block in _blocks(ROOT / "docs" / "own-model.md", "toml"))
    shown = next(block["supernet"] for block in blocks if "supernet" in block)
    defaults = Supernet().model_dump()
    assert shown == {name: defaults[name] for name in shown}


def test_the_targets_of_links_exist():
    for path in DOCS:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
