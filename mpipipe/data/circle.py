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
