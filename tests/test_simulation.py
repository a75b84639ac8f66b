"""The simulated executor advances its clock by the drawn times and evaluates lost candidates again."""

from __future__ import annotations

import random

import pytest
from simulation import Pool, SimulatedExecutor

from nas.evaluate import CandidateResult
from nas.space import SearchSpace

SPACE = SearchSpace.load("tiny")


def _evaluate(executor, count):
    """Evaluate candidates as a search does; return their tickets in the order of the results."""
    rng, found, handed = random.Random(0), [], 0
    with executor:
        while len(found) < count:
            while handed < count and handed - len(found) < executor.capacity:
                executor.submit(handed, SPACE.sample(rng), 0.0)
                handed += 1
            found.append(executor.next_result()[0])
    return found


def _taking(seconds):
    return lambda architecture, to_beat: CandidateResult(architecture, 0.5, 1, seconds)


@pytest.mark.parametrize("workers", [1, 10])
def test_workers_share_the_work(workers):
    # Each evaluation takes a day, so the time of the driver is negligible.
    executor = SimulatedExecutor(_taking(86_400.0), Pool(workers))
    assert sorted(_evaluate(executor, 100)) == list(range(100))
    assert executor.now_s == pytest.approx(100 / workers * 86_400.0, rel=1e-3)
    assert executor.busy_s == 100 * 86_400.0 and executor.lost == 0


def test_candidates_of_a_dead_worker_are_evaluated_again():
    executor = SimulatedExecutor(_taking(86_400.0), Pool(4, death=0.3, back_s=3600.0))
    assert sorted(_evaluate(executor, 200)) == list(range(200))
    assert executor.lost > 30 and executor.busy_s == 200 * 86_400.0
    assert executor.now_s > 200 / 4 * 86_400.0


def test_stragglers_do_not_hold_up_other_workers():
    quick = SimulatedExecutor(_taking(86_400.0), Pool(10, straggling=0.1))
    order = _evaluate(quick, 300)
    assert sorted(order) == list(range(300)) != order
    assert 300 * 86_400.0 < quick.busy_s <= 300 * 86_400.0 * 50.0
    assert quick.now_s < 1.5 * quick.busy_s / 10 + 50 * 86_400.0


def test_the_time_of_the_driver_counts():
    executor = SimulatedExecutor(_taking(0.0), Pool(1))
    _evaluate(executor, 20)
    assert executor.busy_s == 0.0 < executor.driver_s == pytest.approx(executor.now_s)
