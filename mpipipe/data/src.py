"""Columns of the tables that single visits give: sources, and detections on snap differences.

The schema of `src` is these and those of the measurements: `mpipipe.stages.sfm.src_table`.

Pixel positions are zero based with pixel centres at integers. Apertures are circles whose radii
are multiples of the image's FWHM, so that they mean the same in any seeing.
"""

from __future__ import annotations

from mpipipe.data.schema import Column, Schema

APERTURES: tuple[float, ...] = (0.75, 1.0, 1.5, 2.0, 3.0)
"""Radii of the circular apertures in units of the FWHM."""


def aperture_suffix(radius: float) -> str:
    """What columns of an aperture end in, e.g. ``_1_5`` for 1.5 FWHM."""
    return "_" + f"{radius:.2f}".rstrip("0").rstrip(".").replace(".", "_")


IDENTITY: tuple[Column, ...] = (
    Column("id", "i8", "", "source id: visit, CCD, number (mpipipe.data.ids)", "meta.id;meta.main"),
    Column("visit", "i8", "", "visit", "meta.id;obs"),
    Column("ccdNumber", "i2", "", "number of the CCD within the camera", "meta.id;instr"),
)
"""Whose row it is."""

FAMILY: tuple[Column, ...] = (
    Column(
        "parent",
        "i8",
        "",
        "id of the most significant source of its footprint; -1 if alone",
        "meta.id.parent",
    ),
    Column("nChild", "i4", "", "sources in its footprint if it is a blend, else 0", "meta.number"),
    Column("peakX", "i4", "pixel", "column of the detection's peak", "pos.cartesian.x;instr.pixel"),
    Column("peakY", "i4", "pixel", "row of the detection's peak", "pos.cartesian.y;instr.pixel"),
    Column("snr", "f4", "", "peak of the matched-filter map over its noise", "stat.snr"),
    Column(
        "footprintArea", "i4", "pixel", "pixels of the footprint, shared by blends", "phys.angArea"
    ),
    Column("detectionPass", "i2", "", "pass that found it; from 1 on: on residuals", "meta.number"),
    Column("flag_near_saturated", "?", "", "a pixel within 2 FWHM is saturated", "meta.code"),
    Column(
        "flag_monster", "?", "", "a blend of so many that their fluxes are doubtful", "meta.code"
    ),
    Column("flag_streak", "?", "", "on a satellite or aircraft trail", "meta.code"),
    Column("flag_blended", "?", "", "its footprint holds other peaks", "meta.code"),
)
"""What the detection knew."""

POSITION: tuple[Column, ...] = (
    Column("x", "f8", "pixel", "centroid of the PSF fit, column", "pos.cartesian.x;instr.pixel"),
    Column("y", "f8", "pixel", "centroid of the PSF fit, row", "pos.cartesian.y;instr.pixel"),
    Column("xErr", "f4", "pixel", "standard error of x", "stat.error;pos.cartesian.x"),
    Column("yErr", "f4", "pixel", "standard error of y", "stat.error;pos.cartesian.y"),
    Column("x_y_Cov", "f4", "pixel2", "covariance of x and y", "stat.covariance"),
    Column("ra", "f8", "deg", "right ascension (ICRS); NaN without a WCS", "pos.eq.ra;meta.main"),
    Column("dec", "f8", "deg", "declination (ICRS); NaN without a WCS", "pos.eq.dec;meta.main"),
    Column("raErr", "f4", "mas", "standard error of ra times cos(dec)", "stat.error;pos.eq.ra"),
    Column("decErr", "f4", "mas", "standard error of dec", "stat.error;pos.eq.dec"),
    Column("ra_dec_Cov", "f4", "mas2", "covariance of the two", "stat.covariance"),
    Column("flag_centroid", "?", "", "no fit gave the position: it is the peak pixel", "meta.code"),
    Column(
        "flag_centroid_window",
        "?",
        "",
        "the position is the windowed centroid, as the PSF fit failed or there is no PSF",
        "meta.code",
    ),
    Column("flag_edge", "?", "", "closer to an edge than the centroid window", "meta.code"),
)
"""Where it is, on the CCD and on the sky."""

PIXEL_FLAGS: tuple[Column, ...] = (
    Column("flag_saturated", "?", "", "a pixel within 1 FWHM is saturated", "meta.code"),
    Column("flag_bad", "?", "", "a pixel within 1 FWHM can not be used", "meta.code"),
    Column("flag_cr", "?", "", "a pixel within 1 FWHM was hit by a cosmic ray", "meta.code"),
    Column("flag_interpolated", "?", "", "a pixel within 1 FWHM was replaced", "meta.code"),
    Column("flag_suspect", "?", "", "a pixel within 1 FWHM is doubtful", "meta.code"),
)
"""What the mask says about its pixels."""

SNAP_SOURCE = Schema(
    "snapsrc",
    "What differs between the snaps of a visit and is no cosmic ray: movers, trails, flares",
    (
        Column("visit", "i8", "", "visit", "meta.id;obs"),
        Column("ccdNumber", "i2", "", "number of the CCD within the camera", "meta.id;instr"),
        Column("snap", "i2", "", "the snap in which it is brighter", "meta.number"),
        Column("x", "f4", "pixel", "column of the peak on the difference", "pos.cartesian.x"),
        Column("y", "f4", "pixel", "row of the peak on the difference", "pos.cartesian.y"),
        Column("flux", "f4", "electron", "matched-filter flux of the difference, > 0", "phot.flux"),
        Column("fluxErr", "f4", "electron", "standard error of flux", "stat.error;phot.flux"),
        Column("snr", "f4", "", "peak of the filtered difference over its noise", "stat.snr"),
        Column("length", "f4", "pixel", "longest extent of its footprint", "phys.angSize"),
        Column("elongation", "f4", "", "major over minor axis of its footprint", "phys.angSize"),
        Column("flag_streak", "?", "", "part of a long trail", "meta.code"),
        Column("flag_cr", "?", "", "touches a pixel flagged as hit by a cosmic ray", "meta.code"),
        Column("flag_star", "?", "", "on a source that is there in both snaps", "meta.code"),
        Column("flag_edge", "?", "", "closer to an edge than the filter reaches", "meta.code"),
        Column("flag_masked", "?", "", "near saturated or unusable pixels", "meta.code"),
    ),
)
