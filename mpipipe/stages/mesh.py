"""Background on a mesh: the sky level in cells of an image, robust against the sources in them.

The estimator is SExtractor's (Bertin & Arnouts 1996, section 3): clip at 3 sigma about the median
until nothing changes; the mode 2.5 median - 1.5 mean where the distribution is nearly symmetric,
the median where sources still skew it. Cells with too few good pixels are filled from their
neighbours, and a 3x3 median over the cells takes out what single bright objects leave.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from scipy import ndimage

from mpipipe.data.background import Background, cell_edges

_BINS = (256, 1024)
"""Of the histogram: of cells up to `_SMALL` pixels, whose levels scatter by more than such a bin
can blur, and of larger ones."""
_SMALL = 2048
_REACH = 6.0
"""Half width of the histogram in first-guess sigmas."""

MIN_GOOD = 0.1
"""Share of a cell's pixels that must be good for its level to count."""


@njit(cache=True)
def _clipped_moments(values: np.ndarray, n: int) -> tuple[float, float]:
    """Mean and standard deviation of values[:n] after clipping four times at 3 sigma."""
    low, high = -np.inf, np.inf
    origin, sigma = float(values[0]), 0.0
    for _ in range(5):
        # Differences to something near the mean keep the sums of single precision accurate.
        total, squares, count = _sums_within(values, n, origin, low, high)
        if count == 0:
            break
        mean = total / count
        sigma = np.sqrt(max(squares / count - mean * mean, 0.0))
        origin += mean
        low, high = -3 * sigma, 3 * sigma
    return origin, sigma


@njit(cache=True, fastmath={"reassoc", "nsz", "contract"})
def _sums_within(
    values: np.ndarray, n: int, origin: float, low: float, high: float
) -> tuple[float, float, float]:
    """Sum, sum of squares and number of what lies between two limits, counted from `origin`; on
    vectors."""
    middle, bottom, top = np.float32(origin), np.float32(low), np.float32(high)
    zero, unit = np.float32(0), np.float32(1)
    total = squares = count = zero
    for k in range(n):
        value = values[np.uint64(k)] - middle  # unsigned: no test for negative indices
        kept, one = (value, unit) if bottom <= value else (zero, zero)
        kept, one = (kept, one) if value <= top else (zero, zero)
        total += kept
        squares += kept * kept
        count += one
    return float(total), float(squares), float(count)


@njit(cache=True)
def _count(
    values: np.ndarray, n: int, start: float, step: float, bins: np.ndarray, counts: np.ndarray
) -> None:
    """Histogram of values[:n]; the first and the last bin are of what lies outside."""
    low, scale = np.float32(start), np.float32(1 / step)
    zero, most = np.float32(0), np.float32(len(counts) - 1)
    for k in range(n):
        i = np.uint64(k)
        place = (values[i] - low) * scale + np.float32(1)
        place = place if place > zero else zero
        bins[i] = np.int32(place if place < most else most)
    counts[:] = 0.0
    for k in range(n):
        counts[np.uint64(bins[np.uint64(k)])] += 1.0


@njit(cache=True)
def _histogram_level(counts: np.ndarray, start: float, step: float) -> tuple[float, float]:
    """Level and width of a histogram, clipped at 3 sigma about the median till it settles."""
    n_bins = len(counts)
    low, high = 0, n_bins
    median, mean, sigma = 0.0, 0.0, 0.0
    for _ in range(30):
        total, first, second = 0.0, 0.0, 0.0
        for i in range(low, high):
            total += counts[i]
            first += counts[i] * i
            second += counts[i] * float(i) * i
        if total == 0:
            return start, 0.0
        mean = first / total
        sigma = np.sqrt(max(second / total - mean * mean, 0.0))
        half, cumulated, median = 0.5 * total, 0.0, mean
        for i in range(low, high):
            if cumulated + counts[i] >= half:
                median = i - 0.5 + (half - cumulated) / max(counts[i], 1)
                break
            cumulated += counts[i]
        new_low = max(0, int(np.ceil(median - 3 * sigma)))
        new_high = min(n_bins, int(np.floor(median + 3 * sigma)) + 1)
        if (new_low == low and new_high == high) or new_high <= new_low:
            break
        low, high = new_low, new_high
    skewed = sigma > 0 and abs(mean - median) > 0.3 * sigma
    level = median if skewed else 2.5 * median - 1.5 * mean
    return start + (level + 0.5) * step, sigma * step


