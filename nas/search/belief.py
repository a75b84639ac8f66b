"""What is believed of architectures that were not evaluated: a Gaussian process over their features."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Kernel, Matern, WhiteKernel

_FITTED = 150
"""So many results a process's own settings are fitted to."""
_EXACT = 1e-6
"""The variance of what counts as known, in units of all values' own."""


class Posterior(NamedTuple):
    """What is expected of some rows."""

    mean: np.ndarray
    variance: np.ndarray
    """Of what they have in common with others, without what only one network has."""
    whitened: np.ndarray
    """What is known of each row, a column of independent parts; what two rows owe to the same parts they share."""


class Belief:
    """What is expected of architectures and how much that is in doubt: a Gaussian process over their features."""

    def __init__(self, x: np.ndarray, y: np.ndarray, examples: np.ndarray, kernel: Kernel | None = None) -> None:
        """Learn values of feature rows; one that fewer examples were looked at for is less sure. Without a kernel its
        settings are fitted.

        The lowest fifth counts as the best of it, `least`: how far that is from the front would only bend the process.
        """
        self.least = np.quantile(y, 0.2)
        y = np.maximum(y, self.least)
        spread = x.std(axis=0)
        self._scale = np.where(spread > 0.0, spread, np.inf)
        self._centre, self._spread = y.mean(), max(float(y.std()), 1e-6)
        self._x, self._y = x / self._scale, (y - self._centre) / self._spread
        self._noise = _EXACT + examples.max() / examples - 1.0
        self.kernel = kernel or self._fitted()
        self._learn()

    def _fitted(self) -> Kernel:
        some = slice(None, None, math.ceil(len(self._y) / _FITTED))
        kernel = ConstantKernel(1.0) * Matern(10.0, (1.0, 1e3), nu=1.5) + WhiteKernel(0.1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            process = GaussianProcessRegressor(kernel, alpha=self._noise[some]).fit(self._x[some], self._y[some])
        return process.kernel_

    def _learn(self) -> None:
        self._process = GaussianProcessRegressor(self.kernel, alpha=self._noise, optimizer=None)
        self._process.fit(self._x, self._y)

    def posterior(self, x: np.ndarray) -> Posterior:
        """What is expected of each row."""
        x = x / self._scale
        shared = self.kernel(x, self._x)
        whitened = solve_triangular(self._process.L_, shared.T, lower=True, check_finite=False)
        variance = self.kernel.k1.diag(x) - np.square(whitened).sum(axis=0)
        mean = shared @ self._process.alpha_ * self._spread + self._centre
        return Posterior(mean, variance * self._spread**2, whitened * self._spread)

    def shared(self, x: np.ndarray, row: np.ndarray) -> np.ndarray:
        """The covariance of rows with another row before anything is known."""
        covariance: np.ndarray = self.kernel(x / self._scale, row[None] / self._scale)[:, 0] * self._spread**2
        return covariance

    @property
    def own(self) -> float:
        """The variance of what only one network has."""
        return float((self.kernel.k2.noise_level + _EXACT) * self._spread**2)

    def suppose(self, x: np.ndarray, y: np.ndarray) -> None:
        """Take values as known."""
        self._x = np.concatenate([self._x, x / self._scale])
        self._y = np.concatenate([self._y, (y - self._centre) / self._spread])
        self._noise = np.concatenate([self._noise, np.full(len(y), _EXACT)])
        self._learn()


class Outlook:
    """What is expected of a growing number of architectures, of which one after the other is taken to come out so.

    That changes no expectation, but the doubt about those that are like it.
    """

    def __init__(self, belief: Belief) -> None:
        self._belief = belief
        self._x = np.empty((0, 0))

    def extend(self, x: np.ndarray) -> None:
        """Add rows."""
        added = self._belief.posterior(x)
        if not len(self._x):
            self._x, (self.mean, self._variance, self._whitened) = x, added
            return
        self._x = np.concatenate([self._x, x])
        self.mean = np.concatenate([self.mean, added.mean])
        self._variance = np.concatenate([self._variance, added.variance])
        self._whitened = np.concatenate([self._whitened, added.whitened], axis=1)

    @property
    def doubt(self) -> np.ndarray:
        """The standard deviation of each row."""
        doubt: np.ndarray = np.sqrt(np.maximum(self._variance, 0.0))
        return doubt

    def suppose(self, place: int) -> None:
        """Take a row to come out as expected. No rows are added after that."""
        known = self._whitened[:, place]
        shared = self._belief.shared(self._x, self._x[place]) - known @ self._whitened
        part = shared / math.sqrt(max(self._variance[place], 0.0) + self._belief.own)
        self._variance = self._variance - part**2
        self._whitened = np.vstack([self._whitened, part])
