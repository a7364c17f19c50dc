"""What measured sources of one CCD-visit are: detections against truth, magnitudes of stars and
galaxies beside the true ones."""

from __future__ import annotations

from dataclasses import dataclass

import _truth
import numpy as np
from _truth import CALIBRATION, CcdTruth
from scipy.spatial import cKDTree

from mpipipe.data.photo_calib import MAG_PER_RELATIVE, NANOJANSKY_ZERO_POINT

GALAXY = 1
FAINTEST_TRUE = 2.5
"""SNR below which light is no source that a detection could be of."""
SNR_BINS = (5.0, 6.0, 8.0, 12.0, 20.0, 50.0, np.inf)
EDGE = 8.0
"""Pixels from an edge within which nothing is judged."""
CAUSES = ("edge", "streak", "saturated", "near bright", "blend", "blank")
"""Of false detections; the first that holds counts."""


@dataclass(frozen=True)
class Found:
    """Detections of one CCD-visit beside its sources.

    Attributes
    ----------
    source, row
        Pairs: true source, row of src; each at most once.
    judged
        (n,) bool: true sources inside the CCD whose pixels are whole.
    false
        (m,) bool: rows at no true source of SNR above 2.5.
    considered
        (m,) bool: rows inside the CCD whose pixels are whole.
    """

    source: np.ndarray
    row: np.ndarray
    judged: np.ndarray
    false: np.ndarray
    considered: np.ndarray


def find(truth: CcdTruth, src: np.ndarray) -> Found:
    """Give each true source, the brightest first, the nearest free detection within 1 FWHM."""
    true = truth.sources
    place = np.stack([true["x"], true["y"]], axis=1)
    at = np.stack([src["x"], src["y"]], axis=1)
    near = cKDTree(at).query_ball_point(place, truth.fwhm) if len(at) else [[]] * len(true)
    taken, pairs = np.zeros(len(src), bool), []
    for k in np.argsort(-true["flux"], kind="stable"):
        free = [row for row in near[k] if not taken[row]]
        if free:
            distance = np.hypot(*(at[free] - place[k]).T)
            row = free[int(np.argmin(distance))]
            taken[row] = True
            pairs.append((int(k), row))
    source, row = np.array(pairs, int).reshape(-1, 2).T
    light = true["snr"] > FAINTEST_TRUE
    distance, _ = cKDTree(place[light]).query(at)
    return Found(
        source,
        row,
        _is_whole(truth, place) & (true["trail"] < truth.fwhm),
        distance > truth.fwhm,
        _is_whole(truth, at),
    )


def _is_whole(truth: CcdTruth, place: np.ndarray) -> np.ndarray:
    """Which positions are away from edges and from spoiled pixels."""
    ny, nx = truth.shape
    x, y = place.T
    inside = (x > EDGE) & (x < nx - 1 - EDGE) & (y > EDGE) & (y < ny - 1 - EDGE)
    return np.asarray(inside & ~_truth.near_spoiled(truth, place))


def completeness(truth: CcdTruth, found: Found, kind: int) -> tuple[np.ndarray, np.ndarray]:
    """Sources of a kind that were found, and all, in `SNR_BINS` of a point source's true SNR."""
    snr = truth.sources["snr"]
    judged = found.judged & (truth.sources["kind"] == kind)
    got = np.zeros(len(snr), bool)
    got[found.source] = True
    total, _ = np.histogram(snr[judged], SNR_BINS)
    hits, _ = np.histogram(snr[judged & got], SNR_BINS)
    return hits, total


def false_by_cause(truth: CcdTruth, src: np.ndarray, found: Found) -> dict[str, int]:
    """False detections by what they stand in."""
    rows = src[found.false & found.considered]
    bright = truth.sources[truth.sources["snr"] > 300]
    close = np.zeros(len(rows), bool)
    if len(bright) and len(rows):
        tree = cKDTree(np.stack([bright["x"], bright["y"]], axis=1))
        distance, _ = tree.query(np.stack([rows["x"], rows["y"]], axis=1))
        close = distance < 12 * truth.fwhm
    tests = (
        rows["flag_edge"],
        rows["flag_streak"],
        rows["flag_saturated"] | rows["flag_bad"],
        close,
        rows["flag_blended"],
        np.ones(len(rows), bool),
    )
    counted, left = {}, np.ones(len(rows), bool)
    for cause, holds in zip(CAUSES, tests, strict=True):
        counted[cause] = int((left & holds).sum())
        left &= ~holds
    return counted


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
    """Whole stars that were measured without a flag, and have the calibration aperture alone.

    There no other source gives more than 5 % of their light.
    """
    good = src[~(src["flag_saturated"] | src["flag_bad"] | src["flag_psfFlux"])]
    chosen = _truth.isolated_stars(truth, CALIBRATION, 0.05)
    chosen = chosen[truth.sources["snr"][chosen] > 5]
    measured, true = _truth.matched(good["x"], good["y"], truth, chosen, 0.5 * truth.fwhm)
    return Magnitudes(good[measured], truth.sources[true])


def galaxies(truth: CcdTruth, src: np.ndarray, found: Found) -> Magnitudes:
    """Galaxies that were found, and that no brighter source is closer to than 2 FWHM."""
    true = truth.sources
    pairs = (true["kind"][found.source] == GALAXY) & found.judged[found.source]
    source, row = found.source[pairs], found.row[pairs]
    place = np.stack([true["x"], true["y"]], axis=1)
    near = cKDTree(place).query_ball_point(place[source], 2.0 * truth.fwhm)
    alone = np.array(
        [
            max(true["flux"][others]) <= true["flux"][k]
            for k, others in zip(source, near, strict=True)
        ],
        bool,
    )
    return Magnitudes(src[row[alone]], true[source[alone]])