@njit(cache=True)
def _cells(
    image: np.ndarray,
    exclude: np.ndarray,
    y_edges: np.ndarray,
    x_edges: np.ndarray,
    level: np.ndarray,
    sigma: np.ndarray,
    good: np.ndarray,
) -> None:
    """Level, width and share of good pixels of every cell."""
    largest_y, largest_x = 0, 0
    for j in range(len(y_edges) - 1):
        largest_y = max(largest_y, y_edges[j + 1] - y_edges[j])
    for i in range(len(x_edges) - 1):
        largest_x = max(largest_x, x_edges[i + 1] - x_edges[i])
    values = np.empty(largest_y * largest_x, np.float32)
    n_bins = _BINS[0] if len(values) <= _SMALL else _BINS[1]
    counts, bins = np.empty(n_bins + 2), np.empty(len(values), np.int32)
    for j in range(len(y_edges) - 1):
        for i in range(len(x_edges) - 1):
            n = 0
            for y in range(y_edges[j], y_edges[j + 1]):
                line, excluded = image[y], exclude[y]
                for k in range(x_edges[i], x_edges[i + 1]):
                    x = np.uint64(k)
                    values[np.uint64(n)] = line[x]
                    n += not excluded[x]
            size = (y_edges[j + 1] - y_edges[j]) * (x_edges[i + 1] - x_edges[i])
            good[j, i] = n / size
            if n == 0:
                level[j, i], sigma[j, i] = 0.0, 0.0
                continue
            centre, width = _clipped_moments(values, n)
            if width <= 0:
                level[j, i], sigma[j, i] = centre, 0.0
                continue
            start, step = centre - _REACH * width, 2 * _REACH * width / n_bins
            _count(values, n, start, step, bins, counts)
            level[j, i], sigma[j, i] = _histogram_level(counts[1:-1], start, step)


def _fill(values: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Cells that are not good get the mean of their good neighbours, ring by ring."""
    values, known = np.where(good, values, 0.0), good.copy()
    ring = np.ones((3, 3))
    while not known.all():
        weight = ndimage.convolve(known.astype(float), ring, mode="constant")
        total = ndimage.convolve(np.where(known, values, 0.0), ring, mode="constant")
        new = ~known & (weight > 0.5)
        values[new] = total[new] / weight[new]
        known |= new
    return values


def mesh_background(
    image: np.ndarray, exclude: np.ndarray, size: int, *, smooth: bool = True
) -> tuple[Background, float]:
    """The background of an image in cells of about `size` pixels.

    Parameters
    ----------
    image
        (ny, nx) float32; finite wherever `exclude` is not set.
    exclude
        (ny, nx) bool, pixels that do not count.
    size
        Side of a cell in pixels; cells divide the image evenly.
    smooth
        Take the median of each cell and its eight neighbours.

    Returns
    -------
    background
        Level zero everywhere if no cell has enough good pixels.
    filled
        Share of the cells that had too few good pixels and were filled from others.
    """
    ny, nx = image.shape
    y_edges, x_edges = cell_edges(ny, size), cell_edges(nx, size)
    shape = (len(y_edges) - 1, len(x_edges) - 1)
    level, sigma, share = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    _cells(image, exclude, y_edges, x_edges, level, sigma, share)
    good = share >= MIN_GOOD
    if not good.any():
        if not share.any():
            return Background.constant(0.0, (ny, nx)), 1.0
        good = share > 0
    level, sigma = _fill(level, good), _fill(sigma, good)
    if smooth and min(shape) > 1:
        level = ndimage.median_filter(level, size=3, mode="nearest")
        sigma = ndimage.median_filter(sigma, size=3, mode="nearest")
    return Background(level, sigma, (ny, nx)), 1.0 - float(good.mean())
