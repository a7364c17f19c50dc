"""Bodies of the Solar System on Kepler orbits about the Sun, seen from the Earth.

States are heliocentric, equatorial (equinox 2000), in astronomical units and days. One step of
universal variables (Danby 1988, Fundamentals of Celestial Mechanics, chapter 6) takes a state to
any time, whether its orbit is closed or not.
"""

from __future__ import annotations

import numpy as np

from mpipipe.sim.earth import OBLIQUITY, earth_from_sun

GM_SUN = 0.01720209895**2
"""au^3 / day^2."""

LIGHT_DAYS = 0.0057755183
"""Days that light takes for one au."""

_MOST_ROUNDS = 60


def propagate(states: np.ndarray, days: np.ndarray | float) -> np.ndarray:
    """States after some days.

    Parameters
    ----------
    states
        (n, 6) float64: position, velocity.
    days
        (n,) or one number; negative for earlier.
    """
    days = np.broadcast_to(np.asarray(days, dtype=float), len(states))
    place, speed = states[:, :3], states[:, 3:]
    r0 = np.linalg.norm(place, axis=1)
    radial = np.einsum("ij,ij->i", place, speed)
    alpha = 2.0 / r0 - np.einsum("ij,ij->i", speed, speed) / GM_SUN  # 1/a, negative if open
    root = np.sqrt(GM_SUN)
    s = root * days / r0
    for _ in range(_MOST_ROUNDS):
        c, d = stumpff(alpha * s * s)
        along = radial / root
        value = along * s**2 * c + (1.0 - alpha * r0) * s**3 * d + r0 * s - root * days
        slope = along * s * (1.0 - alpha * s**2 * d) + (1.0 - alpha * r0) * s**2 * c + r0
        bend = along * (1.0 - alpha * s**2 * c) + (1.0 - alpha * r0) * s * (1.0 - alpha * s**2 * d)
        # Laguerre's step of order 5 converges from anywhere.
        inner = np.sqrt(np.abs(16.0 * slope**2 - 20.0 * value * bend))
        step = -5.0 * value / (slope + np.copysign(inner, slope))
        s = s + step
        if np.all(np.abs(step) < 1e-13 * (1.0 + np.abs(s))):
            break
    c, d = stumpff(alpha * s * s)
    f = 1.0 - s**2 * c / r0
    g = days - s**3 * d / root
    new = f[:, None] * place + g[:, None] * speed
    r = np.linalg.norm(new, axis=1)
    fdot = root / (r * r0) * s * (alpha * s**2 * d - 1.0)
    gdot = 1.0 - s**2 * c / r
    return np.concatenate([new, fdot[:, None] * place + gdot[:, None] * speed], axis=1)


def stumpff(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stumpff's functions: (1 - cos sqrt z) / z and (sqrt z - sin sqrt z) / z^(3/2)."""
    root = np.sqrt(np.abs(z))
    small = root < 0.1
    safe = np.where(small, 1.0, root)
    closed = z > 0
    wave = np.where(closed, np.cos(safe), np.cosh(np.minimum(safe, 300.0)))
    swing = np.where(closed, np.sin(safe), np.sinh(np.minimum(safe, 300.0)))
    c = np.where(closed, (1.0 - wave), (wave - 1.0)) / safe**2
    d = np.where(closed, safe - swing, swing - safe) / safe**3
    series_c = 1 / 2 - z / 24 + z**2 / 720 - z**3 / 40320 + z**4 / 3628800
    series_d = 1 / 6 - z / 120 + z**2 / 5040 - z**3 / 362880 + z**4 / 39916800
    return np.where(small, series_c, c), np.where(small, series_d, d)


def seen_from_earth(
    states: np.ndarray, epochs: np.ndarray, mjd: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Astrometric places of bodies at a time, light time included.

    Parameters
    ----------
    states, epochs
        (n, 6), and the MJD that each holds for.

    Returns
    -------
    ra, dec
        Degrees.
    from_sun, from_earth
        Distances, au.
    """
    earth = earth_from_sun(mjd)
    delay = np.zeros(len(states))
    for _ in range(3):
        there = propagate(states, mjd - epochs - delay)[:, :3]
        seen = there - earth
        distance = np.linalg.norm(seen, axis=1)
        delay = LIGHT_DAYS * distance
    ra = np.degrees(np.arctan2(seen[:, 1], seen[:, 0])) % 360.0
    dec = np.degrees(np.arcsin(seen[:, 2] / np.maximum(distance, 1e-12)))
    return ra, dec, np.linalg.norm(there, axis=1), distance


def brightness(
    absolute: np.ndarray, from_sun: np.ndarray, from_earth: np.ndarray, mjd: float
) -> np.ndarray:
    """Apparent magnitude by the H, G system (Bowell et al. 1989, Asteroids II) with G = 0.15."""
    sun = float(np.linalg.norm(earth_from_sun(mjd)))
    cosine = (from_sun**2 + from_earth**2 - sun**2) / (2.0 * from_sun * from_earth)
    half = np.tan(0.5 * np.arccos(np.clip(cosine, -1.0, 1.0)))
    phase = 0.85 * np.exp(-3.33 * half**0.63) + 0.15 * np.exp(-1.87 * half**1.22)
    return np.asarray(absolute + 5.0 * np.log10(from_sun * from_earth) - 2.5 * np.log10(phase))


def elements(states: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Semi-major axis (au; negative if open), eccentricity, inclination to the ecliptic (deg)."""
    place, speed = states[:, :3], states[:, 3:]
    r = np.linalg.norm(place, axis=1)
    energy = np.einsum("ij,ij->i", speed, speed) / 2.0 - GM_SUN / r
    spin = np.cross(place, speed)
    turn = np.linalg.norm(spin, axis=1)
    eccentricity = np.sqrt(np.maximum(1.0 + 2.0 * energy * turn**2 / GM_SUN**2, 0.0))
    pole = np.array([0.0, -np.sin(OBLIQUITY), np.cos(OBLIQUITY)])
    inclination = np.degrees(np.arccos(np.clip(spin @ pole / turn, -1.0, 1.0)))
    return -GM_SUN / (2.0 * energy), eccentricity, inclination
