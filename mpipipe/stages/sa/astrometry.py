"""Where an object is and how it moves: mean position, proper motion, parallax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numba import njit

from mpipipe.stages.sa.epochs import Epochs
from mpipipe.stages.sa.motion import (
    ARCSEC,
    YEAR,
    along,
    axes,
    chi2_in_common,
    fit_motion,
    share_errors,
)
from mpipipe.stages.sa.refraction import Refracted

_MAS = ARCSEC * 1e3
"""Milliarcsec in a radian."""
_PARALLAX_SOURCES = 6
_UNSHARED = 0.1
"""Least share of what is known about the parallax that position and motion do not take up."""


class TimeBase(NamedTuple):
    """What a fit needs.

    Attributes
    ----------
    motion, parallax
        Least time between first and last source for a proper motion and for a parallax, years.
    floor
        Error of a visit's astrometry, mas: in quadrature to the sources' own.
    """

    motion: float
    parallax: float
    floor: float


_COLUMNS = (
    "ra",
    "dec",
    "raErr",
    "decErr",
    "ra_dec_Cov",
    "epoch",
    "pmRa",
    "pmDec",
    "pmRaErr",
    "pmDecErr",
    "pmRa_pmDec_Cov",
    "parallax",
    "parallaxErr",
    "pmRa_parallax_Cov",
    "pmDec_parallax_Cov",
    "nParameters",
    "posChi2",
    "posDof",
    "posRms",
)
"""In the order in which `_solve` gives them."""


def astrometry(
    rows: np.ndarray,
    starts: np.ndarray,
    epochs: Epochs,
    vectors: np.ndarray,
    base: TimeBase,
    refracted: Refracted,
) -> Mapping[str, np.ndarray]:
    """Columns of positions and motions of objects, free of refraction by colour.

    The model is that of the time base: 2 parameters (rest), 4 (motion), 5 (parallax, where it can
    be told from the motion). Saturated sources, such without centroid, and such that are the light
    of several objects are left out if there are others. Without errors all count alike, and the
    errors of the result are NaN.

    Parameters
    ----------
    rows, starts
        Sources sorted by object, and where every object begins.
    epochs, vectors
        Their visits and unit vectors.
    refracted
        Their displacements.
    """
    errors = np.stack([rows["raErr"], rows["decErr"], rows["ra_dec_Cov"]], axis=1).astype(float)
    own = refracted.own[:, None]
    errors[:, :2] = np.where(own > 0.0, np.hypot(errors[:, :2], own), errors[:, :2])
    clean = ~(rows["flag_saturated"] | rows["flag_centroid"] | rows["flag_merged"])
    offset, shared = refracted.offset, refracted.shared
    table = _solve(starts, vectors, errors, offset, shared, clean, epochs, base)
    return dict(zip(_COLUMNS, table.T, strict=True))


@njit(cache=True)
def _solve(
    starts: np.ndarray,
    vectors: np.ndarray,
    errors: np.ndarray,
    offset: np.ndarray,
    shared: np.ndarray,
    clean: np.ndarray,
    epochs: Epochs,
    base: TimeBase,
) -> np.ndarray:
    """(n_objects, len(_COLUMNS))."""
    table = np.empty((len(starts) - 1, 19))
    values, covariance = np.empty(5), np.empty((5, 5))
    zero = np.zeros(3)
    for k in range(len(starts) - 1):
        start, end = starts[k], starts[k + 1]
        weights, known = _weights(
            errors[start:end], shared[start:end], clean[start:end], base.floor
        )
        taken = start + np.flatnonzero(weights[:, 0] > 0.0)
        weights = weights[weights[:, 0] > 0.0]
        n = len(taken)
        origin = vectors[taken[0]]
        plane = axes(origin)
        years, places, factors = np.empty(n), np.empty((n, 2)), np.empty((n, 2))
        for i in range(n):
            moment = epochs.moment[taken[i]]
            years[i] = epochs.years[moment]
            for axis in range(2):
                place = _MAS * along(plane[axis], vectors[taken[i]], origin)
                places[i, axis] = place - offset[taken[i], axis]
                factors[i, axis] = -along(plane[axis], epochs.earth[moment], zero)
        middle = _mean_time(years, weights)
        years -= middle
        n_parameters = _model(years, weights, factors, base, values, covariance)
        chi2 = fit_motion(years, places, weights, factors, n_parameters, values, covariance)
        row = table[k]
        row[:] = np.nan
        row[0], row[1] = _sky(origin, plane, values[0] / _MAS, values[1] / _MAS)
        row[5] = middle * YEAR
        row[15], row[17] = n_parameters, 2 * n - n_parameters
        if n_parameters >= 4:
            row[6], row[7] = values[2], values[3]
        if n_parameters == 5:
            row[11] = values[4]
        if known:
            common = shared[taken]
            if (common != 0.0).any():
                share_errors(years, common, weights, factors, n_parameters, covariance)
                chi2 = chi2_in_common(years, places, common, weights, factors, n_parameters, values)
            _fill_errors(row, covariance, n_parameters)
            row[16] = chi2
        if n > 1 and row[17] > 0:
            row[18] = _rms(years, places, factors, values, row[17])
    return table


@njit(cache=True)
def _weights(
    errors: np.ndarray, shared: np.ndarray, clean: np.ndarray, floor: float
) -> tuple[np.ndarray, bool]:
    """Inverse covariances (n, 3) as `weigh` chooses, zeros for sources that are left out."""
    n = len(errors)
    weights = np.zeros((n, 3))
    for tier in range(4):
        with_error, only_clean = tier < 2, tier % 2 == 0
        found = False
        for i in range(n):
            if only_clean and not clean[i]:
                continue
            if not with_error:
                weights[i, 0] = weights[i, 2] = 1.0
                found = True
                continue
            xx, yy = errors[i, 0] ** 2 + floor**2, errors[i, 1] ** 2 + floor**2
            xy = errors[i, 2] if np.isfinite(errors[i, 2]) else 0.0
            xx, yy = xx + shared[i, 0] ** 2, yy + shared[i, 1] ** 2
            xy += shared[i, 0] * shared[i, 1]
            determinant = xx * yy - xy * xy
            usable = errors[i, 0] > 0.0 and errors[i, 1] > 0.0
            if usable and np.isfinite(determinant) and determinant > 1e-6 * xx * yy:
                weights[i, 0], weights[i, 1] = yy / determinant, -xy / determinant
                weights[i, 2] = xx / determinant
                found = True
        if found:
            return weights, with_error
    return weights, False


@njit(cache=True)
def _mean_time(years: np.ndarray, weights: np.ndarray) -> float:
    total, weight = 0.0, 0.0
    for i in range(len(years)):
        total += (weights[i, 0] + weights[i, 2]) * (years[i] - years[0])
        weight += weights[i, 0] + weights[i, 2]
    return years[0] + total / weight


@njit(cache=True)
def _model(
    years: np.ndarray,
    weights: np.ndarray,
    factors: np.ndarray,
    base: TimeBase,
    values: np.ndarray,
    covariance: np.ndarray,
) -> int:
    """How many parameters the sources fix."""
    n = len(years)
    span = years.max() - years.min()
    if n < 3 or not span >= base.motion:
        return 2
    places = np.zeros((n, 2))
    if n >= _PARALLAX_SOURCES and span >= base.parallax:
        alone = 0.0
        for i in range(n):
            fx, fy = factors[i]
            alone += weights[i, 0] * fx * fx + 2.0 * weights[i, 1] * fx * fy
            alone += weights[i, 2] * fy * fy
        chi2 = fit_motion(years, places, weights, factors, 5, values, covariance)
        if chi2 >= 0.0 and covariance[4, 4] * alone <= 1.0 / _UNSHARED:
            return 5
    chi2 = fit_motion(years, places, weights, factors, 4, values, covariance)
    return 4 if chi2 >= 0.0 else 2


@njit(cache=True)
def _fill_errors(row: np.ndarray, covariance: np.ndarray, n_parameters: int) -> None:
    row[2], row[3] = np.sqrt(covariance[0, 0]), np.sqrt(covariance[1, 1])
    row[4] = covariance[0, 1]
    if n_parameters >= 4:
        row[8], row[9] = np.sqrt(covariance[2, 2]), np.sqrt(covariance[3, 3])
        row[10] = covariance[2, 3]
    if n_parameters == 5:
        row[12] = np.sqrt(covariance[4, 4])
        row[13], row[14] = covariance[2, 4], covariance[3, 4]


@njit(cache=True)
def _rms(
    years: np.ndarray, places: np.ndarray, factors: np.ndarray, values: np.ndarray, dof: float
) -> float:
    """Root of the squared residuals of both axes over the degrees of freedom."""
    total = 0.0
    for i in range(len(years)):
        for axis in range(2):
            fit = values[axis] + values[2 + axis] * years[i] + values[4] * factors[i, axis]
            total += (places[i, axis] - fit) ** 2
    return float(np.sqrt(total / dof))


@njit(cache=True)
def _sky(origin: np.ndarray, plane: np.ndarray, x: float, y: float) -> tuple[float, float]:
    """Right ascension and declination (degrees) of an offset (radians)."""
    out = np.sqrt(max(1.0 - x * x - y * y, 0.0))
    place = out * origin + x * plane[0] + y * plane[1]
    ra = np.degrees(np.arctan2(place[1], place[0]))
    if ra < 0.0:
        ra += 360.0
    if ra >= 360.0:
        ra = 0.0
    return ra, np.degrees(np.arctan2(place[2], np.hypot(place[0], place[1])))
