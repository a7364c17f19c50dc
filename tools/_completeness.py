"""What a catalogue of detections found and made up, against the simulator's truth.

The SNR of a source is the truth's: of a point source of its flux against sky, read noise and its
own photons. A source is found where a detection is paired with it: the brightest takes the nearest
free detection within `REACH`, then the next. A detection without a partner is false, so residuals
of a star beside the detection of that star are; one that has a flag of `EXCUSES` is not judged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from _truth import GALAXY
from scipy.spatial import cKDTree

from mpipipe.data.mask import is_set
from mpipipe.stages.near import planes_near

EDGES = (5.0, 6.0, 8.0, 12.0, 20.0, 50.0, np.inf)
"""Limits of the bins of SNR."""
REACH = 0.75
"""Of a pair, in units of the FWHM."""
FAINTEST = 2.5
"""SNR below which a source is nobody's partner."""
MARGIN = 6.0
"""Width of the rim of the CCD that is not judged, pixels."""
EXCUSES = ("flag_edge", "flag_streak", "flag_saturated", "flag_near_saturated")
"""Flags of rows that are not judged."""
CAUSES = ("edge", "streak", "saturated", "halo", "blend", "blank")
"""Why a detection is false, in the order in which they are asked."""

_HALO_SNR = 100.0
_HALO = 6.0
_BLEND = 2.0
"""Reach of a halo and of a blend, FWHM."""


