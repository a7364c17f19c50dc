"""What sfm_sourceDetection hands on: the detections of several passes, and their footprints."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpipipe.data.mask import is_set
from mpipipe.stages.detections import Detections
from mpipipe.stages.near import planes_near

_NEAR = 2.0
"""FWHM."""


@dataclass(frozen=True, eq=False)
class DeepDetections(Detections):
    """Detections, and what measurements ask of them.

    A footprint with several peaks is a blend: a parent, and its peaks the children.

    Attributes
    ----------
    found_in
        int32, the pass that found it: 0 on the image itself, 1 and on where models of earlier ones
        had been taken off.
    near_saturated
        bool: a pixel within 2 FWHM is saturated.
    labels
        (ny, nx) int32: 0 outside of footprints, else 1 + number.
    """

    found_in: np.ndarray
    near_saturated: np.ndarray
    labels: np.ndarray

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


def near_saturated(mask: np.ndarray, y: np.ndarray, x: np.ndarray, fwhm: float) -> np.ndarray:
    """bool: which peaks have a saturated pixel within 2 FWHM."""
    return is_set(planes_near(mask, y, x, _NEAR * fwhm), "SAT")
