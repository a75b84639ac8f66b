"""A search on a Ray cluster of several nodes: those that join are used, and those that go cost nothing but time."""

from __future__ import annotations

import os
import random
import time
from types import SimpleNamespace

import pytest
import ray
from ray.cluster_utils import Cluster
from searching import write_search

from nas.cluster import connect
from nas.errors import SearchError
from nas.evaluate import EvaluationRecipe
from nas.search.ray_executor import RayExecutor
from nas.space import SearchSpace
from nas.study import Search
from nas.tasks import ClassMetric

SPACE = SearchSpace.load("tiny")
TWO = Search(executor="ray", workers=2)


@pytest.fixture(scope="module")
def cluster():
    """A head that evaluates nothing; this process is connected to it."""
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    connect(found.address, "tests")
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.fixture
def recipe(tmp_path):
    folder = write_search(tmp_path)
    return EvaluationRecipe(folder / "supernet", folder / "data", ClassMetric("accuracy"))


def _evaluate(executor, count):
    for ticket in range(count):
        executor.submit(ticket, SPACE.sample(random.Random(ticket)), 0.0)
    return dict(executor.next_result() for _ in range(count))


@pytest.mark.slow
def test_nodes_that_join_are_used_and_those_that_go_are_made_up_for(cluster, recipe, capsys, monkeypatch):
    monkeypatch.setattr("nas.search.ray_executor._PATIENCE_S", 0.5)
    evaluator = recipe.load()
    expected = [evaluator.evaluate(SPACE.sample(random.Random(ticket))).accuracy for ticket in range(8)]
    with RayExecutor(recipe, TWO) as executor:
        node = cluster.add_node(num_cpus=1)
        _evaluate(executor, 4)
        assert executor.placed == 1, "the other one is waited for, without keeping this one from its work"
        cluster.add_node(num_cpus=1)
        while executor.placed < 2:
            _evaluate(executor, 2)
            time.sleep(0.2)
        cluster.remove_node(node, allow_graceful=False)
        while executor.placed == 2:  # a worker may go on for a moment after its node
            found = _evaluate(executor, 8)
        assert executor.placed == 1
    assert [found[ticket].accuracy for ticket in range(8)] == pytest.approx(expected)
    said = capsys.readouterr().err
    assert "waiting for a Ray node with room for a worker (CPUs: 1, GPUs: 0)" in said
    assert "a worker was lost; evaluating" in said


@pytest.mark.slow
def test_workers_that_are_lost_before_they_work_are_not_asked_for_for_ever(cluster, monkeypatch):
    monkeypatch.setattr("nas.search.ray_executor._MOST_LOSSES", 1)
    cluster.add_node(num_cpus=1)
    deadly = SimpleNamespace(evaluator=lambda *_: os._exit(1))
    with (
        RayExecutor(SimpleNamespace(read=lambda: deadly), Search(executor="ray")) as executor,
        pytest.raises(SearchError, match="1 workers in a row were lost while they loaded"),
    ):
        _evaluate(executor, 1)
