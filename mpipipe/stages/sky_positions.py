"""From pixels to the sky by the best WCS that an exposure has."""

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
