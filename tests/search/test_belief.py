"""What a Gaussian process makes of results, and how doubt goes where some are supposed."""

from __future__ import annotations

import numpy as np

from nas.search.belief import Belief, Outlook


def test_belief_follows_a_value_less_that_few_examples_gave():
    x, y = np.linspace(0.0, 9.0, 10)[:, None], np.linspace(0.0, 1.0, 10)
    y[6] = 3.0
    whole = Belief(x, y, np.full(10, 100)).posterior(x).mean
    partly = Belief(x, y, np.where(np.arange(10) == 6, 10, 100)).posterior(x).mean
    assert abs(partly[6] - 6 / 9) < 0.5 * abs(whole[6] - 6 / 9)


def test_a_supposed_value_leaves_less_doubt():
    x = np.linspace(0.0, 9.0, 10)[:, None]
    belief = Belief(x, np.sin(x[:, 0]), np.full(10, 1))
    new = np.array([[20.0]])
    before = belief.posterior(new).variance
    belief.suppose(new, np.array([0.5]))
    after = belief.posterior(new)
    assert after.variance < before and abs(after.mean - 0.5) < 0.5


def test_an_outlook_is_what_learning_the_supposed_rows_would_give():
    rng = np.random.default_rng(0)
    x, new = rng.standard_normal((40, 6)), rng.standard_normal((30, 6))
    y, examples = np.sin(x).sum(axis=1) + 0.1 * rng.standard_normal(40), np.full(40, 100)
    outlook, belief = Outlook(Belief(x, y, examples)), Belief(x, y, examples)
    outlook.extend(new[:10])
    outlook.extend(new[10:])
    for place in (3, 17, 3, 20):
        outlook.suppose(place)
        belief.suppose(new[[place]], outlook.mean[[place]])
        learnt = belief.posterior(new)
        assert np.allclose(learnt.mean, outlook.mean) and np.allclose(learnt.variance, outlook.doubt**2, atol=1e-8)
