"""Schemas of image characterization: `icSrc`, the brightest sources, and `icMatch`, which
reference star each of them is.

Pixel positions are zero based with pixel centres at integers. Fluxes named ``...InstFlux`` are
electrons in the whole visit, those without ``Inst`` are calibrated (nJy, AB).
"""

from __future__ import annotations

from mpipipe.data.schema import Column, Schema

CALIBRATION_RADIUS = 3.0
"""Radius of the calibration aperture in units of the FWHM: PSF models sum to 1 inside it, and
zero points belong to fluxes in it."""

_FLAGS = {
    "edge": "closer to an edge than the windows of the measurements",
    "saturated": "a pixel within 1 FWHM is saturated",
    "bad": "a pixel within 1 FWHM can not be used",
    "cr": "a pixel within 1 FWHM was hit by a cosmic ray",
    "interpolated": "a pixel within 1 FWHM was replaced",
    "suspect": "a pixel within 1 FWHM is doubtful",
    "streak": "on a satellite or aircraft trail",
    "crowded": "a neighbour gives more than 2 % of its flux within 3 FWHM",
    "centroid": "the centroid failed: it is the peak pixel",
    "shape": "the adaptive moments failed: they are the image's typical",
    "aperture": "the calibration aperture leaves the image or is mostly masked",
    "psfFlux": "the PSF flux failed, or there is no PSF",
}

_USES = {
    "calib_psf_candidate": "was considered for the PSF",
    "calib_psf_used": "the PSF was made of it",
    "calib_psf_reserved": "was held out to validate the PSF",
    "calib_apcorr_used": "the aperture correction was made of it",
    "calib_astrometry_used": "the WCS was made of it",
    "calib_photometry_used": "the zero point was made of it",
}

ICSRC = Schema(
    "icSrc",
    "The brightest sources on one CCD and visit, of which PSF, WCS and zero point are made",
    (
        Column("id", "i8", "", "visit, CCD, number; numbers differ from src", "meta.id;meta.main"),
        Column("visit", "i8", "", "visit", "meta.id;obs"),
        Column("ccdNumber", "i2", "", "number of the CCD within the camera", "meta.id;instr"),
        Column("x", "f8", "pixel", "centroid, column", "pos.cartesian.x;instr.pixel"),
        Column("y", "f8", "pixel", "centroid, row", "pos.cartesian.y;instr.pixel"),
        Column("xErr", "f4", "pixel", "standard error of x", "stat.error;pos.cartesian.x"),
        Column("yErr", "f4", "pixel", "standard error of y", "stat.error;pos.cartesian.y"),
        Column("x_y_Cov", "f4", "pixel2", "covariance of x and y", "stat.covariance"),
        Column("peakX", "i4", "pixel", "column of the peak", "pos.cartesian.x;instr.pixel"),
        Column("peakY", "i4", "pixel", "row of the peak", "pos.cartesian.y;instr.pixel"),
        Column("ra", "f8", "deg", "right ascension (ICRS); NaN without WCS", "pos.eq.ra;meta.main"),
        Column("dec", "f8", "deg", "declination (ICRS); NaN without a WCS", "pos.eq.dec;meta.main"),
        Column("snr", "f4", "", "peak of the matched-filter map over its noise", "stat.snr"),
        Column("ixx", "f4", "pixel2", "adaptive second moment along x", "phys.size"),
        Column("iyy", "f4", "pixel2", "adaptive second moment along y", "phys.size"),
        Column("ixy", "f4", "pixel2", "adaptive mixed second moment", "phys.size"),
        Column("apInstFlux", "f8", "electron", "in a circle of 3 FWHM", "phot.count"),
        Column("apInstFluxErr", "f8", "electron", "its standard error", "stat.error;phot.count"),
        Column("psfInstFlux", "f8", "electron", "PSF flux; NaN if it failed", "phot.count"),
        Column("psfInstFluxErr", "f8", "electron", "its standard error", "stat.error;phot.count"),
        Column("psfChi2", "f4", "", "chi2 per pixel of the PSF fit", "stat.fit.chi2"),
        Column("psfFlux", "f8", "nJy", "calibrated PSF flux; NaN without zero point", "phot.flux"),
        Column("psfFluxErr", "f8", "nJy", "its standard error", "stat.error;phot.flux"),
        *(Column(f"flag_{name}", "?", "", text, "meta.code") for name, text in _FLAGS.items()),
        *(Column(name, "?", "", text, "meta.code") for name, text in _USES.items()),
    ),
)

ICMATCH = Schema(
    "icMatch",
    "Sources of icSrc matched with the reference catalogue",
    (
        Column("id", "i8", "", "id of the source in icSrc", "meta.id;meta.main"),
        Column("visit", "i8", "", "visit", "meta.id;obs"),
        Column("ccdNumber", "i2", "", "number of the CCD within the camera", "meta.id;instr"),
        Column("refId", "i8", "", "id of the reference star", "meta.id.cross"),
        Column("refRa", "f8", "deg", "its right ascension at the visit's epoch", "pos.eq.ra"),
        Column("refDec", "f8", "deg", "its declination at the visit's epoch", "pos.eq.dec"),
        Column("refMag", "f4", "mag", "its AB magnitude in the visit's band", "phot.mag"),
        Column("refMagErr", "f4", "mag", "error of refMag", "stat.error;phot.mag"),
        Column("refColor", "f4", "mag", "its colour of the colour term; NaN: none", "phot.color"),
        Column(
            "dx", "f4", "pixel", "source minus reference by the WCS, column", "stat.fit.residual"
        ),
        Column("dy", "f4", "pixel", "source minus reference by the WCS, row", "stat.fit.residual"),
        Column(
            "dMag", "f4", "mag", "source minus reference by the zero point", "stat.fit.residual"
        ),
        Column("astrometry_used", "?", "", "the WCS was made of it", "meta.code"),
        Column("photometry_used", "?", "", "the zero point was made of it", "meta.code"),
    ),
)
