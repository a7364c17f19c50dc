"""What is about a source: the level of the sky beside it, and how much of its light is others'."""

from __future__ import annotations

import numpy as np
from numba import njit

_CLIP = 3.0
_LEAST_PIXELS = 30


def local_background(
    light: np.ndarray, known: np.ndarray, x: np.ndarray, y: np.ndarray, inner: float, outer: float
) -> tuple[np.ndarray, np.ndarray]:
    """Clipped mean of stamps in rings about the sources, and its standard error.

    Parameters
    ----------
    light, known, x, y
        As in `mpipipe.stages.sfm.source_stamps.Stamps`.
    inner, outer
        Radii of the ring, pixels.

    Returns
    -------
    mean, error
        Electrons a pixel; NaN where fewer than 30 pixels are known.
    """
    out = np.full((2, len(light)), np.nan)
    _rings(light, known, x, y, inner, outer, out)
    return out[0], out[1]


@njit(cache=True)
def _rings(
    light: np.ndarray,
    known: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    inner: float,
    outer: float,
    out: np.ndarray,
) -> None:
    size = light.shape[1]
    half = size // 2
    values = np.empty(size * size)
    for k in range(len(light)):
        n = 0
        for j in range(size):
            for i in range(size):
                square = (i - half - x[k]) ** 2 + (j - half - y[k]) ** 2
                if inner * inner <= square < outer * outer and known[k, j, i]:
                    values[n] = light[k, j, i]
                    n += 1
        if n < _LEAST_PIXELS:
            continue
        middle = np.median(values[:n])
        width = 1.4826 * np.median(np.abs(values[:n] - middle))
        total, squares, kept = 0.0, 0.0, 0
        for m in range(n):
            off = values[m] - middle
            if abs(off) <= _CLIP * width:
                total += off
                squares += off * off
                kept += 1
        mean = total / kept
        out[0, k] = middle + mean
        out[1, k] = np.sqrt(max(squares / kept - mean * mean, 0.0) / kept)


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
