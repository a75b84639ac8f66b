"""The surrogate model of the guided search: a Gaussian process over the features of architectures.

`Surrogate` is conditioned on the candidates evaluated so far. `PoolPosterior` holds the posterior of a growing pool of
candidates that have not been evaluated yet, and updates it while a batch is picked from the pool. `guided.py` uses both
classes.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Kernel, Matern, WhiteKernel

_MAX_FITTED = 150
"""The maximum number of results to which the kernel's hyperparameters are fitted. If there are more, only an
evenly spaced selection of them is used."""
_EXACT_NOISE = 1e-6
"""The noise variance of an observation that is treated as exact, relative to the variance of all values."""


class Posterior(NamedTuple):
    """The posterior of the Gaussian process at some feature rows."""

    mean: np.ndarray
    """The posterior means, (rows,)."""
    variance: np.ndarray
    """The posterior variances of the process itself, without the noise of observations, (rows,)."""
    whitened: np.ndarray
    """The prior covariances of the observations and the rows, whitened by the Cholesky factor of the observations'
    covariance: (observations, rows).

    The posterior covariance of two rows is their prior covariance minus the dot product of their columns in this array.
    """


class Surrogate:
    """A Gaussian process that predicts values, such as accuracies, from feature rows of architectures."""

    def __init__(self, x: np.ndarray, y: np.ndarray, examples: np.ndarray, kernel: Kernel | None = None) -> None:
        """Condition the process on values `y`, (rows,), of feature rows `x`, (rows, features).

        `examples`, (rows,), is the number of texts from which each value was computed: the fewer texts, the noisier the
        value. Without a `kernel`, the hyperparameters of a new kernel are fitted. Values below the 20 % quantile of `y`
        are raised to this quantile, which is stored as `least`, because exact values of poor networks would only
        distort the fit.
        """
        self.least = np.quantile(y, 0.2)
        y = np.maximum(y, self.least)
        spread = x.std(axis=0)
        self._scale = np.where(spread > 0.0, spread, np.inf)
        self._centre, self._spread = y.mean(), max(float(y.std()), 1e-6)
        self._x, self._y = x / self._scale, (y - self._centre) / self._spread
        self._noise = _EXACT_NOISE + examples.max() / examples - 1.0
        self.kernel = kernel or self._fit_kernel()
        self._condition_process()

    def _fit_kernel(self) -> Kernel:
        subset = slice(None, None, math.ceil(len(self._y) / _MAX_FITTED))
        kernel = ConstantKernel(1.0) * Matern(10.0, (1.0, 1e3), nu=1.5) + WhiteKernel(0.1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            process = GaussianProcessRegressor(kernel, alpha=self._noise[subset]).fit(self._x[subset], self._y[subset])
        return process.kernel_

    def _condition_process(self) -> None:
        self._process = GaussianProcessRegressor(self.kernel, alpha=self._noise, optimizer=None)
        self._process.fit(self._x, self._y)

    def posterior(self, x: np.ndarray) -> Posterior:
        """Return the posterior at the feature rows `x`, (rows, features)."""
        x = x / self._scale
        covariance = self.kernel(x, self._x)
        whitened = solve_triangular(self._process.L_, covariance.T, lower=True, check_finite=False)
        variance = self.kernel.k1.diag(x) - np.square(whitened).sum(axis=0)
        mean = covariance @ self._process.alpha_ * self._spread + self._centre
        return Posterior(mean, variance * self._spread**2, whitened * self._spread)

    def prior_covariance(self, x: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Return the prior covariance between each of the feature rows `x` and one more row, `row`: (rows,)."""
        covariance: np.ndarray = self.kernel(x / self._scale, row[None] / self._scale)[:, 0] * self._spread**2
        return covariance

    @property
    def noise_variance(self) -> float:
        """The residual variance, which the features do not explain.

        It remains even for values without measurement noise.
        """
        return float((self.kernel.k2.noise_level + _EXACT_NOISE) * self._spread**2)

    def fantasise(self, x: np.ndarray, y: np.ndarray) -> None:
        """Condition the process also on assumed values `y` of feature rows `x`, which are treated as exact."""
        self._x = np.concatenate([self._x, x / self._scale])
        self._y = np.concatenate([self._y, (y - self._centre) / self._spread])
        self._noise = np.concatenate([self._noise, np.full(len(y), _EXACT_NOISE)])
        self._condition_process()


class PoolPosterior:
    """The posterior of a growing pool of candidates, conditioned on assumed values of the candidates that were picked.

    Each picked candidate is assumed to reach its posterior mean ("kriging believer": Ginsbourger, Le Riche and
    Carraro, 2010). This leaves all posterior means unchanged and only shrinks the variances of candidates that
    correlate with the picked one.
    """

    def __init__(self, surrogate: Surrogate) -> None:
        self._surrogate = surrogate
        self._x = np.empty((0, 0))

    def extend(self, x: np.ndarray) -> None:
        """Add candidates to the pool. `x` holds their feature rows, (rows, features)."""
        added = self._surrogate.posterior(x)
        if not len(self._x):
            self._x, (self.mean, self._variance, self._whitened) = x, added
            return
        self._x = np.concatenate([self._x, x])
        self.mean = np.concatenate([self.mean, added.mean])
        self._variance = np.concatenate([self._variance, added.variance])
        self._whitened = np.concatenate([self._whitened, added.whitened], axis=1)

    @property
    def standard_deviation(self) -> np.ndarray:
        """The posterior standard deviation of each candidate, (candidates,)."""
        standard_deviation: np.ndarray = np.sqrt(np.maximum(self._variance, 0.0))
        return standard_deviation

    def fantasise(self, index: int) -> None:
        """Condition the posterior on the assumption that the candidate at `index` reaches its posterior mean.

        After the first call, no more candidates may be added to the pool.
        """
        column = self._whitened[:, index]
        covariance = self._surrogate.prior_covariance(self._x, self._x[index]) - column @ self._whitened
        new_row = covariance / math.sqrt(max(self._variance[index], 0.0) + self._surrogate.noise_variance)
        self._variance = self._variance - new_row**2
        self._whitened = np.vstack([self._whitened, new_row])
