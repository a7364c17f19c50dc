"""What of `src` goes into association: measurements as the sky has them, not the CCD.

Moments are turned to east and north by the WCS's linear part at each source, radii scaled by it,
and so is the displacement by refraction for a magnitude of colour.

A table of one exposure (`EXPOSURE_SRC`) has `src` and these beside each other, so that exposures
can be associated which have nothing in common but their sky.
"""

from __future__ import annotations

import numpy as np

from mpipipe.data.association import FLAGS_OF_SRC, FLUX_KINDS, NO_OBJECT, SOURCE
from mpipipe.data.exposure import Exposure
from mpipipe.data.schema import Column, Schema
from mpipipe.data.src import APERTURES, aperture_suffix
from mpipipe.stages.sfm.src_table import SRC
from mpipipe.stages.sky_positions import sky_jacobian

_SAME = ("id", "visit", "ccdNumber", "snr", "extendedness", "blendedness")
_WHERE = ("ra", "dec", "raErr", "decErr", "ra_dec_Cov")
_RADII = ("petroRadius", "petroR50", "petroR90")
_MOMENTS = ("ixx", "iyy", "ixy", "psfIxx", "psfIyy", "psfIxy")
_SLOPES = ("raRefractionSlope", "decRefractionSlope", "refractionSlopeErr")
LATER_COLUMNS = frozenset((*_SLOPES, "refractionColor"))
"""Columns of `EXPOSURE_SRC` that tables of earlier versions lack: they know of no refraction."""
_ADDED = (
    {name: name for name in ("band", "mjd", "fwhm", *_SLOPES, "refractionColor")}
    | {name: f"{name}Sky" for name in (*_MOMENTS, *_RADII)}
)  # fmt: skip
"""Columns of `source` that follow from more than `src`, and what they are called beside it."""
_UNPLACED = Column("flag_unplaced", "?", "", "its position is the raw header's alone", "meta.code")

EXPOSURE_SRC = Schema(
    "src",
    SRC.description,
    (
        *SRC.columns,
        *(
            Column(_ADDED[column.name], column.dtype, column.unit, column.description, column.ucd)
            for column in SOURCE.columns
            if column.name in _ADDED
        ),
        _UNPLACED,
    ),
)
"""`src` of one exposure, with what association needs to know besides."""

_SECONDS_A_DAY = 86400.0
_MAS = 1e-3
"""Arcsec."""


def sky_rows(
    calexp: Exposure, src: np.ndarray, fwhm: float, *, needs_match: bool = False
) -> np.ndarray:
    """Rows of `SOURCE` from those of `src`, which have their sky positions.

    Parameters
    ----------
    fwhm
        Pixels, of the exposure's PSF.
    needs_match
        Whether a position counts only if reference stars gave the WCS: a header's may be off by
        more than objects are apart.
    """
    is_placed = calexp.astrometry is not None or not needs_match
    rows = _as_measured(src, np.full(len(src), is_placed))
    info = calexp.info
    rows["band"] = info.band.encode()
    rows["mjd"] = info.mjd_start + 0.5 * info.exposure_time / _SECONDS_A_DAY
    _turn_shapes(rows, calexp, src, fwhm)
    _turn_refraction(rows, calexp, src)
    return rows


def with_sky_rows(src: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Rows of `EXPOSURE_SRC` from those of `src` and of `SOURCE`, as `sky_rows` made them."""
    rows = EXPOSURE_SRC.empty(len(src))
    for column in SRC.columns:
        rows[column.name] = src[column.name]
    for name, called in _ADDED.items():
        rows[called] = source[name]
    rows[_UNPLACED.name] = np.isfinite(src["ra"]) & ~np.isfinite(source["ra"])
    return rows


def sky_rows_of(rows: np.ndarray) -> np.ndarray:
    """The rows of `SOURCE` that rows of `EXPOSURE_SRC` were made of; those may lack
    `LATER_COLUMNS`."""
    found = _as_measured(rows, ~rows[_UNPLACED.name])
    for name, called in _ADDED.items():
        if called in (rows.dtype.names or ()) or called not in LATER_COLUMNS:
            found[name] = rows[called]
    return found


def _as_measured(src: np.ndarray, is_placed: np.ndarray) -> np.ndarray:
    """Rows of `SOURCE` with what `src` says itself; the rest is zero."""
    rows = SOURCE.empty(len(src))
    for name in _SAME:
        rows[name] = src[name]
    rows["objectId"] = NO_OBJECT
    for name in _WHERE:
        rows[name] = np.where(is_placed, src[name], np.nan)
    for kind in FLUX_KINDS:
        for error in ("", "Err"):
            suffix = aperture_suffix(APERTURES[-1]) if kind == "ap" else ""
            rows[f"{kind}Flux{error}"] = src[f"{kind}Flux{error}{suffix}"]
    for column in FLAGS_OF_SRC:
        rows[column.name] = src[column.name]
    return rows


def _turn_shapes(rows: np.ndarray, calexp: Exposure, src: np.ndarray, fwhm: float) -> None:
    """Moments and radii in arcsec, along east and north; NaN without a WCS."""
    jacobian = sky_jacobian(calexp, src["x"], src["y"])
    if jacobian is None:
        jacobian = np.full((len(src), 2, 2), np.nan)
    jacobian = jacobian * _MAS
    a, b, c, d = jacobian[:, 0, 0], jacobian[:, 0, 1], jacobian[:, 1, 0], jacobian[:, 1, 1]
    scale = np.sqrt(np.abs(a * d - b * c))  # NaN where there is no WCS; linalg.det would raise
    rows["fwhm"] = fwhm * scale
    for name in _RADII:
        rows[name] = src[name] * scale
    for xx, yy, xy in (("ixx", "iyy", "ixy"), ("psfIxx", "psfIyy", "psfIxy")):
        ixx, iyy, ixy = (src[name].astype(np.float64) for name in (xx, yy, xy))
        rows[xx] = a * a * ixx + 2.0 * a * b * ixy + b * b * iyy
        rows[yy] = c * c * ixx + 2.0 * c * d * ixy + d * d * iyy
        rows[xy] = a * c * ixx + (a * d + b * c) * ixy + b * d * iyy


def _turn_refraction(rows: np.ndarray, calexp: Exposure, src: np.ndarray) -> None:
    """Displacement for a magnitude of colour, mas along east and north; 0 without any."""
    found = calexp.astrometry.refraction if calexp.astrometry is not None else None
    jacobian = sky_jacobian(calexp, src["x"], src["y"])
    if found is None or jacobian is None:
        return
    jacobian = np.nan_to_num(jacobian)
    rows["raRefractionSlope"], rows["decRefractionSlope"] = (
        jacobian[:, axis, 0] * found.x + jacobian[:, axis, 1] * found.y for axis in (0, 1)
    )
    a, b, c, d = jacobian[:, 0, 0], jacobian[:, 0, 1], jacobian[:, 1, 0], jacobian[:, 1, 1]
    rows["refractionSlopeErr"] = found.error * np.sqrt(np.abs(a * d - b * c))
    rows["refractionColor"] = found.colour.name.encode()
