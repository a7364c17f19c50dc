"""Compiled inner loops of the master calibrations."""

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
def combine_clipped(
    stack: np.ndarray,
    level: np.ndarray,
    floor: np.ndarray,
    photon: float,
    n_sigma: float,
    mean: np.ndarray,
    variance: np.ndarray,
    n_used: np.ndarray,
) -> None:
    """Clipped mean of frames, each divided by its level, weighted by its level.

    A value is left out when it is further than `n_sigma` from the lower median (weighted by
    level: the faint frames know least), in units of its expected noise: a handful of frames can
    not clip by their own scatter. Where two or more are left out the pixel is not stable, and
    its variance is that of the scatter of all frames.

    Parameters
    ----------
    stack
        (n_frames, n_pixels) float32.
    level
        (n_frames,) float64 scale of each frame.
    floor
        (n_frames,) float64 variance without light, in units of stack^2.
    photon
        Variance per unit of signal: 1 for electrons, 1 / gain for ADU, 0 for none.
    mean, variance, n_used
        (n_pixels,) float32, float32, uint8: filled.
    """
    n, n_pixels = stack.shape
    ordered, weights = np.empty(n), np.empty(n)
    half = 0.5 * level.sum() * (1.0 - 1e-12)
    for p in range(n_pixels):
        for i in range(n):
            value = stack[i, p] / level[i]
            k = i
            while k > 0 and ordered[k - 1] > value:
                ordered[k], weights[k] = ordered[k - 1], weights[k - 1]
                k -= 1
            ordered[k], weights[k] = value, level[i]
        below, k = weights[0], 0
        while below < half:
            k += 1
            below += weights[k]
        middle = ordered[k]
        total = weight = noise = 0.0
        count = 0
        for i in range(n):
            own = floor[i] + photon * max(middle * level[i], 0.0)
            if abs(stack[i, p] - middle * level[i]) <= n_sigma * np.sqrt(own):
                total += stack[i, p]
                weight += level[i]
                noise += own
                count += 1
        if count == 0:
            total, weight, noise = middle * level[0], level[0], floor[0]
        mean[p] = total / weight
        variance[p] = noise / (weight * weight)
        n_used[p] = count
        if n - count >= 2:
            centre = squares = 0.0
            for i in range(n):
                centre += ordered[i] / n
            for i in range(n):
                squares += (ordered[i] - centre) ** 2
            variance[p] = max(np.float64(variance[p]), squares / (n * (n - 1)))


@njit(**_OPTIONS)
def clipped_rows(image: np.ndarray, limit: float, result: np.ndarray) -> None:
    """Mean of each row, without pixels further than `limit` from the row's median."""
    ny, nx = image.shape
    for y in range(ny):
        middle = np.median(image[y])
        total = 0.0
        count = 0
        for x in range(nx):
            offset = image[y, x] - middle
            if abs(offset) <= limit:
                total += offset
                count += 1
        result[y] = middle + (total / count if count > 0 else 0.0)


@njit(**_OPTIONS)
def block_means(
    image: np.ndarray,
    edges_y: np.ndarray,
    edges_x: np.ndarray,
    limit: float,
    result: np.ndarray,
) -> None:
    """Mean of each block, without pixels further than `limit` from its median."""
    for j in range(edges_y.size - 1):
        for i in range(edges_x.size - 1):
            block = image[edges_y[j] : edges_y[j + 1], edges_x[i] : edges_x[i + 1]]
            middle = np.median(block)
            total = 0.0
            count = 0
            for y in range(block.shape[0]):
                for x in range(block.shape[1]):
                    offset = block[y, x] - middle
                    if abs(offset) <= limit:
                        total += offset
                        count += 1
            result[j, i] = middle + (total / count if count > 0 else 0.0)


@njit(**_OPTIONS)
def pair_blocks(
    first: np.ndarray, second: np.ndarray, size: int, n_sigma: float, result: np.ndarray
) -> None:
    """Means and noise of the difference of two frames, in square blocks.

    Parameters
    ----------
    first, second
        (ny, nx) float32.
    size
        Side of a block, pixels; what is left over at the edges is not used.
    result
        (n_blocks_y, n_blocks_x, 4) float64: mean of the first, mean of the second, scale
        s = second / first, clipped variance of (second - s first).
    """
    n_y, n_x = result.shape[0], result.shape[1]
    for j in range(n_y):
        for i in range(n_x):
            a = first[j * size : (j + 1) * size, i * size : (i + 1) * size]
            b = second[j * size : (j + 1) * size, i * size : (i + 1) * size]
            centre_a, centre_b = np.median(a), np.median(b)
            scale = centre_b / centre_a if abs(centre_a) > 0 else 1.0
            centre = centre_b - scale * centre_a
            spread = np.inf
            mean_a, mean_b, mean_d = centre_a, centre_b, centre
            for _ in range(6):
                limit = n_sigma * spread
                sum_a = sum_b = sum_d = squares = 0.0
                count = 0
                for y in range(size):
                    for x in range(size):
                        difference = b[y, x] - scale * a[y, x] - centre
                        if abs(difference) <= limit:
                            sum_a += a[y, x]
                            sum_b += b[y, x]
                            sum_d += difference
                            squares += difference * difference
                            count += 1
                if count < 3:
                    spread = np.nan
                    break
                mean_a, mean_b, mean_d = sum_a / count, sum_b / count, sum_d / count
                before = spread
                spread = np.sqrt((squares - count * mean_d * mean_d) / (count - 1))
                if before - spread < 1e-4 * spread:
                    break
            result[j, i, 0] = mean_a
            result[j, i, 1] = mean_b
            result[j, i, 2] = scale
            result[j, i, 3] = spread * spread


def warm_up() -> None:
    """Compile every kernel on tiny arrays."""
    stack = np.ones((3, 4), np.float32)
    ones = np.ones(3)
    out = np.empty(4, np.float32)
    combine_clipped(stack, ones, ones, 1.0, 5.0, out, out.copy(), np.empty(4, np.uint8))
    clipped_rows(stack, 1.0, np.empty(3))
    edges = np.array([0, 1, 3])
    block_means(stack, edges, edges, 1.0, np.empty((2, 2)))
    pair_blocks(stack, stack, 2, 5.0, np.empty((1, 2, 4)))
