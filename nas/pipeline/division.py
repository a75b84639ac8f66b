"""Divides `training.hours` among the supernet's training, the search and the final training.

The steps with a fixed cost (data, teacher, profiles, baselines, measurements, exports) are deducted first. The rest is
divided by fixed shares. Each share and a short timing determine the number of training steps or evaluations.
"""

from __future__ import annotations

from collections.abc import Sequence

SUPERNET_SHARE = 0.2
"""The supernet's share of the time for supernet, search and final training. A supernet ranks candidates well early on,
and exports gain more from their own final training than from a longer training of the supernet."""
SUPERNET_SHARE_ALONE = 0.75
"""The same share if there is no final training, so that exports keep the supernet's weights."""
SEARCH_SHARE = 0.2
"""The search takes at most this share of the time left after the supernet. More candidates would gain little."""
LEAST_STEPS = 50
"""The fewest steps of a training. With fewer, warm-up and decay of the learning rate leave no time to learn."""
LEAST_EVALUATIONS = 32
"""The fewest evaluations of a search: the first generation, to which the surrogate model is fitted."""
MOST_EVALUATIONS = 400
"""The most evaluations of a search: twice the default of a study without hours."""
WARM_UP_STEPS, TIMED_STEPS = 3, 12
"""The steps of the short training that measures the speed. The first steps are slower and are not timed. There are
enough timed steps to meet texts of every length."""
OUTSIDE_STEPS = 15.0
"""Seconds that a run takes outside its steps: for loading packages and for the report."""


def supernet_seconds(left: float, has_finalists: bool) -> float:
    """Return the supernet's share of the `left` seconds for supernet, search and final training."""
    return left * (SUPERNET_SHARE if has_finalists else SUPERNET_SHARE_ALONE)


def search_seconds(left: float) -> float:
    """Return the most that the search may take of the `left` seconds for search and final training."""
    return left * SEARCH_SHARE


def training_steps(seconds: float, step: float) -> int:
    """Return how many steps of `step` seconds fit into `seconds`, but at least `LEAST_STEPS`."""
    return max(LEAST_STEPS, int(seconds / step))


def evaluations(seconds: float, evaluation: float) -> int:
    """Return how many evaluations of `evaluation` seconds fit into `seconds`, within the bounds of a search."""
    return min(MOST_EVALUATIONS, max(LEAST_EVALUATIONS, int(seconds / evaluation)))


def mean_step(rungs: Sequence[float], trained: Sequence[int], few: tuple[int, float], many: tuple[int, float]) -> float:
    """Return the mean seconds per step of a training that starts with many networks and drops some at each rung.

    `rungs` are shares of all steps. `trained` holds the number of networks before the first rung, between the first
    and the second rung, and so on. `few` and `many` each pair a number of networks with the measured seconds per step
    for that number; the time for other numbers is interpolated linearly.
    """
    shares = [end - begin for begin, end in zip((0.0, *rungs), (*rungs, 1.0), strict=True)]
    each = (many[1] - few[1]) / (many[0] - few[0]) if many[0] > few[0] else 0.0
    return sum(
        share * max(few[1], few[1] + each * (count - few[0])) for share, count in zip(shares, trained, strict=True)
    )
