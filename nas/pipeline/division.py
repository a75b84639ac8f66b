"""How the time of a run that is given hours is divided among supernet, search and final training.

What has a fixed cost (data, teacher, profiles, baselines, measuring, exports) comes off first. The rest is divided by
shares, and turned into numbers of steps by what one of them takes on this machine.
"""

from __future__ import annotations

from collections.abc import Sequence

SUPERNET_SHARE = 0.2
"""Of the time that supernet, search and final training have together: a supernet ranks candidates early, and longer
training of it helps the exports less than their own final training does."""
SUPERNET_SHARE_ALONE = 0.75
"""The same where there is no final training, so that exports keep the supernet's weights."""
SEARCH_SHARE = 0.2
"""Of the time that is left after the supernet, at most: more candidates than these bring little."""
LEAST_STEPS = 50
"""Of a training: with fewer the rates of learning hardly rise and fall, and nothing is learnt."""
LEAST_EVALUATIONS = 32
"""Of a search: the first generation, which its model of accuracy is fitted to."""
MOST_EVALUATIONS = 400
"""Of a search: twice the number that it has without hours."""
WARM_UP_STEPS, TIMED_STEPS = 3, 12
"""Of the training that tells the speed: the first ones are slower, and each text length is to be met."""
BESIDE = 15.0
"""Seconds that a run takes outside of its steps: for loading packages and for the report."""


def supernet_seconds(left: float, has_finalists: bool) -> float:
    """Of what is left for supernet, search and final training, what the supernet gets."""
    return left * (SUPERNET_SHARE if has_finalists else SUPERNET_SHARE_ALONE)


def search_seconds(left: float) -> float:
    """Of what is left for search and final training, what the search gets at most."""
    return left * SEARCH_SHARE


def training_steps(seconds: float, step: float) -> int:
    """How many steps fit into a time, at least the least that a training has; a step takes so many seconds."""
    return max(LEAST_STEPS, int(seconds / step))


def evaluations(seconds: float, evaluation: float) -> int:
    """How many evaluations fit into a time, within the bounds of a search; one takes so many seconds."""
    return min(MOST_EVALUATIONS, max(LEAST_EVALUATIONS, int(seconds / evaluation)))


def mean_step(rungs: Sequence[float], trained: Sequence[int], few: tuple[int, float], many: tuple[int, float]) -> float:
    """The mean seconds of a step of networks that are trained together and dropped at rungs, shares of the steps.

    `trained` says how many there are before the first rung, between that and the next, and so on; `few` and `many` are
    a number of networks and the seconds of a step with so many. What lies between is on a straight line.
    """
    shares = [end - begin for begin, end in zip((0.0, *rungs), (*rungs, 1.0), strict=True)]
    each = (many[1] - few[1]) / (many[0] - few[0]) if many[0] > few[0] else 0.0
    return sum(
        share * max(few[1], few[1] + each * (count - few[0])) for share, count in zip(shares, trained, strict=True)
    )
