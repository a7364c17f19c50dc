"""How many stars there are towards a place of the Galaxy, and of which magnitudes.

The counts are the fitting formula of Bahcall & Soneira (1980, ApJS 44, 73, appendix B) to their
model of a disk and a spheroid: stars per magnitude in V, without interstellar extinction, good to
15 % at Galactic latitudes beyond 20 degrees and magnitudes 5 to 30.
"""

from __future__ import annotations

import numpy as np

LOWEST_LATITUDE = 20.0
"""The formula holds beyond this Galactic latitude, degrees."""

_V_MINUS_R = 0.2
"""V less r of a usual star (g - r about 0.6; Jester et al. 2005, AJ 130, 873)."""

# Constants of the formula for counts per magnitude in V: disk, then spheroid.
_DISK = (200.0, -0.2, 0.01, 2.0, 15.0)
_SPHEROID = (400.0, -0.26, 0.065, 1.5, 17.5)

# From ICRS to Galactic axes (Hipparcos catalogue, ESA SP-1200, vol. 1, section 1.5.3).
_TO_GALACTIC = np.array(
    [
        [-0.0548755604, -0.8734370902, -0.4838350155],
        [+0.4941094279, -0.4448296300, +0.7469822445],
        [-0.8676661490, -0.1980763734, +0.4559837762],
    ]
)


def galactic_place(ra: float, dec: float) -> tuple[float, float]:
    """Galactic longitude and latitude of an ICRS position, all in degrees."""
    a, d = np.radians(ra), np.radians(dec)
    x, y, z = _TO_GALACTIC @ np.array([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])
    return float(np.degrees(np.arctan2(y, x)) % 360.0), float(np.degrees(np.arcsin(z)))


def stars_per_magnitude(mag: np.ndarray, longitude: float, latitude: float) -> np.ndarray:
    """Stars per magnitude and square degree at magnitudes r.

    Parameters
    ----------
    longitude, latitude
        Galactic, degrees; the latitude beyond `LOWEST_LATITUDE`, in the north or south.
    """
    v = np.asarray(mag, dtype=float) + _V_MINUS_R
    l, b = np.radians(longitude), np.radians(abs(latitude))  # noqa: E741 - their usual names
    along = np.cos(b) * np.cos(l)
    # The share of the disk that the formula's latitude term sees changes from V 12 to 20.
    step = np.clip(v - 12.0, 0.0, 8.0)
    mu, gamma = 0.03 + 0.0075 * step, 0.36 - 0.04 * step
    disk = np.sin(b) * (1.0 - mu * np.cos(b) / np.sin(b) * np.cos(l))
    spheroid = 1.0 - along
    return np.asarray(
        _bent(v, *_DISK) / disk ** (3.0 - 5.0 * gamma)
        + _bent(v, *_SPHEROID) / spheroid ** (1.45 - 0.20 * along)
    )


def _bent(
    v: np.ndarray, size: float, bend: float, slope: float, power: float, pivot: float
) -> np.ndarray:
    """A power law of the light that bends at a magnitude."""
    return np.asarray(
        size * 10.0 ** (slope * (v - pivot)) / (1.0 + 10.0 ** (bend * (v - pivot))) ** power
    )


def cumulative_counts(
    bright: float, faint: float, ra: float, dec: float
) -> tuple[np.ndarray, np.ndarray]:
    """Magnitudes r from `bright` to `faint`, and stars per square arcmin up to each of them."""
    mag = np.linspace(bright, faint, 512)
    density = stars_per_magnitude(mag, *galactic_place(ra, dec)) / 3600.0
    steps = 0.5 * (density[1:] + density[:-1]) * np.diff(mag)
    return mag, np.concatenate([[0.0], np.cumsum(steps)])
