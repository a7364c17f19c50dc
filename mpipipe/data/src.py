"""Schemas of the tables that single visits give: `src`, and detections on snap differences.

Pixel positions are zero based with pixel centres at integers. Apertures are circles whose radii
are multiples of the image's FWHM, so that they mean the same in any seeing.
"""

from __future__ import annotations

from mpipipe.data.schema import Column, Schema

APERTURES: tuple[float, ...] = (0.75, 1.0, 1.5, 2.0, 3.0)
"""Radii of the circular apertures in units of the FWHM."""


def aperture_column(radius: float) -> str:
    """Name of the flux column of an aperture, e.g. ``apFlux_1_5``."""
    return f"apFlux_{radius:.2f}".rstrip("0").rstrip(".").replace(".", "_")


def aperture_error_column(radius: float) -> str:
    """Name of the column with the error of an aperture's flux."""
    return aperture_column(radius).replace("apFlux", "apFluxErr")


_IDENTITY = (
    Column("id", "i8", "", "source id: visit, CCD, number (mpipipe.data.ids)", "meta.id;meta.main"),
    Column("visit", "i8", "", "visit", "meta.id;obs"),
    Column("ccdNumber", "i2", "", "number of the CCD within the camera", "meta.id;instr"),
    Column(
        "parent",
        "i8",
        "",
        "id of the most significant source of its footprint; -1 if alone",
        "meta.id.parent",
    ),
)

_POSITION = (
    Column(
        "x", "f8", "pixel", "centroid, Gaussian-windowed, column", "pos.cartesian.x;instr.pixel"
    ),
    Column("y", "f8", "pixel", "centroid, Gaussian-windowed, row", "pos.cartesian.y;instr.pixel"),
    Column("xErr", "f4", "pixel", "standard error of x", "stat.error;pos.cartesian.x"),
    Column("yErr", "f4", "pixel", "standard error of y", "stat.error;pos.cartesian.y"),
    Column("x_y_Cov", "f4", "pixel2", "covariance of x and y", "stat.covariance"),
    Column("peakX", "i4", "pixel", "column of the detection's peak", "pos.cartesian.x;instr.pixel"),
    Column("peakY", "i4", "pixel", "row of the detection's peak", "pos.cartesian.y;instr.pixel"),
    Column("ra", "f8", "deg", "right ascension (ICRS); NaN without a WCS", "pos.eq.ra;meta.main"),
    Column("dec", "f8", "deg", "declination (ICRS); NaN without a WCS", "pos.eq.dec;meta.main"),
)

_DETECTION = (
    Column("snr", "f4", "", "peak of the matched-filter map over its noise", "stat.snr"),
    Column(
        "footprintArea", "i4", "pixel", "pixels of the footprint, shared by blends", "phys.angArea"
    ),
)

_SHAPE = (
    Column("ixx", "f4", "pixel2", "adaptive second moment along x", "phys.size"),
    Column("iyy", "f4", "pixel2", "adaptive second moment along y", "phys.size"),
    Column("ixy", "f4", "pixel2", "adaptive mixed second moment", "phys.size"),
)

_FLAGS = (
    Column("flag_edge", "?", "", "closer to an edge than the centroid window", "meta.code"),
    Column("flag_saturated", "?", "", "a pixel within 1 FWHM is saturated", "meta.code"),
    Column("flag_bad", "?", "", "a pixel within 1 FWHM can not be used", "meta.code"),
    Column("flag_cr", "?", "", "a pixel within 1 FWHM was hit by a cosmic ray", "meta.code"),
    Column("flag_interpolated", "?", "", "a pixel within 1 FWHM was replaced", "meta.code"),
    Column("flag_suspect", "?", "", "a pixel within 1 FWHM is doubtful", "meta.code"),
    Column("flag_streak", "?", "", "on a satellite or aircraft trail", "meta.code"),
    Column("flag_blended", "?", "", "its footprint holds other peaks", "meta.code"),
    Column("flag_centroid", "?", "", "the centroid failed: it is the peak pixel", "meta.code"),
    Column(
        "flag_shape",
        "?",
        "",
        "the adaptive moments failed: they are the image's typical",
        "meta.code",
    ),
    Column(
        "flag_aperture", "?", "", "an aperture leaves the image or is mostly masked", "meta.code"
    ),
    Column("flag_kron", "?", "", "the Kron radius is the smallest allowed, or failed", "meta.code"),
)


def _aperture_columns() -> tuple[Column, ...]:
    columns: list[Column] = []
    for radius in APERTURES:
        text = f"flux in a circle of radius {radius:g} FWHM"
        columns.append(Column(aperture_column(radius), "f8", "electron", text, "phot.flux"))
        columns.append(
            Column(
                aperture_error_column(radius),
                "f8",
                "electron",
                f"standard error of the {text}",
                "stat.error;phot.flux",
            )
        )
    return tuple(columns)


_KRON = (
    Column(
        "kronRadius",
        "f4",
        "pixel",
        "Kron radius: half major axis of the aperture / 2.5",
        "phys.size",
    ),
    Column("kronFlux", "f8", "electron", "flux in an ellipse of 2.5 Kron radii", "phot.flux"),
    Column("kronFluxErr", "f8", "electron", "standard error of kronFlux", "stat.error;phot.flux"),
)

SRC = Schema(
    "src",
    "Sources on the calibrated exposure of one CCD and visit",
    _IDENTITY + _POSITION + _DETECTION + _aperture_columns() + _KRON + _SHAPE + _FLAGS,
)

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
