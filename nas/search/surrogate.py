"""The surrogate model of the guided search: a Gaussian process that predicts accuracies from architecture features.

`Surrogate` is conditioned on the candidates that have been evaluated. `PoolPosterior` stores the posterior distribution
of a pool of candidates that have not been evaluated, and updates it while a batch is chosen from this pool. `guided.py`
uses both classes.
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
"""The kernel's hyperparameters are fitted to at most this many results.

If there are more results, an evenly spaced selection of them is used.
"""
_EXACT_NOISE = 1e-6
"""The noise variance that is assumed for an exact observation, as a fraction of the variance of all observed values."""


class Posterior(NamedTuple):
    """The posterior distribution of the Gaussian process at several feature rows."""

    mean: np.ndarray
    """The posterior means (rows,)."""
    variance: np.ndarray
    """The posterior variances (rows,) without the noise of observations."""
    whitened: np.ndarray
    """inv(L) @ K, (observations, rows).

    L is the Cholesky factor of the observations' covariance matrix. K contains the prior covariances between the
    observations and the rows. The posterior covariance of two rows is their prior covariance minus the dot product of
    their columns in this array.
    """


class Surrogate:
    """A Gaussian process that predicts values, such as accuracies, from the features of architectures."""

    def __init__(self, x: np.ndarray, y: np.ndarray, examples: np.ndarray, kernel: Kernel | None = None) -> None:
        """Condition the process on observed values `y` (rows,) at the feature rows `x` (rows, features).

        `examples` (rows,) is the number of texts from which each value was computed. Values from fewer texts are
        assumed to be noisier. If `kernel` is None, the hyperparameters of a new kernel are fitted. Values below the 20
        % quantile of `y` are raised to this quantile, because differences between poor networks would only distort the
        fit. The quantile is stored as `least`.
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
        """Return the posterior distribution at the feature rows `x` (rows, features)."""
        x = x / self._scale
        covariance = self.kernel(x, self._x)
        whitened = solve_triangular(self._process.L_, covariance.T, lower=True, check_finite=False)
        variance = self.kernel.k1.diag(x) - np.square(whitened).sum(axis=0)
        mean = covariance @ self._process.alpha_ * self._spread + self._centre
        return Posterior(mean, variance * self._spread**2, whitened * self._spread)

    def prior_covariance(self, x: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Return the prior covariance (rows,) between each row of `x` (rows, features) and `row` (features,)."""
        covariance: np.ndarray = self.kernel(x / self._scale, row[None] / self._scale)[:, 0] * self._spread**2
        return covariance

    @property
    def noise_variance(self) -> float:
        """The residual variance, which the features do not explain.

        This variance remains even for values without measurement noise.
        """
        return float((self.kernel.k2.noise_level + _EXACT_NOISE) * self._spread**2)

    def fantasise(self, x: np.ndarray, y: np.ndarray) -> None:
        """Condition the process on additional values `y` (rows,) at the feature rows `x` (rows, features).

        These values are assumptions instead of observations, and are treated as exact.
        """
        self._x = np.concatenate([self._x, x / self._scale])
        self._y = np.concatenate([self._y, (y - self._centre) / self._spread])
        self._noise = np.concatenate([self._noise, np.full(len(y), _EXACT_NOISE)])
        self._condition_process()


class PoolPosterior:
    """The posterior distribution of the candidates in a pool, updated after each choice from the pool.

    Each chosen candidate is assumed to reach its posterior mean ("kriging believer": Ginsbourger, Le Riche and Carraro,
    2010). This leaves all posterior means unchanged and only shrinks the variances of candidates that correlate with
    the chosen one.
    """

    def __init__(self, surrogate: Surrogate) -> None:
        self._surrogate = surrogate
        self._x = np.empty((0, 0))

    def extend(self, x: np.ndarray) -> None:
        """Add candidates with the feature rows `x` (candidates, features) to the pool."""
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
        """Update the posterior as if the candidate at `index` had reached its posterior mean.

        Do not call `extend` afterwards, because new candidates would lack this update.
        """
        column = self._whitened[:, index]
        covariance = self._surrogate.prior_covariance(self._x, self._x[index]) - column @ self._whitened
        new_row = covariance / math.sqrt(max(self._variance[index], 0.0) + self._surrogate.noise_variance)
        self._variance = self._variance - new_row**2
        self._whitened = np.vstack([self._whitened, new_row])
