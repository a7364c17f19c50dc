"""What of `src` goes into association: measurements as the sky has them, not the CCD.

Moments are turned to east and north by the WCS's linear part at each source, radii scaled by it.
"""

from __future__ import annotations

import numpy as np

from mpipipe.data.association import FLAGS_OF_SRC, FLUX_KINDS, NO_OBJECT, SOURCE
from mpipipe.data.exposure import Exposure
from mpipipe.data.src import APERTURES, aperture_suffix
from mpipipe.stages.sky_positions import sky_jacobian

_SAME = ("id", "visit", "ccdNumber", "snr", "extendedness", "blendedness")
_WHERE = ("ra", "dec", "raErr", "decErr", "ra_dec_Cov")
_RADII = ("petroRadius", "petroR50", "petroR90")
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
    rows = SOURCE.empty(len(src))
    info = calexp.info
    for name in _SAME:
        rows[name] = src[name]
    rows["objectId"] = NO_OBJECT
    rows["band"] = info.band.encode()
    rows["mjd"] = info.mjd_start + 0.5 * info.exposure_time / _SECONDS_A_DAY
    for name in _WHERE:
        rows[name] = src[name] if calexp.astrometry is not None or not needs_match else np.nan
    for kind in FLUX_KINDS:
        for error in ("", "Err"):
            suffix = aperture_suffix(APERTURES[-1]) if kind == "ap" else ""
            rows[f"{kind}Flux{error}"] = src[f"{kind}Flux{error}{suffix}"]
    for column in FLAGS_OF_SRC:
        rows[column.name] = src[column.name]
    _turn_shapes(rows, calexp, src, fwhm)
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
