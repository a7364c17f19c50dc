"""Friends of friends on the sphere: who is connected by steps of at most one link radius.

The sky is cut into strips of declination as high as the radius. Sorted by strip and right
ascension, the friends of a source lie behind it in its own strip and in a window of the next, which
moves along with it. Union-find joins them (Galler & Fischer 1964, Commun. ACM 7, 301). Only pairs
of positions are compared, so the groups are those of the sources, whatever order they come in.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_RA_BITS = 31
_TURN = 1 << _RA_BITS
"""A whole circle of right ascension, as the integers that are sorted."""


def friends(vectors: np.ndarray, radius: float) -> np.ndarray:
    """For each source the lowest index of its group, int64.

    Parameters
    ----------
    vectors
        (n, 3) unit vectors, see `unit_vectors`.
    radius
        Link radius, degrees; below 30.
    """
    if not 0.0 < radius < 30.0:
        raise ValueError(f"link radius of {radius} degrees")
    height = np.radians(radius) * (1.0 + 1e-9)  # no two friends are two strips apart
    keys = _keys(vectors, height)
    order = np.argsort(keys)
    roots = _join(keys[order], vectors[order], height, chord2(radius))
    return _lowest(roots, order)


def chord2(angle: float) -> float:
    """Square of the chord of an angle in degrees, on the unit sphere."""
    return float((2.0 * np.sin(np.radians(angle) / 2.0)) ** 2)


@njit(cache=True)
def unit_vectors(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """(n, 3) unit vectors of positions in degrees; the same bits for a position anywhere."""
    vectors = np.empty((len(ra), 3))
    for i in range(len(ra)):
        alpha, delta = np.radians(ra[i]), np.radians(dec[i])
        vectors[i, 0] = np.cos(delta) * np.cos(alpha)
        vectors[i, 1] = np.cos(delta) * np.sin(alpha)
        vectors[i, 2] = np.sin(delta)
    return vectors


@njit(cache=True)
def _keys(vectors: np.ndarray, height: float) -> np.ndarray:
    """Number of the strip, then right ascension, in one integer each."""
    keys = np.empty(len(vectors), np.int64)
    for i in range(len(vectors)):
        x, y, z = vectors[i]
        dec = np.arctan2(z, np.hypot(x, y))
        turn = np.arctan2(y, x) / (2.0 * np.pi)
        turn -= np.floor(turn)
        strip = int((dec + 0.5 * np.pi) / height)
        keys[i] = (strip << _RA_BITS) + min(int(turn * _TURN), _TURN - 1)
    return keys


@njit(cache=True)
def _join(keys: np.ndarray, vectors: np.ndarray, height: float, limit: float) -> np.ndarray:
    """Root of every source's group, in sorted order: the group's first."""
    n = len(keys)
    parent = np.arange(n)
    start = 0
    while start < n:
        strip = keys[start] >> _RA_BITS
        end = start
        while end < n and keys[end] >> _RA_BITS == strip:
            end += 1
        next_end = end
        while next_end < n and keys[next_end] >> _RA_BITS == strip + 1:
            next_end += 1
        reach = _reach(strip, height)
        _join_strip(keys, vectors, start, end, reach, limit, parent)
        _join_next(keys, vectors, start, end, next_end, reach, limit, parent)
        start = end
    for i in range(n):
        parent[i] = parent[parent[i]]  # parents stand before their children: they are roots by now
    return parent


@njit(cache=True)
def _reach(strip: int, height: float) -> int:
    """Largest difference in right ascension of friends in a strip and the next; at poles all."""
    south = strip * height - 0.5 * np.pi
    farthest = max(abs(south), abs(south + 2.0 * height))
    if farthest + height >= 0.5 * np.pi:
        return _TURN
    angle = np.arcsin(np.sin(height) / np.cos(farthest))
    return int(angle / (2.0 * np.pi) * _TURN) + 2


@njit(cache=True)
def _join_strip(
    keys: np.ndarray,
    vectors: np.ndarray,
    start: int,
    end: int,
    reach: int,
    limit: float,
    parent: np.ndarray,
) -> None:
    """Join friends within the strip that is [start, end)."""
    for i in range(start, end):
        j = i + 1
        while j < end and keys[j] - keys[i] <= reach:
            _join_pair(vectors, i, j, limit, parent)
            j += 1
        j = start
        while j < i and keys[j] + _TURN - keys[i] <= reach < _TURN:  # over 0/360
            _join_pair(vectors, i, j, limit, parent)
            j += 1


@njit(cache=True)
def _join_next(
    keys: np.ndarray,
    vectors: np.ndarray,
    start: int,
    end: int,
    next_end: int,
    reach: int,
    limit: float,
    parent: np.ndarray,
) -> None:
    """Join friends in the strips [start, end) and [end, next_end)."""
    first = end
    for i in range(start, end):
        place = keys[i] + _TURN  # the same right ascension, one strip on
        while first < next_end and keys[first] < place - reach:
            first += 1
        j = first
        while j < next_end and keys[j] <= place + reach:
            _join_pair(vectors, i, j, limit, parent)
            j += 1
        if reach >= _TURN:
            continue
        j = end  # over 0/360, to the next strip's beginning, and to its end
        while j < next_end and keys[j] + _TURN <= place + reach:
            _join_pair(vectors, i, j, limit, parent)
            j += 1
        j = next_end - 1
        while j >= end and keys[j] - _TURN >= place - reach:
            _join_pair(vectors, i, j, limit, parent)
            j -= 1


@njit(cache=True)
def _join_pair(vectors: np.ndarray, i: int, j: int, limit: float, parent: np.ndarray) -> None:
    """Join the groups of two sources if they are friends."""
    if separation2(vectors, i, j) > limit:
        return
    a, b = root(parent, i), root(parent, j)
    if a < b:
        parent[b] = a
    elif b < a:
        parent[a] = b


@njit(cache=True)
def separation2(vectors: np.ndarray, i: int, j: int) -> float:
    """Square of the chord between two sources; the same bits for (j, i)."""
    x = vectors[i, 0] - vectors[j, 0]
    y = vectors[i, 1] - vectors[j, 1]
    z = vectors[i, 2] - vectors[j, 2]
    return x * x + y * y + z * z


@njit(cache=True)
def root(parent: np.ndarray, i: int) -> int:
    """The root above i; the path to it is halved."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(cache=True)
def _lowest(roots: np.ndarray, order: np.ndarray) -> np.ndarray:
    """From roots in sorted order to the lowest index of each group, in the sources' order."""
    n = len(roots)
    lowest = np.full(n, n)
    for k in range(n):
        lowest[roots[k]] = min(lowest[roots[k]], order[k])
    labels = np.empty(n, np.int64)
    for k in range(n):
        labels[order[k]] = lowest[roots[k]]
    return labels
