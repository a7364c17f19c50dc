"""Adaptive moments of sources in stamps, with their errors, and the flux of the Gaussian."""

from __future__ import annotations

import numpy as np
from numba import njit

GAUSSIAN = np.dtype(
    [(name, "f8") for name in ("ixx", "iyy", "ixy", "flux", "sky_variance")] + [("state", "i4")]
)
"""Moments (pixel^2), flux of the Gaussian and its variance from sky and read noise (electrons)."""

CONVERGED, DIVERGED, CUT = 0, 1, 2
"""States: sound; no positive moments, or it moved away or grew out of the stamp; too few pixels."""

_ROUNDS = 60
_TOLERANCE = 1e-3
_SMALLEST_DETERMINANT = 0.05
_LEAST_KNOWN = 0.5
"""Share of the weight that known pixels have to hold."""
_REACH_SQUARED = 16.0


def stamp_moments(
    light: np.ndarray,
    variance: np.ndarray,
    known: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    start: np.ndarray,
) -> np.ndarray:
    """Second moments under the elliptical Gaussian that matches them.

    Iterates M <- 2 x weighted second moments, centre <- centre + 2 x first (Bernstein & Jarvis
    2002, AJ 123, 583), with at most 60 rounds. A source that fails has the moments `start`, and
    the flux under that weight.

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


@njit(cache=True)
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
        for i in range(low, min(size, int(np.floor(cx + middle + span)) + 1)):
            sums[7] += w
            if known[j, i]:
                dx = i - cx
                weighted = w * light[j, i]
                sums[8] += w
                sums[6] += w * w * variance[j, i]
                sums[0] += weighted
                sums[1] += weighted * dx
                sums[2] += weighted * dy
                sums[3] += weighted * dx * dx
                sums[4] += weighted * dy * dy
                sums[5] += weighted * dx * dy
            w *= factor
            factor *= bend


@njit(cache=True)
def _step(at: np.ndarray, sums: np.ndarray) -> tuple[float, float]:
    """The next weight, in place; by how much its size and its place changed."""
    mean_x, mean_y = sums[1] / sums[0], sums[2] / sums[0]
    xx = 2 * (sums[3] / sums[0] - mean_x * mean_x)
    yy = 2 * (sums[4] / sums[0] - mean_y * mean_y)
    xy = 2 * (sums[5] / sums[0] - mean_x * mean_y)
    change = abs(xx - at[2]) + abs(yy - at[3]) + abs(xy - at[4])
    at[0] += 2 * mean_x
    at[1] += 2 * mean_y
    at[2], at[3], at[4] = xx, yy, xy
    return change, 2 * np.hypot(mean_x, mean_y)


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
    half = light.shape[1] // 2
    at, sums = np.empty(5), np.empty(9)
    for k in range(len(light)):
        row = rows[k]
        # A centre that walks further than the size of the PSF is a neighbour's.
        leash = 2 * np.sqrt(max(start[k, 0], start[k, 1])) + 1
        at[0], at[1], at[2:] = x[k], y[k], start[k]
        row.state = DIVERGED
        for _ in range(_ROUNDS):
            _sums(light[k], variance[k], known[k], at, sums)
            if not sums[8] > _LEAST_KNOWN * sums[7]:
                row.state = CUT
                break
            if not sums[0] > 0:
                break
            change, moved = _step(at, sums)
            if not (
                at[2] > 0
                and at[2] * at[3] - at[4] * at[4] > _SMALLEST_DETERMINANT
                and 4 * max(at[2], at[3]) < half * half
                and np.hypot(at[0] - x[k], at[1] - y[k]) < leash
            ):
                break
            if change < _TOLERANCE * (at[2] + at[3]) and moved < _TOLERANCE:
                row.state = CONVERGED
                break
        if row.state != CONVERGED:
            at[0], at[1], at[2:] = x[k], y[k], start[k]
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
