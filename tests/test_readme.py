"""What the README says is what the tests run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tiny import write_tiny_study

from nas.study import Supernet

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
# What makes the README's study small enough for a test.
SMALL = """
[supernet]
steps = 10
[search]
evaluations = 10
population = 4
[export]
epochs = 0.2
"""


def _blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def _commands(block):
    return [line.split("#")[0].split() for line in block.splitlines() if line.strip()]


def test_scripts_of_the_readme_are_what_ci_runs():
    scripts, _ = _blocks("bash")
    named = [command[0] for command in _commands(scripts)]
    ci = (ROOT / ".ci" / "run").read_text()
    assert named == ["scripts/quickstart", "scripts/test"]
    assert all(f'"$root/{name}"' in ci and (ROOT / name).stat().st_mode & 0o111 for name in named)


@pytest.mark.slow
def test_commands_and_code_of_the_readme(tmp_path):
    folder = tmp_path / "my-study"
    write_tiny_study(folder)
    (folder / "test.parquet").rename(folder / "validation.parquet")
    (folder / "teacher").rename(folder / "my-bert")
    study, _ = _blocks("toml")
    for column in ("train", "validation"):
        _rename_column(folder / f"{column}.parquet")
    study = study.replace("minilm-l6", "tiny").replace('"20%"', '"80%"').replace('metric = "accuracy"', _TASK)
    study = study.replace("sequence_length = 128", "sequence_length = 32")
    (folder / "study.toml").write_text(study + SMALL)
    _, block = _blocks("bash")
    for command in _commands(block):
        assert command[0] == "nas"
        subprocess.run([sys.executable, "-m", "nas.cli", *command[1:]], cwd=folder, check=True, capture_output=True)
    for code in _blocks("python"):
        result = subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True)
        assert re.search(r"-?\d\.\d", result.stdout)
    (serve,) = _blocks("sh")
    command = [sys.executable, *shlex.split(serve)[1:]]
    result = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    assert re.fullmatch(r"\w+\t\d\.\d+\n", result.stdout)
    shutil.rmtree(folder)


def test_settings_of_the_readme_are_the_defaults():
    _, block = _blocks("toml")
    shown, defaults = tomllib.loads(block)["supernet"], Supernet().model_dump()
    assert shown == {name: defaults[name] for name in shown}


_TASK = 'metric = "accuracy"\nmax_length = 32\nholdout = { size = 200 }'


def _rename_column(path):
    from datasets import Dataset

    Dataset.from_parquet(str(path), keep_in_memory=True).rename_column("text", "sentence").to_parquet(path)
