"""DeepDetections that are false more often than others, by what may have made them."""

from __future__ import annotations

import numpy as np

from mpipipe.stages.sfm.deep_detections import DeepDetections

CAUSES = ("edge", "streak", "saturated", "halo", "blend", "blank")
"""In the order in which they are asked; a detection counts for the first that holds.

edge: within 2 FWHM of an edge. streak: its footprint is a trail. saturated: within 2 FWHM of a
saturated pixel. halo: within 6 FWHM of a source of SNR > 100 that is 20 times as significant.
blend: found when models had been taken off. blank: none of these, and within a tenth of the
threshold."""

_EDGE = 2.0
_HALO = 6.0
_BRIGHT = 100.0
_FAINTER = 0.05
_MARGIN = 1.1


def count_doubtful(
    found: DeepDetections, shape: tuple[int, int], fwhm: float, threshold: float
) -> dict[str, int]:
    """How many doubtful detections there are of each of `CAUSES`.

    Parameters
    ----------
    shape
        (ny, nx) of the image.
    fwhm
        Pixels.
    threshold
        Least SNR of a detection.
    """
    ny, nx = shape
    room = np.minimum(np.minimum(found.x, nx - 1 - found.x), np.minimum(found.y, ny - 1 - found.y))
    holds = (
        room < _EDGE * fwhm,
        found.streak[found.footprint],
        found.near_saturated,
        _in_halos(found, fwhm),
        found.found_in > 0,
        found.snr < _MARGIN * threshold,
    )
    counts, left = {}, np.ones(len(found.y), bool)
    for cause, which in zip(CAUSES, holds, strict=True):
        counts[cause] = int((left & which).sum())
        left &= ~which
    return counts


def _in_halos(found: DeepDetections, fwhm: float) -> np.ndarray:
    """Whether the most significant of the bright sources nearby outshines a detection."""
    from scipy.spatial import KDTree

    bright = np.flatnonzero(found.snr > _BRIGHT)
    inside = np.zeros(len(found.y), bool)
    if not len(bright):
        return inside
    places = np.stack([found.x, found.y], axis=1).astype(float)
    k = min(4, len(bright))
    distance, index = KDTree(places[bright]).query(places, k=[*range(1, k + 1)])
    snr = found.snr[bright][np.minimum(index, len(bright) - 1)]
    near = (distance < _HALO * fwhm) & (found.snr[:, None] < _FAINTER * snr)
    return np.asarray(near.any(axis=1))
