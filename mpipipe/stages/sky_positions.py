"""From pixels to the sky, and back, by the best WCS that an exposure has."""

from __future__ import annotations

import numpy as np

from mpipipe.data.exposure import Exposure


def sky_positions(
    exposure: Exposure, x: np.ndarray, y: np.ndarray, warnings: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Right ascension and declination (degrees, ICRS) of pixels; NaN without a WCS."""
    if exposure.astrometry is not None:
        return exposure.astrometry.sip.pixel_to_sky(x, y)
    nothing = np.full(len(x), np.nan)
    if exposure.wcs is None or not len(x):
        return nothing, nothing
    try:
        ra, dec = exposure.wcs.all_pix2world(x, y, 0)
    except Exception as error:  # whatever a header from elsewhere makes astropy raise
        warnings.append(f"the WCS gives no sky coordinates: {error}")
        return nothing, nothing
    return ra, dec


def pixel_positions(
    exposure: Exposure, ra: np.ndarray, dec: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of sky positions (degrees, ICRS); NaN where they have none, or without a WCS."""
    if exposure.astrometry is not None:
        return exposure.astrometry.sip.sky_to_pixel(ra, dec)
    nothing = np.full(len(ra), np.nan)
    if exposure.wcs is None or not len(ra):
        return nothing, nothing
    try:
        x, y = exposure.wcs.all_world2pix(ra, dec, 0, quiet=True)
    except Exception:  # whatever a header from elsewhere makes astropy raise
        return nothing, nothing
    return x, y


def sky_errors(
    exposure: Exposure,
    x: np.ndarray,
    y: np.ndarray,
    errors: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors of right ascension (times cos(dec)) and declination, mas, and their covariance, mas^2.

    The WCS's own error, common to neighbours, is not among them. NaN without a WCS.

    Parameters
    ----------
    errors
        Of x and y, pixels, and their covariance, pixel^2.
    """
    nothing = np.full(len(x), np.nan)
    jacobian = sky_jacobian(exposure, x, y)
    if jacobian is None:
        return nothing, nothing, nothing
    x_error, y_error, covariance = (np.asarray(value, float) for value in errors)
    both = np.stack(
        [np.stack([x_error**2, covariance], -1), np.stack([covariance, y_error**2], -1)], -2
    )
    sky = jacobian @ both @ np.swapaxes(jacobian, 1, 2)
    ra, dec = (np.sqrt(np.maximum(sky[:, k, k], 0.0)) for k in (0, 1))
    return ra, dec, sky[:, 0, 1]


def sky_jacobian(exposure: Exposure, x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """(n, 2, 2) mas on the sky, east and north, per pixel; None without a WCS."""
    if exposure.astrometry is not None:
        return np.asarray(exposure.astrometry.sip.jacobian(x, y) * 1e3)
    if exposure.wcs is None:
        return None
    # A header's WCS is good to some arcsec: its linear part in the reference point will do.
    matrix = np.asarray(exposure.wcs.pixel_scale_matrix, float) * 3.6e6
    return np.broadcast_to(matrix, (len(x), 2, 2))
