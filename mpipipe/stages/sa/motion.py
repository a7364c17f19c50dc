"""Positions of one star over time: at rest, in uniform motion, and with its parallax.

All positions are offsets on the plane that touches the sky at a reference, east and north. Sums run
in the order of the rows given, so that equal rows give equal bits.
"""

from __future__ import annotations

import numpy as np
from numba import njit

ARCSEC = float(np.degrees(1.0) * 3600.0)
"""Arcsec in a radian."""
YEAR = 365.25
"""Days."""
_TT_MINUS_TAI = 32.184 / 86400.0


def earth_positions(mjd: np.ndarray) -> np.ndarray:
    """Barycentric places of the Earth at MJDs (TAI), (n, 3) AU along the axes of ICRS.

    ERFA's epv00, good to 5000 km; NaN outside 1900 to 2100.
    """
    import erfa

    places = np.full((len(mjd), 3), np.nan)
    known = (mjd > 15020.0) & (mjd < 88000.0)
    for i in np.flatnonzero(known):  # one by one: a date's bits must not depend on its neighbours
        _, barycentric = erfa.epv00(2400000.5, mjd[i] + _TT_MINUS_TAI)
        places[i] = barycentric["p"]
    return places


@njit(cache=True)
def axes(vector: np.ndarray) -> np.ndarray:
    """(2, 3) unit vectors to the east and the north at a unit vector."""
    across = np.hypot(vector[0], vector[1])
    east = np.zeros((2, 3))
    if across > 0.0:
        east[0, 0], east[0, 1] = -vector[1] / across, vector[0] / across
    else:
        east[0, 1] = 1.0
    east[1, 0] = -vector[2] * east[0, 1]
    east[1, 1] = vector[2] * east[0, 0]
    east[1, 2] = vector[0] * east[0, 1] - vector[1] * east[0, 0]
    return east


@njit(cache=True)
def along(axis: np.ndarray, vector: np.ndarray, origin: np.ndarray) -> float:
    """Component of (vector - origin) along an axis."""
    return float(
        axis[0] * (vector[0] - origin[0])
        + axis[1] * (vector[1] - origin[1])
        + axis[2] * (vector[2] - origin[2])
    )


@njit(cache=True)
def fit_motion(
    years: np.ndarray,
    places: np.ndarray,
    weights: np.ndarray,
    factors: np.ndarray,
    n_parameters: int,
    values: np.ndarray,
    covariance: np.ndarray,
) -> float:
    """Least squares of positions over time; give chi2, NaN where they do not fix the parameters.

    Parameters
    ----------
    years
        (n,) times from the epoch.
    places
        (n, 2) offsets east and north.
    weights
        (n, 3) inverse covariances: east, mixed, north.
    factors
        (n, 2) offsets that a parallax of 1 makes.
    n_parameters
        2: place at the epoch; 4: and motion a year; 5: and parallax.
    values, covariance
        (5,) and (5, 5), filled: east, north, their motions, parallax.
    """
    n = len(years)
    normal = np.zeros((n_parameters, n_parameters))
    right = np.zeros(n_parameters)
    row = np.zeros((2, 5))
    row[0, 0] = row[1, 1] = 1.0
    for i in range(n):
        _design(row, years[i], factors[i])
        wxx, wxy, wyy = weights[i]
        for a in range(n_parameters):
            wx = wxx * row[0, a] + wxy * row[1, a]
            wy = wxy * row[0, a] + wyy * row[1, a]
            right[a] += wx * places[i, 0] + wy * places[i, 1]
            for b in range(a + 1):
                normal[a, b] += wx * row[0, b] + wy * row[1, b]
    values[:] = 0.0
    covariance[:] = 0.0
    if not _invert(normal, covariance):
        return np.nan
    for a in range(n_parameters):
        for b in range(n_parameters):
            values[a] += covariance[a, b] * right[b]
    chi2 = 0.0
    for i in range(n):
        _design(row, years[i], factors[i])
        x, y = places[i]
        for a in range(n_parameters):
            x -= row[0, a] * values[a]
            y -= row[1, a] * values[a]
        chi2 += weights[i, 0] * x * x + 2.0 * weights[i, 1] * x * y + weights[i, 2] * y * y
    return chi2


