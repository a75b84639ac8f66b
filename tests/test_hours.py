"""A run with hours keeps its numbers of steps and evaluations, even if it is killed and resumed."""

from __future__ import annotations

import json
import signal

import forked
import pytest
from tiny import TINY_STUDY

PRELUDE = """
import os, signal
import simulated
from nas.cli import main
from nas.pipeline import division
from nas.supernet import loops

division.SUPERNET_SHARE, division.MOST_EVALUATIONS = 1e-6, division.LEAST_EVALUATIONS
division.training_steps = lambda seconds, step: division.LEAST_STEPS  # also used by the final training
simulated.install()
"""
"""Makes trainings and searches short, whatever time is left, and simulates the latencies."""
DYING = """
def die_after(checkpoint, model, mark_complete=loops.mark_complete):
    mark_complete(checkpoint, model)
    if checkpoint.name == "checkpoint-10" and "supernet" in checkpoint.parts:
        os.kill(os.getpid(), signal.SIGKILL)

loops.mark_complete = die_after
"""
MORE_STEPS = "division.LEAST_STEPS = 70\n"
"""Makes trainings longer, unless their number of steps is already stored."""


def _nas(script, *arguments):
    return forked.run("-c", f"{PRELUDE}{script}main()", *arguments)


def _read(path):
    return json.loads(path.read_text())


@pytest.mark.slow
def test_a_killed_run_keeps_its_hours_and_its_number_of_steps(tiny_study, tmp_path):
    runs = tmp_path / "runs"
    tiny_study.write_text(TINY_STUDY.replace('name = "tiny"', 'name = "few.toml"'))
    mark, supernet = runs / "tiny" / "steps" / "supernet.json", runs / "tiny" / "supernet"
    first = _nas(DYING, "run", tiny_study, "--hours", "1", "--runs", runs)
    assert first.returncode == -signal.SIGKILL, first.stderr
    decided = _read(mark)["steps"]
    assert decided == 50
    other = _nas("", "run", tiny_study, "--hours", "2", "--runs", runs)
    assert other.returncode == 2 and "started with hours = 1.0, which is 2.0 now" in other.stderr
    second = _nas(MORE_STEPS, "run", tiny_study, "--runs", runs, "--json")
    assert second.returncode == 0, second.stderr
    assert _read(supernet / "training.json")[-1]["step"] == decided
    noted = {step: _read(mark.with_stem(step))["steps"] for step in ("supernet", "search", "finalists")}
    assert noted["supernet"] == decided
    assert noted["search"] == len(_read(runs / "tiny" / "search" / "front.json")["candidates"])
    reached = _read(runs / "tiny" / "finalists" / "finalists.json").values()
    assert max(one["accuracies"][-1][0] for one in reached) == noted["finalists"] >= 70
    again = _nas(MORE_STEPS, "run", tiny_study, "--runs", runs, "--json")
    assert json.loads(again.stdout.splitlines()[-1])["seconds"] == json.loads(second.stdout.splitlines()[-1])["seconds"]
