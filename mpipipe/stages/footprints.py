"""Footprints: the connected pixels around peaks of a map, and their shapes."""

from __future__ import annotations

import numpy as np
from numba import njit

FOOTPRINT = np.dtype(
    [
        ("n_pixels", "i8"),
        ("n_peaks", "i8"),
        ("x0", "i8"),
        ("x1", "i8"),
        ("y0", "i8"),
        ("y1", "i8"),
        ("length", "f8"),
        ("elongation", "f8"),
    ]
)
"""A footprint: pixels, peaks, first and last column and row, and the extent of its major axis
(the length of a bar of the same moments, pixels) and major over minor axis."""


def grow_footprints(
    map_: np.ndarray, threshold: float, y: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flood the map above a threshold from its peaks, over all eight neighbours.

    Parameters
    ----------
    map_
        (ny, nx) float32.
    y, x
        Peaks, integers.

    Returns
    -------
    labels
        (ny, nx) int32: 0 outside, else 1 + number of the footprint.
    of_peak
        int32, number of each peak's footprint; in the order of the peaks.
    footprints
        One `FOOTPRINT` row each.
    """
    labels = np.zeros(map_.shape, np.int32)
    of_peak = np.zeros(len(y), np.int32)
    sums = np.zeros((len(y), 10))
    # Runs of pixels are labelled when they are put on the stack, so none is there twice.
    stack = np.empty((1 + np.count_nonzero(map_ > threshold), 3), np.int64)
    n = _flood(map_, threshold, np.asarray(y, np.int64), np.asarray(x, np.int64), labels,
               of_peak, sums, stack)  # fmt: skip
    return labels, of_peak, _shapes(sums[:n], np.bincount(of_peak, minlength=n))


def spread_footprints(labels: np.ndarray, footprints: np.ndarray, steps: int) -> np.ndarray:
    """Let footprints grow by so many pixels where there is room; they do not merge.

    Parameters
    ----------
    labels
        (ny, nx) int32, as from `grow_footprints`; in place.

    Returns
    -------
    numpy.ndarray
        `footprints` with their new limits and number of pixels; shapes stay those of the cores.
    """
    grown = footprints.copy()
    limits = np.stack([grown[name] for name in ("n_pixels", "x0", "x1", "y0", "y1")], axis=1)
    limits = np.ascontiguousarray(limits, np.int64)
    front = _rims(labels)
    for _ in range(steps):
        front = _spread(labels.reshape(-1), labels.shape[0], labels.shape[1], front, limits)
    for column, name in enumerate(("n_pixels", "x0", "x1", "y0", "y1")):
        grown[name] = limits[:, column]
    return grown


@njit(cache=True)
def set_planes(mask: np.ndarray, labels: np.ndarray, values: np.ndarray) -> None:
    """Set the bits `values`, one number a footprint, in the mask of its pixels; in place."""
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            if labels[y, x] > 0:
                mask[y, x] |= values[labels[y, x] - 1]


@njit(cache=True)
def _rims(labels: np.ndarray) -> np.ndarray:
    """Numbers of the labelled pixels beside ones without a label, in reading order."""
    ny, nx = labels.shape
    found, n = np.empty(1024, np.int64), 0
    for y in range(ny):
        above, line, below = labels[max(y - 1, 0)], labels[y], labels[min(y + 1, ny - 1)]
        for x in range(nx):
            if line[x] == 0:
                continue
            left, right = line[max(x - 1, 0)], line[min(x + 1, nx - 1)]
            if above[x] == 0 or below[x] == 0 or left == 0 or right == 0:
                if n == len(found):
                    found = np.concatenate((found, np.empty_like(found)))
                found[n] = y * nx + x
                n += 1
    return found[:n]


@njit(cache=True)
def _spread(
    labels: np.ndarray, ny: int, nx: int, front: np.ndarray, limits: np.ndarray
) -> np.ndarray:
    """One step to the four neighbours of the pixels `front`; the pixels that were taken."""
    taken = np.empty(4 * len(front), np.int64)
    n = 0
    for k in range(len(front)):
        pixel = front[k]
        label = labels[pixel]
        y, x = pixel // nx, pixel % nx
        for j, i in ((y - 1, x), (y, x - 1), (y, x + 1), (y + 1, x)):
            if j < 0 or i < 0 or j >= ny or i >= nx or labels[j * nx + i] != 0:
                continue
            labels[j * nx + i] = label
            taken[n] = j * nx + i
            n += 1
            row = limits[label - 1]
            row[0] += 1
            row[1], row[2] = min(row[1], i), max(row[2], i)
            row[3], row[4] = min(row[3], j), max(row[4], j)
    return taken[:n].copy()


@njit(cache=True)
def _flood(
    map_: np.ndarray,
    threshold: float,
    ys: np.ndarray,
    xs: np.ndarray,
    labels: np.ndarray,
    of_peak: np.ndarray,
    sums: np.ndarray,
    stack: np.ndarray,
) -> int:
    """Fill labels, and for each footprint n, sx, sy, sxx, syy, sxy about its peak, and limits."""
    ny, _ = map_.shape
    n_footprints = 0
    for k in range(len(ys)):
        if labels[ys[k], xs[k]] > 0:
            of_peak[k] = labels[ys[k], xs[k]] - 1
            continue
        of_peak[k] = n_footprints
        row = sums[n_footprints]
        row[6], row[7], row[8], row[9] = xs[k], xs[k], ys[k], ys[k]
        n_footprints += 1
        low, high = _run(map_[ys[k]], threshold, xs[k])
        stack[0, 0], stack[0, 1], stack[0, 2] = ys[k], low, high
        labels[ys[k], low:high] = n_footprints
        waiting = 1
        if high - low == 1:  # it may be below the threshold, beside others that are above
            waiting = _touching(
                map_[ys[k]], labels[ys[k]], threshold, low, high, ys[k], n_footprints, stack, 1
            )
        while waiting > 0:
            waiting -= 1
            y, low, high = stack[waiting]
            _add_run(row, y - ys[k], low - xs[k], high - xs[k])
            row[6], row[7] = min(row[6], low), max(row[7], high - 1)
            row[8], row[9] = min(row[8], y), max(row[9], y)
            for j in (y - 1, y + 1):
                if 0 <= j < ny:
                    waiting = _touching(
                        map_[j], labels[j], threshold, low, high, j, n_footprints, stack, waiting
                    )
    return n_footprints


@njit(cache=True)
def _run(line: np.ndarray, threshold: float, x: int) -> tuple[int, int]:
    """First and last + 1 of the pixels of a line about `x` that are above the threshold, and `x`
    itself at least."""
    low, high = x, x + 1
    if line[x] > threshold:
        while low > 0 and line[low - 1] > threshold:
            low -= 1
        while high < len(line) and line[high] > threshold:
            high += 1
    return low, high


@njit(cache=True)
def _touching(
    line: np.ndarray,
    labels: np.ndarray,
    threshold: float,
    low: int,
    high: int,
    y: int,
    label: int,
    stack: np.ndarray,
    waiting: int,
) -> int:
    """Label the runs of line `y` that touch pixels low to high - 1 of the next one, and put them on
    the stack; how many wait there."""
    x, last = max(0, low - 1), min(len(line), high + 1)
    while x < last:
        if labels[x] != 0 or not line[x] > threshold:
            x += 1
            continue
        first, end = _run(line, threshold, x)
        stack[waiting, 0], stack[waiting, 1], stack[waiting, 2] = y, first, end
        labels[first:end] = label
        waiting += 1
        x = end
    return waiting


@njit(cache=True)
def _add_run(row: np.ndarray, dy: int, low: int, high: int) -> None:
    """Add pixels (low, dy) to (high - 1, dy) to the sums of a footprint."""
    n = high - low
    # Sums of x and x^2 below x.
    first = (high - 1) * high // 2 - (low - 1) * low // 2
    second = _squares(high) - _squares(low)
    row[0] += n
    row[1] += first
    row[2] += n * dy
    row[3] += second
    row[4] += n * dy * dy
    row[5] += first * dy


@njit(cache=True)
def _squares(x: int) -> int:
    """Sum of the squares of 0 to x - 1, as the polynomial that also holds for negative x."""
    return (x - 1) * x * (2 * x - 1) // 6


def _shapes(sums: np.ndarray, n_peaks: np.ndarray) -> np.ndarray:
    rows = np.zeros(len(sums), FOOTPRINT)
    n = np.maximum(sums[:, 0], 1)
    mean_x, mean_y = sums[:, 1] / n, sums[:, 2] / n
    # Every pixel is a square: its own second moment is 1/12.
    xx = sums[:, 3] / n - mean_x**2 + 1 / 12
    yy = sums[:, 4] / n - mean_y**2 + 1 / 12
    xy = sums[:, 5] / n - mean_x * mean_y
    half_sum, root = 0.5 * (xx + yy), np.hypot(0.5 * (xx - yy), xy)
    major, minor = half_sum + root, np.maximum(half_sum - root, 1 / 12)
    rows["n_pixels"], rows["n_peaks"] = sums[:, 0], n_peaks
    for column, name in enumerate(("x0", "x1", "y0", "y1"), start=6):
        rows[name] = sums[:, column]
    rows["length"] = np.sqrt(12 * major)
    rows["elongation"] = np.sqrt(major / minor)
    return rows
