"""Compiled inner loops of the overscan: the level of every row, and how it wanders."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_OPTIONS: dict[str, Any] = {
    "cache": True,
    "fastmath": {"contract", "reassoc", "arcp", "nsz"},
    "error_model": "numpy",
}


@njit(**_OPTIONS)
def overscan_rows(over: np.ndarray, n_sigma: float, level: np.ndarray) -> float:
    """Clipped mean of every overscan row, and the clipped standard deviation of all pixels.

    Clipping is about the row's median where a pixel stands out; the mean is taken of what
    stays, since medians of integers are quantised. The standard deviation is about the rows'
    own means, so it has no part of a drift along rows.

    Parameters
    ----------
    over
        (ny, nx) float32, ADU.
    n_sigma
        Pixels further than this from the row's centre are left out.
    level
        (ny,) float64, filled with the means.

    Returns
    -------
    float
        Standard deviation, ADU; NaN if there are fewer than two columns.
    """
    ny, nx = over.shape
    middle, spread = np.empty(ny), np.empty(ny)
    for y in range(ny):
        origin = over[y, 0]
        total, squares = np.float32(0.0), np.float32(0.0)
        for x in range(nx):
            offset = over[y, x] - origin
            total += offset
            squares += offset * offset
        mean = np.float64(total) / nx
        middle[y] = origin + mean
        spread[y] = max(np.float64(squares) / nx - mean * mean, 0.0)
    sigma = np.sqrt(np.median(spread)) + 0.3
    for y in range(ny):
        # The mean will do as the centre of rows in which nothing stands out.
        farthest = np.float32(0.0)
        for x in range(nx):
            farthest = max(farthest, abs(over[y, x] - np.float32(middle[y])))
        if farthest > n_sigma * sigma:
            middle[y] = np.median(over[y])
    for _ in range(8):
        limit = np.float32(n_sigma * sigma + 0.5)
        all_squares = 0.0
        n_used = 0
        for y in range(ny):
            centre = np.float32(middle[y])
            total, squares = np.float32(0.0), np.float32(0.0)
            count = 0
            for x in range(nx):
                offset = over[y, x] - centre
                inside = abs(offset) <= limit
                count += inside
                kept = offset if inside else np.float32(0.0)
                total += kept
                squares += kept * kept
            mean = np.float64(total) / max(count, 1)
            level[y] = np.float64(centre) + mean
            all_squares += squares - count * mean * mean
            n_used += count - 1
        if n_used <= 0:
            return np.nan
        previous, sigma = sigma, np.sqrt(max(all_squares, 0.0) / n_used)
        if abs(sigma - previous) < 1e-4 * previous:
            break
    return sigma


@njit(**_OPTIONS)
def _filter_levels(
    values: np.ndarray,
    noise: float,
    step: float,
    level: np.ndarray,
    spread: np.ndarray,
    ahead: np.ndarray,
) -> float:
    """Kalman filter of a wandering level; -2 log likelihood, outliers capped.

    Fills the filtered level, its variance, and the variance predicted for each row.
    """
    level[0], spread[0], ahead[0] = values[0], noise, 1e4 * noise
    cost, scale = 0.0, 1.0
    n_outside = 0
    y = 1
    while y < values.size:
        ahead[y] = spread[y - 1] + step
        expected = ahead[y] + noise
        offset = values[y] - level[y - 1]
        ratio = offset * offset / expected
        cost += min(ratio, 36.0)
        scale *= expected / noise
        if scale > 1e100:  # a logarithm of the product: one a row would cost most of the time
            cost += np.log(scale)
            scale = 1.0
        if ratio > 36.0:
            n_outside += 1
            if n_outside < 3:
                level[y], spread[y] = level[y - 1], ahead[y]
                y += 1
                continue
            # No stray rows but a jump: begin anew at the first of the three.
            y -= 2
            ahead[y] = 1e4 * noise
            offset = values[y] - level[y - 1]
        n_outside = 0
        gain = ahead[y] / (ahead[y] + noise)
        level[y] = level[y - 1] + gain * offset
        spread[y] = (1.0 - gain) * ahead[y]
        y += 1
    return cost + np.log(scale)


@njit(**_OPTIONS)
def smooth_wander(values: np.ndarray, noise: float, smooth: np.ndarray) -> float:
    """Best estimate of a level that wanders from row to row under known noise.

    Local level model: the level makes random steps, whose variance is found by maximum
    likelihood over factors of two; Kalman filter and Rauch-Tung-Striebel smoother (Rauch et al.
    1965, AIAA J. 3, 1445). Up to two rows in a run that stand out by six sigma are passed over.

    Parameters
    ----------
    values
        (n,) float64 measured levels.
    noise
        Variance of each, greater than 0.
    smooth
        (n,) float64, filled.

    Returns
    -------
    float
        Mean variance of the smoothed level.
    """
    n = values.size
    level, spread, ahead = np.empty(n), np.empty(n), np.empty(n)
    best, best_step = np.inf, 0.0
    step = 2e-6 * noise
    while step <= 8.0 * noise:
        cost = _filter_levels(values, noise, step, level, spread, ahead)
        if cost < best:
            best, best_step = cost, step
        step *= 4.0
    for step in (0.5 * best_step, 2.0 * best_step):
        cost = _filter_levels(values, noise, step, level, spread, ahead)
        if cost < best:
            best, best_step = cost, step
    _filter_levels(values, noise, best_step, level, spread, ahead)
    smooth[n - 1] = level[n - 1]
    variance = spread[n - 1]
    total = variance
    for y in range(n - 2, -1, -1):
        back = spread[y] / ahead[y + 1]
        smooth[y] = level[y] + back * (smooth[y + 1] - level[y])
        variance = spread[y] + back * back * (variance - ahead[y + 1])
        total += variance
    return total / n


@njit(**_OPTIONS)
def subtract_rows_and_columns(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> None:
    """image[y, x] -= rows[y] + columns[x], all float32."""
    ny, nx = image.shape
    for y in range(ny):
        level = rows[y]
        for x in range(nx):
            image[y, x] -= level + columns[x]


def warm_up() -> None:
    """Compile every kernel on tiny arrays."""
    image = np.full((4, 5), 7.0, np.float32)
    overscan_rows(image, 4.0, np.empty(4))
    smooth_wander(np.arange(4.0), 1.0, np.empty(4))
    subtract_rows_and_columns(image, np.zeros(4, np.float32), np.zeros(5, np.float32))
