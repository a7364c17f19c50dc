"""What the judges of image characterization share: the truth of a CCD-visit, and scores against it.

Scores are made of products and of the simulator's truth, so they hold whatever the code inside.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from mpipipe.data.moments import adaptive_moments

FWHM_OF_SIGMA = 2.354820045
STAR, GALAXY = 0, 1
MAS = 3.6e6
"""Milliarcseconds in a degree."""
CALIBRATION = 3.0
"""Radius of the calibration aperture, FWHM."""


@dataclass(frozen=True)
class CcdTruth:
    """What one CCD truly saw in one visit.

    Attributes
    ----------
    sources
        Rows of the truth's SOURCES.
    stamps
        (n, 41, 41) PSF, centred on the middle pixel, of unit flux.
    centres
        (n, 2) where: x, y, zero-based pixels.
    wcs
        astropy's WCS of the truth.
    spoiled
        (ny, nx) bool: full, reached by a bleed or crossed by a satellite in any snap.
    """

    visit: int
    ccd: str
    band: str
    sources: np.ndarray
    stamps: np.ndarray
    centres: np.ndarray
    wcs: Any
    spoiled: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx)."""
        ny, nx = self.spoiled.shape
        return ny, nx

    @property
    def fwhm(self) -> float:
        """Of the Gaussian with the PSF's moments at the middle of the CCD, pixels."""
        middle = len(self.stamps) // 2
        ixx, iyy, ixy = adaptive_moments(self.stamps[middle][None])[0, :3]
        return float(FWHM_OF_SIGMA * (ixx * iyy - ixy * ixy) ** 0.25)


class HasTruth(Protocol):
    """Whatever was found on one CCD-visit."""

    @property
    def truth(self) -> CcdTruth:
        """What it truly saw."""


_OfCcd = TypeVar("_OfCcd", bound=HasTruth)


def truth_files(sim: Path) -> list[Path]:
    """The truth of all CCD-visits of a simulated survey."""
    return sorted((sim / "truth" / "science").glob("*_*.fits"))


def read_truth(path: Path) -> CcdTruth:
    """Read the truth of one CCD-visit."""
    from astropy.io import fits
    from astropy.wcs import WCS

    with fits.open(path) as hdus:
        head = hdus[0].header
        return CcdTruth(
            visit=int(head["VISIT"]),
            ccd=str(head["CCD"]),
            band=str(head["FILTER"]),
            sources=np.array(hdus["SOURCES"].data),
            stamps=np.asarray(hdus["PSF"].data, float),
            centres=np.asarray(hdus["PSF_AT"].data, float),
            wcs=WCS(head),
            spoiled=(np.asarray(hdus["STATE"].data) != 0).any(axis=0),
        )


# -- the PSF ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PsfErrors:
    """A model of the PSF against the true one, at each place of the truth's grid.

    Attributes
    ----------
    size
        (T - true T) / true T, T the trace of the adaptive moments.
    e1, e2
        Differences of the ellipticities (ixx - iyy) / T and 2 ixy / T.
    residual
        Norm of the difference of the images over the norm of the true one. Both sum to 1 in the
        calibration aperture; a shift between them, which is a matter of astrometry, is taken out.
    """

    size: np.ndarray
    e1: np.ndarray
    e2: np.ndarray
    residual: np.ndarray


@dataclass(frozen=True)
class Ellipticities:
    """Residual ellipticities of stars of one CCD-visit.

    Attributes
    ----------
    x, y
        Arcmin.
    e1, e2
        Measured minus model.
    noise
        Of each component, the stars' photons'; where there is none, any one number.
    """

    x: np.ndarray
    y: np.ndarray
    e1: np.ndarray
    e2: np.ndarray
    noise: np.ndarray


