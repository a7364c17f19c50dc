"""Linear least squares that outliers do not move and whose errors are what the data show.

Quoted errors of stars are the least of what they scatter by: variability, undetected neighbours
and what models miss come on top. So a scatter common to all is found beside the coefficients and
added to each value's variance, and values farther off than `clip` of that are left out. The start
is a Huber fit (Huber 1964), as a clip around a least-squares start throws away the wrong ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAD_TO_SIGMA = 1.4826
_HUBER = 1.345
"""In units of the robust width: 95 % efficient for Gaussian errors."""
_START_ROUNDS = 15
_MAX_ROUNDS = 30
_HALVINGS = 25


@dataclass(frozen=True, eq=False)
class LinearFit:
    """The outcome of `robust_fit`.

    Attributes
    ----------
    coefficients, covariance
        (p,) and (p, p) float64.
    used
        (n,) bool: the values that were not left out.
    residuals
        (n,) float64, value minus fit, of all values.
    variance
        (n,) float64, of all values: quoted, and the scatter added.
    scatter
        Standard deviation beyond the quoted errors, in the values' unit.
    """

    coefficients: np.ndarray
    covariance: np.ndarray
    used: np.ndarray
    residuals: np.ndarray
    variance: np.ndarray
    scatter: float

    @property
    def n_used(self) -> int:
        """How many values were not left out."""
        return int(self.used.sum())

    @property
    def chi2(self) -> float:
        """Of the values used, by their full variance."""
        return float((self.residuals**2 / self.variance)[self.used].sum())


def least_squares(
    design: np.ndarray, values: np.ndarray, variance: np.ndarray, prior: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients and covariance of a weighted linear fit.

    Parameters
    ----------
    design
        (n, p).
    values, variance
        (n,).
    prior
        (p,) standard deviation about 0 that each coefficient is known to have beforehand; inf for
        none. Keeps a fit determined where positions or colours are all alike.
    """
    weighted = design / variance[:, None]
    normal = weighted.T @ design + np.diag(1.0 / np.asarray(prior, float) ** 2)
    scale = 1.0 / np.sqrt(np.maximum(np.diag(normal), 1e-300))
    # The ridge of 1e-12 is for a term that neither data nor prior determine.
    scaled = normal * np.outer(scale, scale) + 1e-12 * np.eye(len(normal))
    covariance = np.linalg.inv(scaled) * np.outer(scale, scale)
    return covariance @ (weighted.T @ values), covariance


def robust_fit(
    design: np.ndarray,
    values: np.ndarray,
    variance: np.ndarray,
    *,
    clip: float = 3.5,
    prior: np.ndarray | None = None,
) -> LinearFit:
    """Fit `values` by ``design @ coefficients``; see the module.

    Parameters
    ----------
    design
        (n, p) with n >= p >= 1; the first column is the constant one.
    values, variance
        (n,) finite, variances positive.
    clip
        Values farther off than this times their full standard deviation are left out.
    prior
        See `least_squares`; None for none.
    """
    prior = np.full(design.shape[1], np.inf) if prior is None else prior
    residuals = values - design @ _huber_start(design, values, variance, prior)
    width = MAD_TO_SIGMA * np.median(np.abs(residuals - np.median(residuals)))
    added = max(float(width**2 - np.median(variance)), 0.0)
    used = residuals**2 <= clip**2 * (variance + added)
    if not used.any():
        used = np.ones(len(values), bool)
    for _ in range(_MAX_ROUNDS):
        added = _added_variance(design[used], values[used], variance[used], prior)
        coefficients, _ = least_squares(design[used], values[used], variance[used] + added, prior)
        residuals = values - design @ coefficients
        now = residuals**2 <= clip**2 * (variance + added)
        if not now.any() or (now == used).all():
            break
        used = now
    full = variance + added
    coefficients, covariance = least_squares(design[used], values[used], full[used], prior)
    residuals = values - design @ coefficients
    return LinearFit(coefficients, covariance, used, residuals, full, float(np.sqrt(added)))


def _huber_start(
    design: np.ndarray, values: np.ndarray, variance: np.ndarray, prior: np.ndarray
) -> np.ndarray:
    """Coefficients by iteratively reweighted least squares from the median on."""
    coefficients = np.zeros(design.shape[1])
    coefficients[0] = np.median(values)
    sigma = np.sqrt(variance)
    for _ in range(_START_ROUNDS):
        off = np.abs(values - design @ coefficients)
        width = max(MAD_TO_SIGMA * float(np.median(off / sigma)), 1.0)
        weight = 1.0 / np.maximum(off / (_HUBER * width * sigma), 1.0)
        coefficients, _ = least_squares(design, values, variance * width**2 / weight, prior)
    return coefficients


def _added_variance(
    design: np.ndarray, values: np.ndarray, variance: np.ndarray, prior: np.ndarray
) -> float:
    """The variance that must be added to all for chi2 to equal the degrees of freedom.

    The moment estimator of Paule & Mandel (1982); chi2 falls as the added variance grows.
    """
    _, covariance = least_squares(design, values, variance, prior)
    # A coefficient that is all prior takes no degree of freedom.
    freedom = len(values) - float((1.0 - np.diag(covariance) / prior**2).sum())
    if freedom < 0.5:
        return 0.0

    def excess(added: float) -> float:
        coefficients, _ = least_squares(design, values, variance + added, prior)
        residuals = values - design @ coefficients
        return float((residuals**2 / (variance + added)).sum()) - freedom

    if excess(0.0) <= 0.0:
        return 0.0
    low, high = 0.0, float(np.median(variance)) + float(values.var())
    while excess(high) > 0.0:
        high *= 4.0
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if excess(middle) > 0.0 else (low, middle)
    return high