@dataclass(frozen=True)
class Detected:
    """A catalogue beside the truth of the same CCD-visits; sums, so that several can be added.

    Attributes
    ----------
    n_true, n_found
        Sources in each bin of SNR, and how many of them were found.
    n_judged, n_false
        Detections without a flag that excuses them, and how many of them are false.
    n_excused
        Detections with such a flag.
    n_random
        Of `n_judged` random positions, those that would have found a partner.
    causes
        False detections by `CAUSES`; the flagged ones too.
    megapixels
        Area.
    """

    n_true: np.ndarray
    n_found: np.ndarray
    n_judged: int
    n_false: int
    n_excused: int
    n_random: int
    causes: np.ndarray
    megapixels: float

    @property
    def completeness(self) -> np.ndarray:
        """Share found in each bin; NaN in an empty one."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.n_found / self.n_true

    @property
    def purity(self) -> float:
        """Share of the judged detections that are sources; NaN without any."""
        return 1 - self.n_false / self.n_judged if self.n_judged else float("nan")

    @property
    def false_per_megapixel(self) -> float:
        """False detections among the judged ones, by area."""
        return self.n_false / self.megapixels


def pair(
    x: np.ndarray, y: np.ndarray, true_x: np.ndarray, true_y: np.ndarray, flux: np.ndarray,
    reach: float,
) -> np.ndarray:  # fmt: skip
    """For each detection the number of its source, -1 without one.

    Parameters
    ----------
    flux
        Of the sources: the brightest chooses first.
    reach
        Pixels.
    """
    partner = np.full(len(x), -1)
    if not len(x) or not len(true_x):
        return partner
    near = cKDTree(np.c_[x, y]).query_ball_point(np.c_[true_x, true_y], reach)
    for k in np.argsort(-flux, kind="stable"):
        free = [i for i in near[k] if partner[i] < 0]
        if free:
            partner[min(free, key=lambda i: (np.hypot(x[i] - true_x[k], y[i] - true_y[k]), i))] = k
    return partner


def compare(
    src: np.ndarray,
    sources: np.ndarray,
    mask: np.ndarray,
    spoiled: np.ndarray,
    fwhm: float,
    kind: int | None = None,
) -> Detected:
    """Compare the rows of one CCD-visit with its truth.

    Parameters
    ----------
    src
        Structured array with `x`, `y`, and those flags of `EXCUSES` that it has.
    sources
        Rows of the truth's SOURCES.
    mask
        The calexp's mask.
    spoiled
        (ny, nx) bool, see `_truth.CcdTruth`.
    fwhm
        Pixels.
    kind
        `n_true` and `n_found` count sources of this kind only; None: all.
    """
    ny, nx = mask.shape
    rows = src[_inside(src["x"], src["y"], (ny, nx))]
    partners = sources[sources["snr"] > FAINTEST]
    true_x, true_y = partners["x"].astype(float), partners["y"].astype(float)
    flux, reach = partners["flux"].astype(float), REACH * fwhm
    # Rows beyond the rim can be the partners of sources on this side.
    everywhere = pair(src["x"].astype(float), src["y"].astype(float), true_x, true_y, flux, reach)
    found = np.zeros(len(partners), bool)
    found[everywhere[everywhere >= 0]] = True
    is_false = everywhere[_inside(src["x"], src["y"], (ny, nx))] < 0
    excused = np.zeros(len(rows), bool)
    for name in EXCUSES:
        if name in (rows.dtype.names or ()):
            excused |= rows[name]
    counted = _inside(true_x, true_y, (ny, nx))
    if kind is not None:
        counted &= partners["kind"] == kind
    snr = partners["snr"].astype(float)
    causes = why_false(rows[is_false], partners, mask, spoiled, fwhm)
    judged = ~excused
    return Detected(
        np.histogram(snr[counted], EDGES)[0],
        np.histogram(snr[counted & found], EDGES)[0],
        int(judged.sum()),
        int((judged & is_false).sum()),
        int(excused.sum()),
        _by_chance(int(judged.sum()), true_x, true_y, (ny, nx), reach),
        np.array([int((causes == k).sum()) for k in range(len(CAUSES))]),
        ny * nx / 1e6,
    )


def together(parts: Iterable[Detected]) -> Detected:
    """Several comparisons as one."""
    parts = list(parts)
    return Detected(
        np.sum([one.n_true for one in parts], axis=0),
        np.sum([one.n_found for one in parts], axis=0),
        sum(one.n_judged for one in parts),
        sum(one.n_false for one in parts),
        sum(one.n_excused for one in parts),
        sum(one.n_random for one in parts),
        np.sum([one.causes for one in parts], axis=0),
        sum(one.megapixels for one in parts),
    )


def why_false(
    rows: np.ndarray, sources: np.ndarray, mask: np.ndarray, spoiled: np.ndarray, fwhm: float
) -> np.ndarray:
    """Number in `CAUSES` of each row: the first that applies."""
    ny, nx = mask.shape
    x, y = rows["x"].astype(float), rows["y"].astype(float)
    if not len(rows):
        return np.zeros(0, int)
    edge = (np.minimum(x, nx - 1 - x) < 2 * fwhm) | (np.minimum(y, ny - 1 - y) < 2 * fwhm)
    near = planes_near(mask, y, x, 2 * fwhm)
    hit = planes_near(spoiled.astype(np.int32), y, x, 2 * fwhm) != 0
    saturated = is_set(near, "SAT")
    streak = is_set(near, ("STREAK", "DETECTED_STREAK")) | (hit & ~saturated)
    bright = sources[sources["snr"] > _HALO_SNR]
    large = sources[(sources["snr"] > 0.3 * _HALO_SNR) & (sources["kind"] == GALAXY)]
    halo = _is_near(x, y, np.concatenate([bright, large]), _HALO * fwhm)
    blend = _is_near(x, y, sources[sources["snr"] > EDGES[0]], _BLEND * fwhm)
    reasons = np.stack([edge, streak, saturated, halo, blend, np.ones(len(rows), bool)])
    return np.asarray(np.argmax(reasons, axis=0))


def _inside(x: np.ndarray, y: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    ny, nx = shape
    across = (x >= MARGIN) & (x <= nx - 1 - MARGIN)
    return np.asarray(across & (y >= MARGIN) & (y <= ny - 1 - MARGIN))


def _is_near(x: np.ndarray, y: np.ndarray, sources: np.ndarray, reach: float) -> np.ndarray:
    if not len(sources):
        return np.zeros(len(x), bool)
    tree = cKDTree(np.c_[sources["x"], sources["y"]].astype(float))
    return np.asarray(tree.query(np.c_[x, y])[0] < reach)


def _by_chance(
    n: int, true_x: np.ndarray, true_y: np.ndarray, shape: tuple[int, int], reach: float
) -> int:
    if not len(true_x):
        return 0
    ny, nx = shape
    places = np.random.default_rng(1).uniform(0, 1, (n, 2)) * (nx - 1, ny - 1)
    return int((cKDTree(np.c_[true_x, true_y]).query(places)[0] < reach).sum())
