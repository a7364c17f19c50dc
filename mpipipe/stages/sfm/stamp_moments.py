"""Adaptive moments of sources in stamps, with their errors, and the flux of the Gaussian."""

from __future__ import annotations

import numpy as np
from numba import njit

GAUSSIAN = np.dtype(
    [(name, "f8") for name in ("ixx", "iyy", "ixy", "flux", "sky_variance")] + [("state", "i4")]
)
"""Moments (pixel^2), flux of the Gaussian and its variance from sky and read noise (electrons)."""

CONVERGED, DIVERGED, CUT, TOO_LARGE = 0, 1, 2, 3
"""States: sound; no positive moments, or it moved away; too few pixels; it grew out of the
stamp."""

_QUICK_ROUNDS, _ROUNDS = 12, 60
_TOLERANCE = 1e-3
_SMALLEST_DETERMINANT = 0.05
_LEAST_KNOWN = 0.5
"""Share of the weight that known pixels have to hold."""
_REACH_SQUARED = 16.0
_SPACE = 9.0
"""Square of the standard deviations that a stamp has to hold."""


def stamp_moments(
    light: np.ndarray,
    variance: np.ndarray,
    known: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    start: np.ndarray,
) -> np.ndarray:
    """Second moments under the elliptical Gaussian that matches them.

    At the end M is twice the weighted second moments, and the first ones vanish (Bernstein & Jarvis
    2002, AJ 123, 583). Steps are quick (as Hirata & Seljak 2003, MNRAS 343, 459); where these do
    not settle, M <- 2 x weighted second moments, in at most 60 rounds. A source that fails has the
    moments `start`, and the flux under that weight.

    Parameters
    ----------
    light, variance, known, x, y
        As in `mpipipe.stages.sfm.source_stamps.Stamps`.
    start
        (n, 3) Ixx, Iyy, Ixy of the first weight: the PSF's.

    Returns
    -------
    numpy.ndarray
        One `GAUSSIAN` row a source; flux and variance are NaN where no pixel is known.
    """
    rows = np.zeros(len(light), GAUSSIAN)
    _iterate(light, variance, known, x, y, np.ascontiguousarray(start, np.float64), rows)
    return rows


