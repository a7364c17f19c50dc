"""Magnitudes of stars and galaxies of one CCD-visit beside the true ones."""

from __future__ import annotations

from dataclasses import dataclass

import _truth
import numpy as np
from _completeness import FAINTEST, REACH, pair
from _truth import CALIBRATION, GALAXY, CcdTruth
from scipy.spatial import cKDTree

from mpipipe.data.photo_calib import MAG_PER_RELATIVE, NANOJANSKY_ZERO_POINT

GLARE, WINGS = 10.0, 8.0
"""A lone star has no source of so many times its light within so many FWHM."""
EDGE = 8.0
"""Pixels from an edge within which no galaxy is judged."""


@dataclass(frozen=True)
class Magnitudes:
    """Sources with their true and measured magnitudes.

    Attributes
    ----------
    rows
        Of src.
    true
        Rows of the truth's SOURCES.
    """

    rows: np.ndarray
    true: np.ndarray

    def off(self, flux: str) -> np.ndarray:
        """Measured minus true magnitude by a column in nJy; NaN without a positive flux."""
        value = self.rows[flux].astype(float)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(NANOJANSKY_ZERO_POINT - 2.5 * np.log10(value) - self.true["mag"])

    def error(self, flux: str) -> np.ndarray:
        """Error of that magnitude."""
        name = flux.replace("Flux", "FluxErr")
        return np.asarray(MAG_PER_RELATIVE * self.rows[name] / self.rows[flux])


def lone_stars(truth: CcdTruth, src: np.ndarray) -> Magnitudes:
    """Whole stars that were measured without a flag and stand alone.

    No other source gives more than 5 % of their light in the calibration aperture, and none of ten
    times their light is so near that its wings reach there.
    """
    good = src[~(src["flag_saturated"] | src["flag_bad"] | src["flag_psfFlux"])]
    chosen = _truth.isolated_stars(truth, CALIBRATION, 0.05)
    chosen = chosen[(truth.sources["snr"][chosen] > 5) & ~_in_glare(truth)[chosen]]
    measured, true = _truth.matched(good["x"], good["y"], truth, chosen, 0.5 * truth.fwhm)
    return Magnitudes(good[measured], truth.sources[true])


def _in_glare(truth: CcdTruth) -> np.ndarray:
    """Which sources have one of `GLARE` times their light within `WINGS` FWHM."""
    true = truth.sources
    place = np.stack([true["x"], true["y"]], axis=1)
    near = cKDTree(place).query_pairs(WINGS * truth.fwhm, output_type="ndarray")
    glared = np.zeros(len(true), bool)
    for one, other in (near.T, near.T[::-1]):
        glared[one[true["flux"][other] > GLARE * true["flux"][one]]] = True
    return glared


def galaxies(truth: CcdTruth, src: np.ndarray) -> Magnitudes:
    """Whole galaxies that were found, and that no brighter source is closer to than 2 FWHM."""
    true = truth.sources[truth.sources["snr"] > FAINTEST]
    place = np.stack([true["x"], true["y"]], axis=1).astype(float)
    partner = pair(src["x"], src["y"], *place.T, true["flux"].astype(float), REACH * truth.fwhm)
    row = np.flatnonzero(partner >= 0)
    row = row[true["kind"][partner[row]] == GALAXY]
    source = partner[row]
    near = cKDTree(place).query_ball_point(place[source], 2.0 * truth.fwhm)
    brightest = [max(true["flux"][others]) for others in near]
    chosen = (true["flux"][source] >= brightest) & _is_whole(truth, place[source])
    return Magnitudes(src[row[chosen]], true[source[chosen]])


def _is_whole(truth: CcdTruth, place: np.ndarray) -> np.ndarray:
    """Which positions are away from edges and from spoiled pixels."""
    ny, nx = truth.shape
    x, y = place.T
    inside = (x > EDGE) & (x < nx - 1 - EDGE) & (y > EDGE) & (y < ny - 1 - EDGE)
    return np.asarray(inside & ~_truth.near_spoiled(truth, place))
