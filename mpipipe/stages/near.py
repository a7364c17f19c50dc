"""What a mask or an image holds near positions."""

from __future__ import annotations

import numpy as np
from numba import njit


def planes_near(mask: np.ndarray, y: np.ndarray, x: np.ndarray, reach: float) -> np.ndarray:
    """For each position: all bits set within `reach` pixels, joined; int32."""
    joined = np.zeros(len(y), np.int32)
    _join(mask, np.asarray(y, np.float64), np.asarray(x, np.float64), float(reach), joined)
    return joined


@njit(cache=True)
def _join(
    mask: np.ndarray, ys: np.ndarray, xs: np.ndarray, reach: float, joined: np.ndarray
) -> None:
    ny, nx = mask.shape
    for k in range(len(ys)):
        y, x = ys[k], xs[k]
        found = np.int32(0)
        for j in range(max(0, int(np.ceil(y - reach))), min(ny, int(np.floor(y + reach)) + 1)):
            half = np.sqrt(max(reach * reach - (j - y) ** 2, 0.0))
            low, high = max(0, int(np.ceil(x - half))), min(nx, int(np.floor(x + half)) + 1)
            line = mask[j]
            for i in range(low, high):
                found |= line[np.uint64(i)]  # unsigned: no test for negative ones, so on vectors
        joined[k] = found


def brightest_near(image: np.ndarray, y: np.ndarray, x: np.ndarray, reach: float) -> np.ndarray:
    """For each position: the largest value within `reach` pixels; float64."""
    largest = np.full(len(y), -np.inf)
    _largest(image, np.asarray(y, np.float64), np.asarray(x, np.float64), float(reach), largest)
    return largest


@njit(cache=True)
def _largest(
    image: np.ndarray, ys: np.ndarray, xs: np.ndarray, reach: float, largest: np.ndarray
) -> None:
    ny, nx = image.shape
    for k in range(len(ys)):
        y, x = ys[k], xs[k]
        for j in range(max(0, int(np.ceil(y - reach))), min(ny, int(np.floor(y + reach)) + 1)):
            for i in range(max(0, int(np.ceil(x - reach))), min(nx, int(np.floor(x + reach)) + 1)):
                if (j - y) ** 2 + (i - x) ** 2 <= reach * reach:
                    largest[k] = max(largest[k], image[j, i])
