"""The commands of docs/cluster.md run a search on a cluster, and Ray's launcher accepts `scripts/cluster.yaml`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import forked
import pytest
import yaml
from ports import free_port
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli
from test_docs import ROOT, _blocks, _commands

PAGE = ROOT / "docs" / "cluster.md"
RAY = """
import forked
from ray.scripts.scripts import main

forked.lighten_ray()
main()
"""
"""A program like `ray`, whose nodes start fewer processes."""


@pytest.mark.slow
def test_the_commands_of_the_cluster_page_extend_a_finished_search_on_a_cluster(searched_study, tmp_path, monkeypatch):
    """The cluster consists of a head and another node. It has cores for two of the four workers of the search."""
    # `auto` must mean this cluster, even if others are running.
    ray_folder = TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
    monkeypatch.setenv("RAY_TMPDIR", ray_folder.name)
    study = shutil.copytree(searched_study.parent, tmp_path / "tiny") / "study.toml"
    settings = _blocks(PAGE, "toml")[0].text
    study.write_text(study.read_text().replace("[search]\nevaluations = 16", f"{settings}evaluations = 20"))
    block, port = _blocks(PAGE, "bash")[0], free_port()
    text = block.text.replace("HEAD:6379", f"127.0.0.1:{port}").replace("--head", f"--head --port={port}")
    head, node, search = _commands(replace(block, text=text))
    with ray_folder, ExitStack() as stack:
        for command in (head, node):
            assert command[:2] == ["ray", "start"]
            process = stack.enter_context(_running("-c", RAY, *command[1:], "--num-cpus=1", "--block"))
            while not list(Path(ray_folder.name).rglob("ray_current_cluster")):  # written when the head is ready
                assert process.poll() is None
                time.sleep(0.1)
        assert search[0] == "nas"
        monkeypatch.chdir(study.parent)
        done = forked.run("-m", "nas.cli", *search[1:], "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["evaluated"] == 20


@contextmanager
def _running(*arguments):
    """Run a program during the block."""
    process = forked.Program(*arguments)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
        process.wait()


def test_the_launcher_accepts_the_cluster_file():
    launcher = _blocks(PAGE, "bash")[1]
    assert all(command[0] == "ray" and command[1] in cli.commands for command in _commands(launcher))
    assert all("scripts/cluster.yaml" in command for command in _commands(launcher))
    config = yaml.safe_load((ROOT / "scripts" / "cluster.yaml").read_text())
    validate_config(prepare_config(config))
