"""Polynomials of the position on an exposure, in coordinates that run from -1 to 1."""

from __future__ import annotations

import numpy as np


def n_terms(order: int) -> int:
    """How many terms a polynomial of x and y of this order has."""
    return (order + 1) * (order + 2) // 2


def position_terms(
    x: np.ndarray, y: np.ndarray, shape: tuple[int, int], order: int
) -> np.ndarray:
    """The monomials at positions, by rising order: 1, u, v, u^2, u v, v^2, ...

    Parameters
    ----------
    x, y
        (n,) pixels, zero based.
    shape
        (ny, nx) of the exposure, whose pixels' centres u and v carry from -1 to 1.

    Returns
    -------
    numpy.ndarray
        (n, n_terms(order)) float64.
    """
    ny, nx = shape
    u = 2 * np.asarray(x, float) / max(nx - 1, 1) - 1
    v = 2 * np.asarray(y, float) / max(ny - 1, 1) - 1
    columns = [
        u ** (total - power) * v**power for total in range(order + 1) for power in range(total + 1)
    ]
    return np.stack(columns, axis=1)
