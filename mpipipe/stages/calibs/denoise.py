"""Masters are cleared of the noise of their few frames where they have no structure.

A plain mean of five bias frames adds 5 % to the noise of a dark sky, alike in every snap. A
channel is therefore modelled by level, rows, columns and a smooth surface; what is left of a
pixel is kept only in the ratio of real structure to total variance (Wiener), or whole where it
stands out.
"""

from __future__ import annotations

import numpy as np

from mpipipe.stages.isr.overscan import smooth_linear, smooth_median

MESH = 32
"""Side of the blocks of the smooth surface, pixels."""

WINDOW = 31
"""Rows or columns over which their profile is smoothed."""


def _clipped_moments(values: np.ndarray, n_sigma: float = 4.0) -> tuple[float, float]:
    """Mean and variance after clipping about the median."""
    middle = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - middle))) + 1e-30
    spread = max(spread, 1e-3 * float(np.std(values)))
    mean, variance = middle, spread**2
    for _ in range(5):
        kept = values[np.abs(values - mean) <= n_sigma * np.sqrt(variance)]
        if kept.size < 2:
            break
        before = variance
        mean = float(kept.mean(dtype=np.float64))
        variance = float(kept.var(dtype=np.float64))
        if abs(variance - before) < 1e-4 * before:
            break
    return mean, variance


def _profile(image: np.ndarray, noise: float, limit: float) -> np.ndarray:
    """Mean of every row: smooth, plus what rows have of their own beyond their noise."""
    from mpipipe.stages.calibs import kernels

    means = np.empty(image.shape[0])
    kernels.clipped_rows(np.ascontiguousarray(image), limit, means)
    if len(means) < 3 * WINDOW:
        return means
    middle = smooth_median(means, WINDOW)
    own = noise / image.shape[1]
    spread = np.sqrt(_clipped_moments(means - middle)[1] + own)
    smooth = smooth_linear(np.where(np.abs(means - middle) < 5 * spread, means, middle), WINDOW)
    rest = means - smooth
    # The smooth profile follows the noise of a row by 1 / window.
    total = _clipped_moments(rest)[1]
    share = max(0.0, 1.0 - own * (1.0 - 1.0 / WINDOW) / total) if total > 0 else 0.0
    result: np.ndarray = smooth + np.where(np.abs(rest) > 5 * spread, rest, share * rest)
    return result


def _surface(image: np.ndarray, noise: float, limit: float) -> np.ndarray | None:
    """Smooth surface through block means, as far as these differ more than their noise."""
    from mpipipe.stages.calibs import kernels

    ny, nx = image.shape
    n_y, n_x = max(1, round(ny / MESH)), max(1, round(nx / MESH))
    if n_y < 3 or n_x < 3:
        return None
    edges_y, edges_x = (np.linspace(0, n, k + 1).astype(int) for n, k in ((ny, n_y), (nx, n_x)))
    blocks = np.empty((n_y, n_x))
    kernels.block_means(image, edges_y, edges_x, limit, blocks)
    expected = noise * n_y * n_x / image.size
    total = _clipped_moments(blocks.ravel())[1]
    share = max(0.0, 1.0 - expected / total) if total > 0 else 0.0
    # Some hundred blocks know their variance to a tenth.
    if share < 0.3:
        return None
    centre_y, centre_x = (0.5 * (e[1:] + e[:-1] - 1) for e in (edges_y, edges_x))
    along = np.array([np.interp(np.arange(nx), centre_x, row) for row in blocks * share])
    y = np.clip(np.arange(ny), centre_y[0], centre_y[-1])
    k = np.clip(np.searchsorted(centre_y, y, side="right") - 1, 0, n_y - 2)
    t = ((y - centre_y[k]) / (centre_y[k + 1] - centre_y[k]))[:, None]
    return (along[k] * (1 - t) + along[k + 1] * t).astype(np.float32)


def denoise(
    image: np.ndarray, variance: np.ndarray, n_sigma: float = 4.0
) -> tuple[np.ndarray, np.ndarray, float]:
    """Take the noise out of one channel of a master.

    Parameters
    ----------
    image, variance
        (ny, nx) float32: mean of the frames and its variance.
    n_sigma
        A pixel that differs from the model by more keeps its value and its variance.

    Returns
    -------
    image, variance
        (ny, nx) float32 of the cleared master.
    share
        The part of the pixels' own deviation that is real structure, 0 to 1.
    """
    noise = float(np.median(variance[::3, ::3]))
    limit = n_sigma * float(np.sqrt(noise))
    level = float(np.median(image))
    rest = image - np.float32(level)
    rows, columns = np.zeros(image.shape[0]), np.zeros(image.shape[1])
    for _ in range(2):
        step = _profile(rest, noise, limit)
        rest -= step.astype(np.float32)[:, None]
        rows += step
        step = _profile(rest.T, noise, limit)
        rest -= step.astype(np.float32)
        columns += step
    surface = _surface(rest, noise, limit)
    if surface is not None:
        rest -= surface
    _, total = _clipped_moments(rest[::2, ::2].ravel())
    share = max(0.0, 1.0 - noise / total) if total > 0 else 0.0
    # The smooth parts cost noise / ny + noise / nx at least; below that nothing is gained.
    floor = noise * (1.0 / image.shape[0] + 1.0 / image.shape[1])
    outstanding = np.abs(rest) > n_sigma * np.sqrt(max(total, noise))
    result = np.where(outstanding, image, image - rest + np.float32(share) * rest)
    own = np.where(outstanding, variance, np.float32(share * noise + floor))
    return result.astype(np.float32), own.astype(np.float32), share
