"""Schema of `forcedSrc`: what every given position has, and the columns of all measurements."""

from __future__ import annotations

from mpipipe.data.schema import Column, Schema
from mpipipe.data.src import PIXEL_FLAGS
from mpipipe.stages.sfm.src_table import MEASURED, PSF_FIT

_POSITION: tuple[Column, ...] = (
    Column("objectId", "i8", "", "id in the catalogue of positions", "meta.id;meta.main"),
    Column("visit", "i8", "", "visit", "meta.id;obs"),
    Column("ccdNumber", "i2", "", "number of the CCD within the camera", "meta.id;instr"),
    Column("band", "S16", "", "band", "meta.id;instr.bandpass"),
    Column("mjd", "f8", "d", "middle of the visit, MJD TAI", "time.epoch"),
    Column("refRa", "f8", "deg", "right ascension (ICRS) in the catalogue", "pos.eq.ra"),
    Column("refDec", "f8", "deg", "declination (ICRS) in the catalogue", "pos.eq.dec"),
    Column("ra", "f8", "deg", "right ascension (ICRS) at the time of the visit: of the "
           "measurement", "pos.eq.ra;meta.main"),
    Column("dec", "f8", "deg", "declination (ICRS) at the time of the visit: of the measurement",
           "pos.eq.dec;meta.main"),
    Column("x", "f8", "pixel", "column of that position", "pos.cartesian.x;instr.pixel"),
    Column("y", "f8", "pixel", "row of that position", "pos.cartesian.y;instr.pixel"),
    Column("sourceId", "i8", "", "id of the nearest source of src within half a FWHM; -1: none",
           "meta.id.cross"),
    Column("flag_edge", "?", "", "closer to an edge than the radius of the PSF fit", "meta.code"),
    Column("flag_blended", "?", "", "another position or source is closer than 2 FWHM; their "
           "fluxes were fitted together", "meta.code"),
    Column("flag_shared", "?", "", "another position is closer than 0.1 FWHM: both have all of the "
           "light", "meta.code"),
    Column("flag_streak", "?", "", "on a satellite or aircraft trail", "meta.code"),
)  # fmt: skip

FORCED_SRC = Schema(
    "forcedSrc",
    "Measurements on the calibrated exposure of one CCD and visit at given positions",
    _POSITION + PIXEL_FLAGS + PSF_FIT + MEASURED,
)
"""Positions are given: there is no footprint, and nothing has an error of position."""
