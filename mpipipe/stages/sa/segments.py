"""Sources sorted by object, band and time, and which of a run of values are taken.

A segment is a run of such sources; statistics are sums along it in this order, which depends on the
content of the sources alone.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mpipipe.stages.sa.exclusivity import group_members


def sort_members(
    clusters: np.ndarray, band: np.ndarray, mjd: np.ndarray, n_bands: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sources of objects by object, band, time and id.

    Parameters
    ----------
    clusters
        Lowest index of every source's object; -1 for none.
    band
        Number of every source's band; `n_bands` for others.
    mjd
        Times.

    Returns
    -------
    members, starts, bands
        Indices of the sources; where every object begins in them, and the end (n_objects + 1);
        where every band of every object begins, and the end of the last (n_objects, n_bands + 1).
    """
    members, starts = group_members(clusters, clusters >= 0)
    _sort_within(members, starts, band.astype(np.int64), np.asarray(mjd, np.float64))
    return members, starts, _band_starts(members, starts, band.astype(np.int64), n_bands)


def take_rows(rows: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Copies of the rows of a table at indices, or where a mask holds: a row at a time.

    NumPy would copy a column at a time, and read the whole table for each.
    """
    indices = np.flatnonzero(which) if which.dtype == bool else which
    whole = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.dtype.itemsize)))
    return np.asarray(whole.take(indices).view(rows.dtype))


@njit(cache=True)
def _sort_within(
    members: np.ndarray, starts: np.ndarray, band: np.ndarray, mjd: np.ndarray
) -> None:
    for k in range(len(starts) - 1):
        part = members[starts[k] : starts[k + 1]]
        if len(part) > 1:
            part[:] = part[np.argsort(mjd[part], kind="mergesort")]
            part[:] = part[np.argsort(band[part], kind="mergesort")]


@njit(cache=True)
def _band_starts(
    members: np.ndarray, starts: np.ndarray, band: np.ndarray, n_bands: int
) -> np.ndarray:
    bounds = np.empty((len(starts) - 1, n_bands + 1), np.int64)
    for k in range(len(starts) - 1):
        i = starts[k]
        for b in range(n_bands + 1):
            while i < starts[k + 1] and band[members[i]] < b:
                i += 1
            bounds[k, b] = i
    return bounds


@njit(cache=True)
def weigh(
    values: np.ndarray, errors: np.ndarray, clean: np.ndarray, weights: np.ndarray
) -> tuple[int, bool]:
    """Weights of the values of a segment: inverse variances, 0 for values that are not taken.

    Taken are clean values with an error; if there are none, all with an error; if there are none,
    clean ones, or all, with equal weights.

    Parameters
    ----------
    weights
        Filled.

    Returns
    -------
    n, known
        How many are taken, and whether they have errors.
    """
    for tier in range(4):
        with_error, only_clean = tier < 2, tier % 2 == 0
        n = 0
        for i in range(len(values)):
            weights[i] = 0.0
            if not np.isfinite(values[i]) or (only_clean and not clean[i]):
                continue
            if not with_error:
                weights[i] = 1.0
            elif np.isfinite(errors[i]) and errors[i] > 0.0:
                weights[i] = 1.0 / (errors[i] * errors[i])
            n += weights[i] > 0.0
        if n > 0:
            return n, with_error
    return 0, False


@njit(cache=True)
def segment_means(
    values: np.ndarray, weights: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean of every segment, NaN if none of its values is finite, and their number."""
    n_segments = len(starts) - 1
    means, counts = np.full(n_segments, np.nan), np.zeros(n_segments, np.int64)
    for k in range(n_segments):
        weight, total = 0.0, 0.0
        for i in range(starts[k], starts[k + 1]):
            if np.isfinite(values[i]):
                counts[k] += 1
                weight += weights[i]
                total += weights[i] * values[i]
        if weight > 0.0:
            means[k] = total / weight
    return means, counts
