"""The Gaussian process of the guided search: its means, and its variances after fantasies."""

from __future__ import annotations

import numpy as np

from nas.search.surrogate import PoolPosterior, Surrogate


def test_a_value_from_few_examples_has_less_influence():
    x, y = np.linspace(0.0, 9.0, 10)[:, None], np.linspace(0.0, 1.0, 10)
    y[6] = 3.0
    whole = Surrogate(x, y, np.full(10, 100)).posterior(x).mean
    partly = Surrogate(x, y, np.where(np.arange(10) == 6, 10, 100)).posterior(x).mean
    assert abs(partly[6] - 6 / 9) < 0.5 * abs(whole[6] - 6 / 9)


def test_a_fantasy_reduces_the_variance_and_attracts_the_mean():
    x = np.linspace(0.0, 9.0, 10)[:, None]
    surrogate = Surrogate(x, np.sin(x[:, 0]), np.full(10, 1))
    new = np.array([[20.0]])
    before = surrogate.posterior(new).variance
    surrogate.fantasise(new, np.array([0.5]))
    after = surrogate.posterior(new)
    assert after.variance < before and abs(after.mean - 0.5) < 0.5


def test_the_pool_posterior_equals_that_of_a_surrogate_with_the_same_fantasies():
    rng = np.random.default_rng(0)
    x, new = rng.standard_normal((40, 6)), rng.standard_normal((30, 6))
    y, examples = np.sin(x).sum(axis=1) + 0.1 * rng.standard_normal(40), np.full(40, 100)
    pool_posterior, surrogate = PoolPosterior(Surrogate(x, y, examples)), Surrogate(x, y, examples)
    pool_posterior.extend(new[:10])
    pool_posterior.extend(new[10:])
    for place in (3, 17, 3, 20):
        pool_posterior.fantasise(place)
        surrogate.fantasise(new[[place]], pool_posterior.mean[[place]])
        expected = surrogate.posterior(new)
        assert np.allclose(expected.mean, pool_posterior.mean) and np.allclose(
            expected.variance, pool_posterior.standard_deviation**2, atol=1e-8
        )
