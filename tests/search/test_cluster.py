"""A search on a Ray cluster whose nodes join and leave while it runs."""

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
    """A cluster whose head evaluates nothing. This process is connected to it."""
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
def test_new_nodes_are_used_and_candidates_of_lost_nodes_are_evaluated_again(cluster, recipe, monkeypatch):
    messages, nodes = [], []

    def record(message):
        messages.append(message)
        if not nodes and message == "search: waiting for a Ray node with room for a worker (CPUs: 1, GPUs: 0)":
            nodes.append(cluster.add_node(num_cpus=1))

    monkeypatch.setattr("nas.search.ray_executor._WAIT_TIMEOUT_S", 0.5)
    monkeypatch.setattr("nas.search.ray_executor.say", record)
    evaluator = recipe.load()
    expected = [evaluator.evaluate(SPACE.sample(random.Random(ticket))).accuracy for ticket in range(8)]
    with RayExecutor(recipe, TWO) as executor:
        _evaluate(executor, 4)  # the cluster has no node for a worker until the search says that it waits for one
        assert executor.placed == 1, "one worker evaluates while the other one waits for a node"
        cluster.add_node(num_cpus=1)
        while executor.placed < 2:
            _evaluate(executor, 2)
            time.sleep(0.2)
        cluster.remove_node(nodes[0], allow_graceful=False)
        while executor.placed == 2:  # a worker may outlive its node for a moment
            found = _evaluate(executor, 8)
        assert executor.placed == 1
    assert [found[ticket].accuracy for ticket in range(8)] == pytest.approx(expected)
    assert any("a worker was lost; evaluating" in message for message in messages)


@pytest.mark.slow
def test_a_search_fails_if_its_workers_keep_dying_while_they_load(cluster, monkeypatch):
    monkeypatch.setattr("nas.search.ray_executor._MAX_LOSSES", 1)
    cluster.add_node(num_cpus=1)
    deadly = SimpleNamespace(evaluator=lambda *_: os._exit(1))
    with (
        RayExecutor(SimpleNamespace(read=lambda: deadly), Search(executor="ray")) as executor,
        pytest.raises(SearchError, match="1 workers in a row were lost while they loaded"),
    ):
        _evaluate(executor, 1)
