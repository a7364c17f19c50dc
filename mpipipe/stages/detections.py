"""What a detection hands on: peaks, and the footprints they stand in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Detections:
    """Peaks in reading order, and the footprints they stand in.

    Attributes
    ----------
    y, x
        int64, peak pixels.
    snr
        Height of the map over its width.
    footprint
        Number of each peak's footprint.
    footprints
        `mpipipe.stages.footprints.FOOTPRINT` rows.
    streak
        For each footprint: whether it is a trail.
    width
        What errors of matched fluxes are in units of those of white noise: 1 or more, where noise
        is correlated and where faint sources crowd.
    """

    y: np.ndarray
    x: np.ndarray
    snr: np.ndarray
    footprint: np.ndarray
    footprints: np.ndarray
    streak: np.ndarray
    width: float


def are_streaks(footprints: np.ndarray, length: float, elongation: float) -> np.ndarray:
    """bool: which footprints are longer (pixels) and more elongated than that."""
    return (footprints["length"] > length) & (footprints["elongation"] > elongation)


def most_significant(
    map_: np.ndarray, y: np.ndarray, x: np.ndarray, n_most: int
) -> tuple[np.ndarray, np.ndarray]:
    """The `n_most` peaks (y, x) at which the map is highest, in the order they came in."""
    kept = np.sort(np.argsort(-map_[y, x], kind="stable")[:n_most])
    return y[kept], x[kept]
