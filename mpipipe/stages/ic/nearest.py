"""Pairs of nearest neighbours between two sets of points in a plane."""

from __future__ import annotations

import numpy as np
from numba import njit


def nearest_pairs(
    first: np.ndarray, second: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that are each other's nearest within a radius.

    Parameters
    ----------
    first, second
        (n, 2) and (m, 2) positions; one that is not finite has no partner.
    radius
        In the same unit.

    Returns
    -------
    tuple of numpy.ndarray
        Indices into `first`, rising, and into `second`. Of equally near ones the one with the
        lower y is taken.
    """
    order = np.argsort(second[:, 1], kind="stable")
    order = order[: int(np.isfinite(second[:, 1]).sum())]
    found = np.full(len(first), -1)
    _search(first, second[order], float(radius), found)
    index = np.flatnonzero(found >= 0)
    return index, order[found[index]]


@njit(cache=True)
def _search(first: np.ndarray, second: np.ndarray, radius: float, found: np.ndarray) -> None:
    """Index of the mutual nearest in `second`, which rises in y, or -1."""
    holder = np.full(len(second), -1)
    nearest = np.full(len(second), radius * radius)
    heights = second[:, 1].copy()
    for k in range(len(first)):
        x, y = first[k, 0], first[k, 1]
        if not (np.isfinite(x) and np.isfinite(y)):
            continue
        best, at = radius * radius, -1
        for m in range(np.searchsorted(heights, y - radius), len(second)):
            dy = second[m, 1] - y
            if dy > radius:
                break
            dx = second[m, 0] - x
            distance = dx * dx + dy * dy
            if distance < best:
                best, at = distance, m
            if distance < nearest[m]:
                nearest[m], holder[m] = distance, k
        found[k] = at
    for k in range(len(first)):
        if found[k] >= 0 and holder[found[k]] != k:
            found[k] = -1
