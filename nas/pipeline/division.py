"""Divides `training.hours` among the supernet's training, the search and the final training.

`allowance.py` first deducts the time for the steps with a fixed cost (data, teacher, profiles, baselines, measurements,
exports). This module divides the rest by fixed fractions. The time that a stage gets, divided by the measured time per
training step or evaluation, gives the number of training steps or evaluations.
"""

from __future__ import annotations

from collections.abc import Sequence

SUPERNET_SHARE = 0.2
"""The supernet's fraction of the time for supernet, search and final training. This fraction is small, because a
supernet ranks candidates well even after short training, and exports gain more from the final training."""
SUPERNET_SHARE_ALONE = 0.75
"""The supernet's fraction of the time for supernet and search, if there is no final training."""
SEARCH_SHARE = 0.2
"""The search may take at most this fraction of the time that is left after the supernet's training. Evaluating more
candidates would improve the result only a little."""
LEAST_STEPS = 50
"""The minimum number of training steps. With fewer steps, warm-up and decay of the learning rate leave no time to
learn."""
LEAST_EVALUATIONS = 32
"""The minimum number of evaluations in a search: the default size of the first generation, to which the surrogate model
is fitted."""
MOST_EVALUATIONS = 400
"""The maximum number of evaluations in a search, twice the default of `search.evaluations`."""
WARM_UP_STEPS, TIMED_STEPS = 3, 12
"""The time per step is measured in a short training run, which has this many untimed steps and then this many timed
ones. The first steps are not timed, because they are slower. The timed steps include texts of all lengths."""
OUTSIDE_STEPS = 15.0
"""Seconds that a run takes outside its steps, to load packages and to write the report."""


def supernet_seconds(left: float, has_finalists: bool) -> float:
    """Return how many of the `left` seconds the supernet's training gets.

    Search and final training get the rest. `has_finalists` states whether there is a final training.
    """
    return left * (SUPERNET_SHARE if has_finalists else SUPERNET_SHARE_ALONE)


def search_seconds(left: float) -> float:
    """Return the maximum number of seconds for the search, if `left` seconds remain for search and final training."""
    return left * SEARCH_SHARE


def training_steps(seconds: float, step: float) -> int:
    """Return how many training steps of `step` seconds each fit into `seconds`, but at least `LEAST_STEPS`."""
    return max(LEAST_STEPS, int(seconds / step))


def evaluations(seconds: float, evaluation: float) -> int:
    """Return how many evaluations of `evaluation` seconds each fit into `seconds`.

    The number is at least `LEAST_EVALUATIONS` and at most `MOST_EVALUATIONS`.
    """
    return min(MOST_EVALUATIONS, max(LEAST_EVALUATIONS, int(seconds / evaluation)))


def mean_step(rungs: Sequence[float], trained: Sequence[int], few: tuple[int, float], many: tuple[int, float]) -> float:
    """Return the mean seconds per step of a training run that drops some of its networks at each rung.

    `rungs` holds the fractions of the run's steps after which networks are dropped. `trained` holds the number of
    networks before the first rung, between the first and the second rung, and so on. `few` and `many` each pair a
    number of networks with the measured seconds per step for that number. Linear interpolation gives the seconds for
    other numbers of networks.
    """
    shares = [end - begin for begin, end in zip((0.0, *rungs), (*rungs, 1.0), strict=True)]
    each = (many[1] - few[1]) / (many[0] - few[0]) if many[0] > few[0] else 0.0
    return sum(
        share * max(few[1], few[1] + each * (count - few[0])) for share, count in zip(shares, trained, strict=True)
    )
