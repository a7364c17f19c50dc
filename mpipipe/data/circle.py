"""Sums inside a circle on a pixel grid, wherever in its pixel the circle is centred."""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True)
def sum_inside(image: np.ndarray, dx: float, dy: float, radius: float) -> float:
    """Sum inside a circle about the middle moved by (dx, dy), edge pixels by their share."""
    size = image.shape[0]
    total = 0.0
    for j in range(size):
        for i in range(size):
            r = math.sqrt((i - size // 2 - dx) ** 2 + (j - size // 2 - dy) ** 2)
            total += min(max(radius + 0.5 - r, 0.0), 1.0) * image[j, i]
    return total


def circle_weights(size: int, radius: float) -> np.ndarray:
    """Share of each pixel inside a circle about the middle, (size, size) float64.

    Pixels on the rim count by the distance of their centres from it.
    """
    half = size // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    return np.clip(radius + 0.5 - np.hypot(x, y), 0.0, 1.0)