def psf_errors(truth: CcdTruth, stamps: np.ndarray) -> PsfErrors:
    """Compare stamps of odd side, drawn at the truth's grid, each star on its middle pixel.

    Errors are NaN where a stamp has no moments.
    """
    true, model = same_size(truth.stamps, stamps)
    n, size, _ = true.shape
    y, x = np.mgrid[:size, :size] - size // 2
    circle = np.hypot(x, y) <= min(CALIBRATION * truth.fwhm, size / 2)
    true = true / true[:, circle].sum(axis=1)[:, None, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        model = model / model[:, circle].sum(axis=1)[:, None, None]
    of_true, of_model = adaptive_moments(true), adaptive_moments(model)
    (t, e1, e2), (t_model, e1_model, e2_model) = shape_of(of_true), shape_of(of_model)
    residual = np.full(n, np.nan)
    steps = of_model[:, 3:] - of_true[:, 3:]
    for k in np.flatnonzero(np.isfinite(steps).all(axis=1)):
        step = steps[k]
        moved = ndimage.fourier_shift(np.fft.fft2(true[k]), (step[1], step[0]))
        moved = np.fft.ifft2(moved).real
        gradients = np.stack([part[circle] for part in np.gradient(moved)], axis=1)
        difference = (model[k] - moved)[circle]
        difference -= gradients @ np.linalg.lstsq(gradients, difference, rcond=None)[0]
        residual[k] = np.linalg.norm(difference) / np.linalg.norm(moved[circle])
    return PsfErrors(t_model / t - 1.0, e1_model - e1, e2_model - e2, residual)


def same_size(one: np.ndarray, two: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The middles of two sets of stamps of odd side, as large as the smaller ones."""
    size = min(one.shape[-1], two.shape[-1])

    def middle(stamps: np.ndarray) -> np.ndarray:
        cut = (stamps.shape[-1] - size) // 2
        return np.asarray(stamps[:, cut : cut + size, cut : cut + size], float)

    return middle(one), middle(two)


def shape_of(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Trace, (ixx - iyy) / trace and 2 ixy / trace of rows that begin with ixx, iyy, ixy."""
    ixx, iyy, ixy = moments[:, :3].T
    trace = ixx + iyy
    return trace, (ixx - iyy) / trace, 2.0 * ixy / trace


def ellipticity_correlation(
    groups: Iterable[Ellipticities], edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of residual ellipticities (TE1), by distance.

    Parameters
    ----------
    groups
        The stars of each CCD-visit; pairs are made within a group.
    edges
        Of the bins of distance, in the unit of x and y.

    Returns
    -------
    xi, error
        A value a bin, NaN where there are no pairs, and what the stars' noise makes of it.
    """
    total, weights = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
    for stars in groups:
        place = np.stack([stars.x, stars.y], axis=1)
        pairs = cKDTree(place).query_pairs(edges[-1], output_type="ndarray")
        i, j = pairs[np.lexsort(pairs.T)].T
        distance = np.hypot(*(place[i] - place[j]).T)
        which = np.searchsorted(edges, distance, side="right") - 1
        inside = (which >= 0) & (which < len(total))
        i, j, which = i[inside], j[inside], which[inside]
        weight = 1.0 / (stars.noise[i] * stars.noise[j]) ** 2
        product = weight * (stars.e1[i] * stars.e1[j] + stars.e2[i] * stars.e2[j])
        total += np.bincount(which, product, minlength=len(total))
        weights += np.bincount(which, weight, minlength=len(total))
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / weights, np.sqrt(2.0 / weights)


def pixel_scale(truth: CcdTruth) -> float:
    """Arcsec per pixel."""
    from astropy.wcs.utils import proj_plane_pixel_scales

    return float(3600.0 * np.mean(proj_plane_pixel_scales(truth.wcs)))


# -- positions -------------------------------------------------------------------------------------


def wcs_errors(truth: CcdTruth, wcs: Any, n: int = 20) -> np.ndarray:
    """Found minus true position on a grid over the CCD, (n * n, 2): east and north, mas."""
    ny, nx = truth.shape
    x, y = (
        part.ravel()
        for part in np.meshgrid(
            (np.arange(n) + 0.5) / n * nx - 0.5, (np.arange(n) + 0.5) / n * ny - 0.5
        )
    )
    ra, dec = wcs.all_pix2world(x, y, 0)
    true_ra, true_dec = truth.wcs.all_pix2world(x, y, 0)
    east = (ra - true_ra + 180.0) % 360.0 - 180.0
    return MAS * np.stack([east * np.cos(np.radians(true_dec)), dec - true_dec], axis=1)


# -- stars -----------------------------------------------------------------------------------------


def isolated_stars(truth: CcdTruth, reach: float = 4.0, share: float = 0.02) -> np.ndarray:
    """Indices of stars that stand alone and are whole.

    None of them has another source of more than `share` of its flux within `reach` FWHM, lies
    closer than that to an edge, or has a full or crossed pixel within 2 FWHM.
    """
    rows = truth.sources
    ny, nx = truth.shape
    radius = reach * truth.fwhm
    place = np.stack([rows["x"], rows["y"]], axis=1)
    near = cKDTree(place).query_pairs(radius, output_type="ndarray")
    disturbed = np.zeros(len(rows), bool)
    for one, other in (near.T, near.T[::-1]):
        disturbed[one[rows["flux"][other] > share * rows["flux"][one]]] = True
    inside = (rows["x"] > radius) & (rows["x"] < nx - 1 - radius)
    inside &= (rows["y"] > radius) & (rows["y"] < ny - 1 - radius)
    alone = np.flatnonzero(inside & ~disturbed & (rows["kind"] == STAR))
    return alone[~near_spoiled(truth, place[alone])]


def near_spoiled(truth: CcdTruth, place: np.ndarray) -> np.ndarray:
    """Which positions, (n, 2) pixels, have a full or crossed pixel within 2 FWHM."""
    hit = np.stack(np.nonzero(truth.spoiled)[::-1], axis=1)
    if not len(hit):
        return np.zeros(len(place), bool)
    distance, _ = cKDTree(hit).query(place, distance_upper_bound=2.0 * truth.fwhm)
    return np.isfinite(distance)


def by_ccd_and_band(ccds: Iterable[_OfCcd]) -> list[list[_OfCcd]]:
    """CCD-visits in groups of the same CCD and band."""
    groups: dict[tuple[str, str], list[_OfCcd]] = defaultdict(list)
    for ccd in ccds:
        groups[ccd.truth.ccd, ccd.truth.band].append(ccd)
    return list(groups.values())


def matched(
    x: np.ndarray, y: np.ndarray, truth: CcdTruth, chosen: np.ndarray, radius: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Which measured source is which of the `chosen` true ones: the nearest within `radius` px.

    Returns
    -------
    measured, true
        Equally long indices, into x and y and into the truth's sources.
    """
    if not len(x) or not len(chosen):
        return np.empty(0, int), np.empty(0, int)
    rows = truth.sources[chosen]
    tree = cKDTree(np.stack([x, y], axis=1))
    distance, nearest = tree.query(np.stack([rows["x"], rows["y"]], axis=1))
    close = distance < radius
    return nearest[close], chosen[close]


def spread(values: np.ndarray) -> float:
    """1.48 times the median deviation from the median; NaN of nothing."""
    if not len(values):
        return float("nan")
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def rms(values: np.ndarray) -> float:
    """Root of the mean square; NaN of nothing."""
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else float("nan")