@njit(cache=True, error_model="numpy")
def _sums(
    light: np.ndarray,
    variance: np.ndarray,
    known: np.ndarray,
    at: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Sums under the weight (x, y, Ixx, Iyy, Ixy): I, Ix, Iy, Ixx, Iyy, Ixy, w^2 v, w, known w."""
    size = light.shape[0]
    half = size // 2
    cx, cy, mxx, myy, mxy = at[0] + half, at[1] + half, at[2], at[3], at[4]
    determinant = mxx * myy - mxy * mxy
    reach_y = np.sqrt(_REACH_SQUARED * myy)
    pxx, pxy, pyy = myy / determinant, -mxy / determinant, mxx / determinant
    bend = np.exp(-pxx)
    sums[:] = 0.0
    for j in range(max(0, int(np.ceil(cy - reach_y))), min(size, int(cy + reach_y) + 1)):
        dy = j - cy
        # The row's part of the ellipse, and its Gaussian by recurrence: one factor a pixel.
        middle = -pxy * dy / pxx
        span = np.sqrt(max(middle * middle - (pyy * dy * dy - _REACH_SQUARED) / pxx, 0.0))
        low = max(0, int(np.ceil(cx + middle - span)))
        dx = low - cx
        w = np.exp(-0.5 * (pxx * dx * dx + 2 * pxy * dx * dy + pyy * dy * dy))
        factor = np.exp(-0.5 * (pxx * (2 * dx + 1) + 2 * pxy * dy))
        total = first = second = noise = weight = counted = 0.0
        for i in range(low, min(size, int(np.floor(cx + middle + span)) + 1)):
            weight += w
            if known[j, i]:
                weighted = w * light[j, i]
                counted += w
                noise += w * w * variance[j, i]
                total += weighted
                first += weighted * dx
                second += weighted * dx * dx
            w *= factor
            factor *= bend
            dx += 1.0
        sums[0] += total
        sums[1] += first
        sums[2] += total * dy
        sums[3] += second
        sums[4] += total * dy * dy
        sums[5] += first * dy
        sums[6] += noise
        sums[7] += weight
        sums[8] += counted


@njit(cache=True, error_model="numpy")
def _step(at: np.ndarray, sums: np.ndarray, is_quick: bool) -> tuple[float, float]:
    """The next weight, in place; by how much its size and its place are from the goal.

    A quick step leads to the goal at once if the source is a Gaussian: the inverse of its moments
    is that of the weighted ones less the weight's.
    """
    mean_x, mean_y = sums[1] / sums[0], sums[2] / sums[0]
    xx = sums[3] / sums[0] - mean_x * mean_x
    yy = sums[4] / sums[0] - mean_y * mean_y
    xy = sums[5] / sums[0] - mean_x * mean_y
    change = abs(2 * xx - at[2]) + abs(2 * yy - at[3]) + abs(2 * xy - at[4])
    at[0] += 2 * mean_x
    at[1] += 2 * mean_y
    own, weight = xx * yy - xy * xy, at[2] * at[3] - at[4] * at[4]
    pxx, pyy, pxy = yy / own - at[3] / weight, xx / own - at[2] / weight, at[4] / weight - xy / own
    inverse = pxx * pyy - pxy * pxy
    if is_quick and own > 0 and pxx > 0 and pyy > 0 and inverse > 0:
        at[2], at[3], at[4] = pyy / inverse, pxx / inverse, -pxy / inverse
    else:
        at[2], at[3], at[4] = 2 * xx, 2 * yy, 2 * xy
    return change, 2 * np.hypot(mean_x, mean_y)


@njit(cache=True, error_model="numpy")
def _match(
    light: np.ndarray,
    variance: np.ndarray,
    known: np.ndarray,
    start: np.ndarray,
    is_quick: bool,
    at: np.ndarray,
    sums: np.ndarray,
) -> int:
    """Iterate from `start` (x, y, Ixx, Iyy, Ixy) to the matching Gaussian `at`; the state."""
    half = light.shape[0] // 2
    # A centre that walks further than the size of the PSF is a neighbour's.
    leash = 2 * np.sqrt(max(start[2], start[3])) + 1
    at[:] = start
    for _ in range(_QUICK_ROUNDS if is_quick else _ROUNDS):
        _sums(light, variance, known, at, sums)
        if not sums[8] > _LEAST_KNOWN * sums[7]:
            return CUT
        if not sums[0] > 0:
            return DIVERGED
        change, moved = _step(at, sums, is_quick)
        if not (
            at[2] > 0
            and at[2] * at[3] - at[4] * at[4] > _SMALLEST_DETERMINANT
            and np.hypot(at[0] - start[0], at[1] - start[1]) < leash
        ):
            return DIVERGED
        if _SPACE * max(at[2], at[3]) > half * half:
            return TOO_LARGE
        if change < _TOLERANCE * (at[2] + at[3]) and moved < _TOLERANCE:
            return CONVERGED
    return DIVERGED


@njit(cache=True, error_model="numpy")
def _iterate(
    light: np.ndarray,
    variance: np.ndarray,
    known: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    start: np.ndarray,
    rows: np.ndarray,
) -> None:
    first, at, sums = np.empty(5), np.empty(5), np.empty(9)
    for k in range(len(light)):
        row = rows[k]
        first[0], first[1], first[2:] = x[k], y[k], start[k]
        row.state = _match(light[k], variance[k], known[k], first, True, at, sums)
        if row.state != CONVERGED and row.state != CUT:
            # What noise has shaped is reached by small steps only.
            row.state = _match(light[k], variance[k], known[k], first, False, at, sums)
        if row.state != CONVERGED:
            at[:] = first
        _sums(light[k], variance[k], known[k], at, sums)
        row.ixx, row.iyy, row.ixy = at[2], at[3], at[4]
        scale = sums[7] / sums[8] if sums[8] > _LEAST_KNOWN * sums[7] else np.nan
        row.flux, row.sky_variance = 2 * scale * sums[0], 4 * scale * scale * sums[6]


def gaussian_flux_variance(rows: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Variance of the Gaussian's flux: the sky's, times the square of `factor`, and photons.

    The weight follows the image, so that noise in its size adds as much again as a weight that
    is fixed would give: twice the sky's variance, and 1.19 times the photons.
    """
    light = np.maximum(rows["flux"], 0)
    return np.asarray(2 * factor**2 * rows["sky_variance"] + 1.19 * light)


def moment_errors(rows: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Standard errors of Ixx, Iyy, Ixy, (n, 3), of Gaussian sources.

    Noise n moves M by 8/F sum(w n (d^2 - M/2)): the weight follows the image, which doubles what a
    fixed weight would give.

    Parameters
    ----------
    factor
        (n,) by what sums of pixels scatter more than white noise.
    """
    flux = np.where(rows["flux"] > 0, rows["flux"], np.nan)
    sky = factor**2 * rows["sky_variance"] / flux**2
    own = np.sqrt(8 * sky + 16 / 3 / flux)
    mixed = np.sqrt((4 * sky + 64 / 27 / flux) * (rows["ixx"] * rows["iyy"] + rows["ixy"] ** 2))
    return np.stack([own * rows["ixx"], own * rows["iyy"], mixed], axis=1)
