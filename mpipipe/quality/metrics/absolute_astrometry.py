"""AA1 and the WCS of single exposures against the reference catalogue."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mpipipe.quality.scorecard.ccds import by_ccd
from mpipipe.quality.scorecard.measured import Measured, NotMeasurable, srd
from mpipipe.quality.scorecard.metric import metric
from mpipipe.quality.scorecard.run_data import RunData
from mpipipe.quality.scorecard.statistics import estimate, mean, median, rms

ARCSEC = 1e3
"""Milliarcsec in an arcsec."""


@metric("AA1", "absolute positions", "astrometry")
def aa1(data: RunData) -> Iterator[Measured]:
    """Median, over reference stars, of the size of the mean offset from the reference position, an
    axis of the CCD (x and y are taken together), the mean over all visits of the star. The stars
    are in part those that the WCS was fitted to; errors of the catalogue are part of it. It is not
    absolute where the catalogue was made of the run's own frames (WCSREL)."""
    data.require_headers()
    e = data.exposures
    if not data.has_wcs.any():
        raise NotMeasurable("no exposure has a WCS found on reference stars")
    if e["wcs_is_relative"].any():
        raise NotMeasurable("the reference catalogue is of the run's own frames: no absolute one")
    rows = data.table("icMatch", ("visit", "ccdNumber", "refId", "dx", "dy"))
    place = data.at_exposures(rows["visit"], rows["ccdNumber"])
    scale = data.by_exposure("ic.wcsDetermination.pixel_scale")[np.maximum(place, 0)] * ARCSEC
    known = (place >= 0) & np.isfinite(rows["dx"] + rows["dy"] + scale)
    if not known.any():
        raise NotMeasurable("no source is matched with a reference star")
    star, inverse = np.unique(rows["refId"][known], return_inverse=True)
    counts = np.bincount(inverse)
    means = [
        np.bincount(inverse, (rows[axis] * scale)[known].astype(float)) / counts
        for axis in ("dx", "dy")
    ]
    values, units = np.abs(np.concatenate(means)), np.tile(np.arange(len(star)), 2)
    both = np.abs(np.concatenate([(rows[a] * scale)[known] for a in ("dx", "dy")]))
    visit, number = (np.tile(rows[name][known], 2) for name in ("visit", "ccdNumber"))
    yield Measured(
        "AA1", "AA1 absolute positions", *estimate(median, values, units, "AA1"), unit="mas",
        n=len(star), of="reference stars", requirement=srd(20.0, 50.0, 100.0),
        note=f"{int(counts.sum()):,} matches",
        ccds=by_ccd(data, visit, number, both, median),
    )  # fmt: skip


@metric("wcs.residuals", "WCS residuals", "astrometry")
def residuals(data: RunData) -> Iterator[Measured]:
    """rms, an axis, of the residuals of the stars that the WCS of an exposure is verified on; the
    median over CCD-visits. The stars' centroid noise is most of it."""
    values = data.by_exposure("ic.wcsVerification.rms")
    n = int(np.isfinite(values).sum())
    units = np.arange(len(values))
    yield Measured(
        "wcs.residuals", "WCS residuals, median CCD-visit",
        *estimate(median, values, units, "wcs.residuals"), unit="mas", n=n, of="CCD-visits",
        note=f"rms of all {float(rms(values[np.isfinite(values)], np.ones(n))):.1f} mas",
        ccds=data.contributions(values),
    )  # fmt: skip


@metric("wcs.found", "exposures with a WCS on stars", "astrometry")
def found(data: RunData) -> Iterator[Measured]:
    """Share of CCD-visits with an image whose WCS was found on reference stars."""
    data.require_headers()
    has_image = data.exposures["has_image"]
    value = 100.0 * data.has_wcs[has_image]
    yield Measured(
        "wcs.found", "CCD-visits with a WCS on stars",
        *estimate(mean, value, np.arange(len(value)), "wcs.found"), unit="%", n=len(value),
        of="CCD-visits",
    )  # fmt: skip
