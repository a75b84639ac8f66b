"""What the README says is what the tests run."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli
from tiny import write_tiny_study

from nas.study import Supernet

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CLUSTER = (ROOT / "docs" / "cluster.md").read_text()
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


def _blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


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


@pytest.mark.slow
def test_commands_of_the_cluster_page(searched_study, tmp_path, monkeypatch):
    """A head, another node, and a finished search that goes on there; of its four workers two have a place."""
    # `auto` shall be this cluster, whatever else is running.
    ray_folder = TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
    monkeypatch.setenv("RAY_TMPDIR", ray_folder.name)
    study = shutil.copytree(searched_study.parent, tmp_path / "tiny") / "study.toml"
    (settings,) = _blocks("toml", CLUSTER)
    study.write_text(study.read_text().replace("[search]\nevaluations = 16", f"{settings}evaluations = 20"))
    by_hand, _ = _blocks("bash", CLUSTER)
    head, node, search = _commands(by_hand.replace("HEAD", "127.0.0.1"))
    with ray_folder, ExitStack() as stack:
        for command in (head, node):
            assert command[:2] == ["ray", "start"]
            started = [Path(sys.executable).with_name("ray"), *command[1:], "--num-cpus=1", "--block"]
            stack.enter_context(_stopped_at_the_end(started))
            while not list(Path(ray_folder.name).rglob("ray_current_cluster")):  # the head is there
                time.sleep(0.1)
        assert search[0] == "nas"
        call = [sys.executable, "-m", "nas.cli", *search[1:], "--json"]
        done = subprocess.run(call, cwd=study.parent, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout.splitlines()[-1])["evaluated"] == 20


@contextmanager
def _stopped_at_the_end(command):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def test_the_launcher_takes_the_cluster_file():
    _, launcher = _blocks("bash", CLUSTER)
    assert all(command[0] == "ray" and command[1] in cli.commands for command in _commands(launcher))
    assert all("scripts/cluster.yaml" in command for command in _commands(launcher))
    config = yaml.safe_load((ROOT / "scripts" / "cluster.yaml").read_text())
    validate_config(prepare_config(config))


_TASK = 'metric = "accuracy"\nmax_length = 32\nholdout = { size = 200 }'


def _rename_column(path):
    from datasets import Dataset

    Dataset.from_parquet(str(path), keep_in_memory=True).rename_column("text", "sentence").to_parquet(path)
