"""Shapes of objects, whether they are extended, and the flags of their sources."""

from __future__ import annotations

import numpy as np

from mpipipe.data.association import FLAGS
from mpipipe.stages.sa.segments import segment_means

_MOST = 100.0
"""SNR from which on a source counts no more: systematic errors of the PSF are all the same."""
_CERTAIN = 0.99
"""No source says more about being extended than this probability."""


def shapes(rows: np.ndarray, starts: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of shapes and sizes of objects.

    Means are weighted by SNR^2. The odds of being extended are multiplied as if the root of their
    number were independent: errors of neighbours and PSF are much alike from visit to visit.

    Parameters
    ----------
    rows, starts
        Sources sorted by object, and where every object begins.
    """
    snr = rows["snr"].astype(float)
    # Sources of unknown SNR count as the faintest.
    weights = np.where(snr > 1.0, np.minimum(snr, _MOST), 1.0) ** 2
    columns = _moments(rows, starts, weights)
    for name in ("petroRadius", "petroR50", "petroR90", "blendedness"):
        columns[name], _ = segment_means(rows[name].astype(float), weights, starts)
    probability = np.clip(rows["extendedness"].astype(float), 1 - _CERTAIN, _CERTAIN)
    odds = np.log(probability / (1.0 - probability))
    mean, count = segment_means(odds, np.ones(len(odds)), starts)
    columns["extendedness"] = 1.0 / (1.0 + np.exp(-mean * np.sqrt(count)))
    return columns


def _moments(rows: np.ndarray, starts: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Mean second moments less the PSF's, ellipticity and size."""
    east, north, mixed = (
        rows[f"i{axes}"].astype(float) - rows[f"psfI{axes}"] for axes in ("xx", "yy", "xy")
    )
    unknown = ~np.isfinite(east + north + mixed)
    (xx, count), (yy, _), (xy, _) = (
        segment_means(np.where(unknown, np.nan, values), weights, starts)
        for values in (east, north, mixed)
    )
    total = np.where(xx + yy > 0.0, xx + yy, np.nan)
    return {
        "nShape": count,
        "ixx": xx,
        "iyy": yy,
        "ixy": xy,
        "e1": (xx - yy) / total,
        "e2": 2.0 * xy / total,
        "size": np.sqrt(total / 2.0),
    }


def flags(rows: np.ndarray, starts: np.ndarray) -> dict[str, np.ndarray]:
    """For each flag of sources whether any source of an object has it, and what share of them."""
    columns: dict[str, np.ndarray] = {}
    count = np.diff(starts)
    for column in FLAGS:
        n_set = np.add.reduceat(rows[column.name], starts[:-1], dtype=np.int64)
        columns[column.name] = n_set > 0
        columns[f"{column.name}_fraction"] = n_set / count
    return columns
