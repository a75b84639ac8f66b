"""Every executor takes architectures under tickets and returns the results that an evaluator returns."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace

import psutil
import pytest
import ray
from searching import write_search
from simulation import Pool, SimulatedExecutor

from nas.cluster import join
from nas.evaluate import EvaluationRecipe, Memory
from nas.search.executors import CachingExecutor, executor_for
from nas.space import SearchSpace
from nas.study import Search
from nas.tasks import ClassMetric

SPACE = SearchSpace.load("tiny")
SETTINGS = {"inline": Search(), "ray": Search(executor="ray", workers=2), "simulated": Search()}


@pytest.fixture
def recipe(tmp_path):
    folder = write_search(tmp_path)
    return EvaluationRecipe(folder / "supernet", folder / "data", ClassMetric("accuracy"))


@pytest.fixture(scope="module")
def cluster():
    """Start a cluster on this machine that all executors join, because starting one per executor would be slow."""
    started = join(2, "tests")
    yield
    if started:
        ray.shutdown()


def _executor(name, recipe):
    if name == "simulated":
        return SimulatedExecutor(recipe.load().evaluate, Pool(workers=2, death=0.3))
    return executor_for(SETTINGS[name], recipe)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_results_equal_those_of_an_evaluator(recipe, name, request):
    if name == "ray":
        request.getfixturevalue("cluster")
    rng = random.Random(0)
    expected = {ticket: recipe.load().evaluate(SPACE.sample(rng)) for ticket in range(6)}
    found, waiting = {}, list(expected)
    with _executor(name, recipe) as executor:
        assert executor.capacity >= SETTINGS[name].workers
        while len(found) < len(expected):
            while waiting and len(expected) - len(waiting) - len(found) < executor.capacity:
                ticket = waiting.pop(0)
                executor.submit(ticket, expected[ticket].architecture, 0.0)
            ticket, result = executor.next_result()
            assert ticket not in found
            found[ticket] = result
    for ticket, result in expected.items():
        assert found[ticket].architecture == result.architecture
        assert found[ticket].accuracy == pytest.approx(result.accuracy)
        assert found[ticket].examples == result.examples


def test_only_complete_evaluations_are_remembered(recipe, tmp_path):
    path, known, other = tmp_path / "evaluations" / "known.jsonl", SPACE.largest(), SPACE.sample(random.Random(0))
    with CachingExecutor(executor_for(Search(), recipe), Memory(path)) as executor:
        executor.submit(4, known, 0.0)
        executor.submit(3, SPACE.smallest(), 1.5)
        found = dict(executor.next_result() for _ in range(2))
    assert not found[3].complete and found[4].complete
    path.write_bytes(path.read_bytes()[:-1] + b'\n{"architecture": {"hidd')
    Memory(path).add(replace(found[4], architecture=other))
    memory = Memory(path)
    assert memory.get(known) == found[4] and memory.get(other) == replace(found[4], architecture=other)
    assert memory.get(SPACE.smallest()) is None
    with CachingExecutor(executor_for(Search(), recipe), memory) as executor:
        for ticket, architecture in ((5, SPACE.smallest()), (6, known)):
            executor.submit(ticket, architecture, 0.0)
        assert executor.next_result() == (6, found[4]), "known results come first"
        assert executor.next_result()[1].complete


def test_results_of_another_precision_are_not_reused(recipe, tmp_path):
    result = replace(recipe.load().evaluate(SPACE.largest()), precision="bf16")
    path = tmp_path / "known.jsonl"
    Memory(path, "float32").add(result)
    assert Memory(path, "float32").get(SPACE.largest()) is None
    assert Memory(path, "bf16").get(SPACE.largest()) == result


def test_results_state_the_precision_in_which_they_were_computed(recipe, monkeypatch):
    assert recipe.load().evaluate(SPACE.smallest()).precision == recipe.precision("cpu") == "float32"
    for module in ("accuracy", "recipe"):
        monkeypatch.setattr(f"nas.evaluate.{module}.uses_bf16", lambda hidden_size, processor: True)
    assert recipe.load().evaluate(SPACE.smallest()).precision == recipe.precision("cpu") == "bf16"
    exact = replace(recipe, bf16=False)
    assert exact.load().evaluate(SPACE.smallest()).precision == exact.precision("cpu") == "float32"


@pytest.mark.slow
def test_a_candidate_whose_ray_worker_is_killed_is_evaluated_again(recipe, cluster):
    before = _ray_workers()
    with executor_for(Search(executor="ray", workers=1), recipe) as executor:
        executor.submit(7, SPACE.largest(), 0.0)
        executor.next_result()
        (worker,) = (one for one in _ray_workers() if one not in before)
        executor.submit(8, SPACE.smallest(), 0.0)
        worker.kill()
        ticket, result = executor.next_result()
        assert ticket == 8 and result.architecture == SPACE.smallest()


def _ray_workers() -> list[psutil.Process]:
    """Return the worker processes of the cluster that this process started. They are named after their actor."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "".join(process.cmdline()[:1]).startswith("ray::_Worker"):
                found.append(process)
    return found
