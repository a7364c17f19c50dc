"""PA3 and how steady zero points are, on the sky and in time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mpipipe.quality.metrics.photometric_repeatability import MMAG, VISIBLE, residuals
from mpipipe.quality.scorecard.ccds import of_rows
from mpipipe.quality.scorecard.measured import Measured, NotMeasurable, srd
from mpipipe.quality.scorecard.metric import metric
from mpipipe.quality.scorecard.run_data import RunData
from mpipipe.quality.scorecard.statistics import estimate, median, rms

CELL = 0.05
"""Side of the pieces of sky of PA3, degrees."""
LEAST_STARS = 5
EXTINCTION = {"u": 0.50, "g": 0.21, "r": 0.13, "i": 0.10, "z": 0.07, "y": 0.17}
"""Typical magnitudes an airmass, for a comparison of zero points in time only."""


@metric("PA3", "zero point over the sky", "photometry")
def pa3(data: RunData) -> Iterator[Measured]:
    """rms of the zero point over the sky: mean of measured minus reference magnitude of every
    reference star over its visits, median over the stars in squares of 0.05 degrees, rms about the
    mean of the squares with 5 stars or more. Errors of the reference catalogue are part of it, and
    so is what the stars' scatter leaves in a median (told beside)."""
    data.require_headers()
    if not (data.exposures["n_zero_point"] > 0).any():
        raise NotMeasurable("no exposure has a zero point from reference stars")
    rows = data.table(
        "icMatch", ("visit", "ccdNumber", "refId", "refRa", "refDec", "dMag", "photometry_used")
    )
    place = data.at_exposures(rows["visit"], rows["ccdNumber"])
    for band in data.bands:
        key, title = f"PA3.{band}", f"PA3 zero point over the sky, {band}"
        of_band = (place >= 0) & rows["photometry_used"] & np.isfinite(rows["dMag"])
        of_band &= data.exposures["band"][np.maximum(place, 0)] == band
        offsets, errors = _of_cells(
            *(rows[name][of_band] for name in ("refId", "refRa", "refDec", "dMag"))
        )
        if len(offsets) < 3:
            yield Measured(key, title, why="fewer than 3 squares of the sky have 5 reference stars")
            continue
        # A rms of few values about their own mean is too small by the root of (n - 1) / n.
        about = (offsets - offsets.mean()) * np.sqrt(len(offsets) / (len(offsets) - 1))
        yield Measured(
            key, title, *estimate(rms, about, np.arange(len(about)), key), unit="mmag",
            n=len(about), of="squares of 3 arcmin",
            requirement=srd(5.0, 10.0, 15.0 if band != "u" else 20.0),
            note=f"scatter of stars leaves {float(np.median(errors)):.1f} mmag of it",
        )  # fmt: skip


def _of_cells(
    star: np.ndarray, ra: np.ndarray, dec: np.ndarray, off: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Median offset of the squares of the sky that have stars enough, and its error, mmag."""
    if not len(star):
        return np.zeros(0), np.zeros(0)
    _, first, inverse = np.unique(star, return_index=True, return_inverse=True)
    means = np.bincount(inverse, off) / np.bincount(inverse)
    row = np.floor(dec[first] / CELL)
    column = np.floor(ra[first] * np.cos(np.radians((row + 0.5) * CELL)) / CELL)
    cell = np.unique(np.stack([row, column]), axis=1, return_inverse=True)[1].ravel()
    found = []
    for number in range(int(cell.max()) + 1):
        values = MMAG * means[cell == number]
        if len(values) >= LEAST_STARS:
            low, middle, high = np.percentile(values, (25, 50, 75))
            found.append((middle, 1.2533 * (high - low) / 1.349 / np.sqrt(len(values))))
    offsets, errors = np.array(found).reshape(-1, 2).T
    return offsets, errors


@metric("zero_point.repeatability", "zero points from visit to visit", "photometry")
def repeatability(data: RunData) -> Iterator[Measured]:
    """rms over CCD-visits of the median residual of their stars (as in PA1, of SNR 20 and more):
    how
    far the zero point of an exposure is off from those of the other exposures of the same stars. It
    needs no reference catalogue."""
    for band in data.bands:
        key, title = f"zero_point.repeatability.{band}", f"zero points, visit to visit, {band}"
        found = residuals(data, band, VISIBLE)
        ccds = of_rows(data, found.rows, found.residual, median)
        ccds = ccds[ccds["n"] >= LEAST_STARS]
        if len(ccds) < 2:
            yield Measured(key, title, why="fewer than 2 CCD-visits share 5 stars with others")
            continue
        yield Measured(
            key, title, *estimate(rms, ccds["value"], np.arange(len(ccds)), key), unit="mmag",
            n=len(ccds), of="CCD-visits", ccds=ccds,
        )  # fmt: skip


@metric("zero_point.stability", "transparency in time", "photometry")
def stability(data: RunData) -> Iterator[Measured]:
    """rms over CCD-visits of the zero point of 1 s above the atmosphere: MAGZERO less the exposure
    time and a typical extinction times airmass (u .50, g .21, r .13, i .10, z .07, y .17; others
    none), about its median in the band. Clouds, dew and dust show here; it is no error, as zero
    points are measured."""
    data.require_headers()
    found = one_second(data)
    for band in data.bands:
        key, title = f"zero_point.stability.{band}", f"transparency in time, {band}"
        of_band = (data.exposures["band"] == band) & np.isfinite(found)
        if of_band.sum() < 2:
            yield Measured(key, title, why="fewer than 2 CCD-visits of the band have a zero point")
            continue
        about = np.where(of_band, found - np.median(found[of_band]), np.nan)
        units = np.unique(data.exposures["visit"], return_inverse=True)[1]
        yield Measured(
            key, title, *estimate(rms, MMAG * about, units, key), unit="mmag",
            n=int(of_band.sum()), of="CCD-visits", ccds=data.contributions(MMAG * about),
        )  # fmt: skip


def one_second(data: RunData) -> np.ndarray:
    """Zero points of 1 s without the atmosphere, for each CCD-visit; NaN without."""
    e = data.exposures
    extinction = np.array([EXTINCTION.get(band, 0.0) for band in e["band"].tolist()])
    with np.errstate(invalid="ignore", divide="ignore"):
        time = 2.5 * np.log10(np.where(e["seconds"] > 0, e["seconds"], np.nan))
    known = e["airmass"][np.isfinite(e["airmass"])]
    typical = float(np.median(known)) if len(known) else 1.0
    airmass = np.where(np.isfinite(e["airmass"]), e["airmass"], typical)
    return np.asarray(e["zero_point"] - time + extinction * airmass)
