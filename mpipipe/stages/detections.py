"""What a detection hands on: peaks, and the footprints they stand in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpipipe.data.mask import is_set
from mpipipe.stages.near import planes_near

_NEAR = 2.0
"""FWHM."""


@dataclass(frozen=True, eq=False)
class Detections:
    """Peaks in reading order, and the footprints they stand in.

    A footprint with several peaks is a blend: a parent, and its peaks the children.

    Attributes
    ----------
    y, x
        int64, peak pixels.
    snr
        Height of the map over its width.
    found_in
        int32, the pass that found it: 0 on the image itself, 1 and on where models of earlier ones
        had been taken off.
    near_saturated
        bool: a pixel within 2 FWHM is saturated.
    footprint
        Number of each peak's footprint.
    footprints
        `mpipipe.stages.footprints.FOOTPRINT` rows.
    labels
        (ny, nx) int32: 0 outside of footprints, else 1 + number.
    streak
        For each footprint: whether it is a trail.
    width
        What errors of matched fluxes are in units of those of white noise: 1 or more, where noise
        is correlated and where faint sources crowd.
    """

    y: np.ndarray
    x: np.ndarray
    snr: np.ndarray
    found_in: np.ndarray
    near_saturated: np.ndarray
    footprint: np.ndarray
    footprints: np.ndarray
    labels: np.ndarray
    streak: np.ndarray
    width: float

    @property
    def n_peaks(self) -> np.ndarray:
        """For each peak: how many share its footprint, itself included."""
        return np.asarray(self.footprints["n_peaks"][self.footprint])

    def brightest(self) -> np.ndarray:
        """For each footprint: its most significant peak, of equals the first."""
        order = np.argsort(self.snr[::-1], kind="stable")
        order = len(self.snr) - 1 - order
        found = np.zeros(len(self.footprints), np.int64)
        found[self.footprint[order]] = order  # the last one written wins
        return found


def are_streaks(footprints: np.ndarray, length: float, elongation: float) -> np.ndarray:
    """bool: which footprints are longer (pixels) and more elongated than that."""
    return (footprints["length"] > length) & (footprints["elongation"] > elongation)


def near_saturated(mask: np.ndarray, y: np.ndarray, x: np.ndarray, fwhm: float) -> np.ndarray:
    """bool: which peaks have a saturated pixel within 2 FWHM."""
    return is_set(planes_near(mask, y, x, _NEAR * fwhm), "SAT")


def most_significant(
    map_: np.ndarray, y: np.ndarray, x: np.ndarray, n_most: int
) -> tuple[np.ndarray, np.ndarray]:
    """The `n_most` peaks (y, x) at which the map is highest, in the order they came in."""
    kept = np.sort(np.argsort(-map_[y, x], kind="stable")[:n_most])
    return y[kept], x[kept]
