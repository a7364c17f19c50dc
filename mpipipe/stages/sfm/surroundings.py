"""What is about a source: the level of the sky beside it, and how much of its light is others'."""

from __future__ import annotations

import numpy as np
from numba import njit

from mpipipe.stages.sfm.source_stamps import Ground, hide_discs

_CLIP = 3.0
_LEAST_PIXELS = 30
_BINS = 64
_REACH = 6.0
"""The histogram that gives medians reaches this many times the sky's noise to either side."""


def local_background(
    ground: Ground, first: int, x: np.ndarray, y: np.ndarray, inner: float, outer: float
) -> tuple[np.ndarray, np.ndarray]:
    """Clipped mean of the residual image in rings about sources, and its standard error.

    Pixels further than 3 standard deviations from the median do not count; both are read off a
    histogram.

    Parameters
    ----------
    ground
        The image, and discs about extended sources, which are left out.
    first
        Number of the first of these sources in the catalogue.
    x, y
        (n,) positions, pixels.
    inner, outer
        Radii of the ring, pixels: more than a PSF model reaches, or little of its light.

    Returns
    -------
    mean, error
        Electrons a pixel; NaN where fewer than 30 pixels are known.
    """
    out = np.full((2, len(x)), np.nan)
    discs = ground.discs
    _rings(
        ground.residual, ground.planes.variance, ground.unknown, first, x, y, inner, outer,
        discs.arrays, discs.shape, discs.cell, out,
    )  # fmt: skip
    return out[0], out[1]


@njit(cache=True, error_model="numpy")
def _rings(
    residual: np.ndarray,
    variance: np.ndarray,
    unknown: np.ndarray,
    first: int,
    xs: np.ndarray,
    ys: np.ndarray,
    inner: float,
    outer: float,
    discs: tuple[np.ndarray, ...],
    shape: tuple[int, int],
    cell: float,
    out: np.ndarray,
) -> None:
    ny, nx = residual.shape
    half = int(np.ceil(outer)) + 1
    size = 2 * half + 1
    free = np.empty((size, size), np.bool_)
    values = np.empty(size * size)
    for k in range(len(xs)):
        x0, y0 = int(np.round(xs[k])) - half, int(np.round(ys[k])) - half
        free[:] = True
        hide_discs(free, first + k, xs[k], ys[k], x0, y0, discs, shape, cell)
        n, noise = 0, 0.0
        for y in range(max(0, y0), min(ny, y0 + size)):
            rest = outer * outer - (y - ys[k]) ** 2
            if rest <= 0:
                continue
            reach, hole = np.sqrt(rest), np.sqrt(max(rest - outer * outer + inner * inner, 0.0))
            low, high = int(np.ceil(xs[k] - reach)), int(np.floor(xs[k] + reach))
            for x in range(max(0, low), min(nx, high + 1)):
                if abs(x - xs[k]) >= hole and not unknown[y, x] and free[y - y0, x - x0]:
                    values[n] = residual[y, x]
                    noise += variance[y, x]
                    n += 1
        if n >= _LEAST_PIXELS:
            out[0, k], out[1, k] = _clipped_mean(values[:n], np.sqrt(noise / n))


@njit(cache=True, error_model="numpy")
def _clipped_mean(values: np.ndarray, noise: float) -> tuple[float, float]:
    """Mean of what is near the median, and its standard error."""
    counts = np.zeros(_BINS)
    scale = _BINS / (2 * _REACH * noise)
    for value in values:
        place = min(max(value * scale + 0.5 * _BINS, 0.0), _BINS - 1.0)
        counts[int(place)] += 1
    middle = (_quantile(counts, 0.5) - 0.5 * _BINS) / scale
    # The quartiles of a Gaussian are 1.349 standard deviations apart.
    width = (_quantile(counts, 0.75) - _quantile(counts, 0.25)) / scale / 1.349
    total, squares, kept = 0.0, 0.0, 0
    for value in values:
        off = value - middle
        if abs(off) <= _CLIP * width:
            total += off
            squares += off * off
            kept += 1
    mean = total / kept
    return middle + mean, np.sqrt(max(squares / kept - mean * mean, 0.0) / kept)


@njit(cache=True)
def _quantile(counts: np.ndarray, share: float) -> float:
    """Where this share of the counts is reached, bins."""
    wanted, total = share * counts.sum(), 0.0
    for b in range(len(counts)):
        if total + counts[b] >= wanted:
            return b + (wanted - total) / max(counts[b], 1.0)
        total += counts[b]
    return float(len(counts))


def blendedness(
    light: np.ndarray,
    known: np.ndarray,
    image: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    moments: np.ndarray,
) -> np.ndarray:
    """Share of the light under a source's Gaussian that is not its own, 0 to 1.

    One less the source's own light over all light, both under the weight of its adaptive moments
    (Bosch et al. 2018, PASJ 70, S5, section 4.9.11). NaN where there is no light.

    Parameters
    ----------
    image
        (ny, nx) with all sources.
    x, y
        Positions on the image.
    """
    out = np.full(len(light), np.nan)
    _shares(light, known, image, x, y, moments, out)
    return out


@njit(cache=True, error_model="numpy")
def _shares(
    light: np.ndarray,
    known: np.ndarray,
    image: np.ndarray,
    xs: np.ndarray,
    ys: np.ndarray,
    moments: np.ndarray,
    out: np.ndarray,
) -> None:
    ny, nx = image.shape
    size = light.shape[1]
    for k in range(len(light)):
        ixx, iyy, ixy = moments[k]
        determinant = ixx * iyy - ixy * ixy
        if not (determinant > 0 and np.isfinite(xs[k]) and np.isfinite(ys[k])):
            continue
        x0, y0 = int(np.round(xs[k])) - size // 2, int(np.round(ys[k])) - size // 2
        reach = int(min(3 * np.sqrt(max(ixx, iyy)) + 1, size // 2))
        own = whole = 0.0
        for j in range(size // 2 - reach, size // 2 + reach + 1):
            for i in range(size // 2 - reach, size // 2 + reach + 1):
                y, x = y0 + j, x0 + i
                if not (0 <= y < ny and 0 <= x < nx and known[k, j, i]):
                    continue
                dx, dy = x - xs[k], y - ys[k]
                form = (iyy * dx * dx - 2 * ixy * dx * dy + ixx * dy * dy) / determinant
                if form < 9:
                    w = np.exp(-0.5 * form)
                    own += w * light[k, j, i]
                    whole += w * image[y, x]
        if own > 0 and whole > 0:
            out[k] = min(max(1 - own / whole, 0.0), 1.0)
