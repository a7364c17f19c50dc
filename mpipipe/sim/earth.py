"""Where the Earth is."""

from __future__ import annotations

import numpy as np

OBLIQUITY = np.radians(23.4393)
"""Of the ecliptic of 2000."""


def earth_from_sun(mjd: float) -> np.ndarray:
    """Place of the Earth from the Sun: (3,) au, equatorial, equinox 2000, to 1e-4.

    From the low-precision formula for the Sun (Astronomical Almanac, page C5).
    """
    days = mjd - 51544.5
    anomaly = np.radians(357.528 + 0.9856003 * days)
    longitude = np.radians(280.460 + 0.9856474 * days)
    longitude -= np.radians(3.8246e-5) * days  # to the equinox of 2000
    longitude += np.radians(1.915) * np.sin(anomaly) + np.radians(0.020) * np.sin(2 * anomaly)
    distance = 1.00014 - 0.01671 * np.cos(anomaly) - 0.00014 * np.cos(2 * anomaly)
    # The Earth stands opposite to the Sun.
    x = -np.cos(longitude)
    y = -np.cos(OBLIQUITY) * np.sin(longitude)
    z = -np.sin(OBLIQUITY) * np.sin(longitude)
    return np.asarray(distance * np.array([x, y, z]))