@njit(cache=True)
def share_errors(
    years: np.ndarray,
    shared: np.ndarray,
    weights: np.ndarray,
    factors: np.ndarray,
    n_parameters: int,
    covariance: np.ndarray,
) -> None:
    """Make the covariance of a fit right for errors that its positions have in common.

    Parameters
    ----------
    years, weights, factors, n_parameters
        As `fit_motion` had them; the weights held each position's whole error.
    shared
        (n, 2) what one standard deviation of the common error does to each position.
    covariance
        (5, 5) of `fit_motion`: each one's own part of the common error is taken out, and that of
        their sum put in.
    """
    row = np.zeros((2, 5))
    row[0, 0] = row[1, 1] = 1.0
    inverse = covariance.copy()
    total, pull = np.zeros(n_parameters), np.zeros(n_parameters)
    for i in range(len(years)):
        if shared[i, 0] == 0.0 and shared[i, 1] == 0.0:
            continue
        _design(row, years[i], factors[i])
        wxx, wxy, wyy = weights[i]
        x = wxx * shared[i, 0] + wxy * shared[i, 1]
        y = wxy * shared[i, 0] + wyy * shared[i, 1]
        for a in range(n_parameters):
            pull[a] = 0.0
            for b in range(n_parameters):
                pull[a] += inverse[a, b] * (row[0, b] * x + row[1, b] * y)
            total[a] += pull[a]
        for a in range(n_parameters):
            for b in range(n_parameters):
                covariance[a, b] -= pull[a] * pull[b]
    for a in range(n_parameters):
        for b in range(n_parameters):
            covariance[a, b] += total[a] * total[b]


@njit(cache=True)
def chi2_in_common(
    years: np.ndarray,
    places: np.ndarray,
    shared: np.ndarray,
    weights: np.ndarray,
    factors: np.ndarray,
    n_parameters: int,
    values: np.ndarray,
) -> float:
    """Least chi2 of positions that have an error in common, by the inverse of their whole
    covariance (Sherman & Morrison 1950); parameters as in `fit_motion` and `share_errors`.

    The fit itself took each position's whole error for its own, so that its residuals are not the
    least: what is left between both is taken off.
    """
    row = np.zeros((2, 5))
    row[0, 0] = row[1, 1] = 1.0
    normal, inverse = np.zeros((n_parameters, n_parameters)), np.zeros((5, 5))
    right, common = np.zeros(n_parameters), np.zeros(n_parameters)
    chi2 = pull = strength = 0.0
    for i in range(len(years)):
        _design(row, years[i], factors[i])
        x, y = places[i]
        for a in range(n_parameters):
            x -= row[0, a] * values[a]
            y -= row[1, a] * values[a]
        wxx, wxy, wyy = weights[i]
        # Weights without the common error.
        sx, sy = shared[i]
        ux, uy = wxx * sx + wxy * sy, wxy * sx + wyy * sy
        rest = 1.0 - sx * ux - sy * uy
        wxx, wxy, wyy = wxx + ux * ux / rest, wxy + ux * uy / rest, wyy + uy * uy / rest
        ux, uy = wxx * sx + wxy * sy, wxy * sx + wyy * sy
        chi2 += wxx * x * x + 2.0 * wxy * x * y + wyy * y * y
        pull += ux * x + uy * y
        strength += ux * sx + uy * sy
        for a in range(n_parameters):
            wx, wy = wxx * row[0, a] + wxy * row[1, a], wxy * row[0, a] + wyy * row[1, a]
            right[a] += wx * x + wy * y
            common[a] += wx * sx + wy * sy
            for b in range(n_parameters):
                normal[a, b] += wx * row[0, b] + wy * row[1, b]
    chi2 -= pull * pull / (1.0 + strength)
    for a in range(n_parameters):
        right[a] -= common[a] * pull / (1.0 + strength)
        for b in range(n_parameters):
            normal[a, b] -= common[a] * common[b] / (1.0 + strength)
    if _invert(normal, inverse):
        for a in range(n_parameters):
            for b in range(n_parameters):
                chi2 -= right[a] * inverse[a, b] * right[b]
    return max(chi2, 0.0)


@njit(cache=True)
def _design(row: np.ndarray, year: float, factor: np.ndarray) -> None:
    row[0, 2] = row[1, 3] = year
    row[0, 4], row[1, 4] = factor


@njit(cache=True)
def _invert(matrix: np.ndarray, inverse: np.ndarray) -> bool:
    """Inverse of a positive definite matrix from its lower triangle, by Cholesky's factors."""
    n = len(matrix)
    lower = np.zeros((n, n))
    for a in range(n):
        for b in range(a + 1):
            rest = matrix[a, b]
            for k in range(b):
                rest -= lower[a, k] * lower[b, k]
            if a != b:
                lower[a, b] = rest / lower[b, b]
            elif rest > 1e-12 * matrix[a, a]:
                lower[a, a] = np.sqrt(rest)
            else:
                return False  # singular, or NaN
    for column in range(n):
        for a in range(n):
            rest = 1.0 if a == column else 0.0
            for k in range(a):
                rest -= lower[a, k] * inverse[k, column]
            inverse[a, column] = rest / lower[a, a]
        for a in range(n - 1, -1, -1):
            rest = inverse[a, column]
            for k in range(a + 1, n):
                rest -= lower[k, a] * inverse[k, column]
            inverse[a, column] = rest / lower[a, a]
    return True
