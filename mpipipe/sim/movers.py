"""Asteroids and their like: as many in the field at any time as asked for, on orbits that last.

A body belongs to the first visit in whose field it is: at each visit bodies are drawn as they are
spread there at any time, and those that an earlier visit had in its field are dropped, since they
were drawn then. So there are as many as asked at every visit, and each has one orbit for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mpipipe.data.schema import Column, Schema
from mpipipe.sim.astrometry import inverse_gnomonic
from mpipipe.sim.earth import OBLIQUITY, earth_from_sun
from mpipipe.sim.orbits import GM_SUN, brightness, elements, seen_from_earth
from mpipipe.sim.seeds import generator
from mpipipe.sim.sky import draw_magnitudes
from mpipipe.sim.survey import BANDS, Survey

MOVER = 2
"""The kind of a source that belongs to the Solar System."""

FIRST_ID = 1 << 61
"""Identifiers of bodies begin here: beyond those of stars and galaxies."""

MOVERS = Schema(
    "movers",
    "Truth: bodies of the Solar System, with their states from the Sun at an epoch",
    (
        Column("id", "i8", "", "identifier", "meta.id;meta.main"),
        Column("family", "S12", "", "near, belt, trojan or distant", "meta.code.class"),
        Column("h", "f8", "mag", "absolute magnitude in r (H, with G = 0.15)", "phys.magAbs"),
        Column("epoch", "f8", "d", "MJD of the state", "time.epoch"),
        Column("state", "6f8", "au, au/d", "position and velocity, equatorial, J2000", "pos"),
        Column("a", "f8", "au", "semi-major axis; negative if the orbit is open", "src.orbital"),
        Column("e", "f8", "", "eccentricity", "src.orbital.eccentricity"),
        Column("inclination", "f8", "deg", "to the ecliptic", "src.orbital.inclination"),
    ),
)

# Family: share, distance from the Sun (au) from and to, scatter of velocity over the circular one,
# and of its direction out of the ecliptic's (degrees).
_FAMILIES = (
    ("belt", 0.86, 2.1, 3.3, 0.08, 8.0),
    ("near", 0.04, 1.15, 1.9, 0.25, 12.0),
    ("trojan", 0.05, 4.9, 5.5, 0.05, 10.0),
    ("distant", 0.05, 30.0, 47.0, 0.06, 8.0),
)
_COLOUR = (2.35, 0.60, 0.0, -0.18, -0.22, -0.20)
"""Magnitudes in ugrizy less that in r, of a usual surface."""


@dataclass(frozen=True)
class Places:
    """Where bodies are at a time: ra and dec (degrees), magnitude in r."""

    ra: np.ndarray
    dec: np.ndarray
    mag: np.ndarray


def colour(band: str) -> float:
    """Magnitude in a band less that in r."""
    return _COLOUR[BANDS.index(band)]


def places_at(rows: np.ndarray, mjd: float) -> Places:
    """Where bodies are at a time, and how bright in r."""
    ra, dec, from_sun, from_earth = seen_from_earth(rows["state"], rows["epoch"], mjd)
    return Places(ra, dec, brightness(rows["h"], from_sun, from_earth, mjd))


@lru_cache(maxsize=4)
def survey_movers(survey: Survey, radius: float) -> np.ndarray:
    """All bodies that come into the field of any visit.

    Parameters
    ----------
    radius
        Of the field about the survey's centre, degrees.

    Returns
    -------
    rows of `MOVERS`.
    """
    times = [survey.mjd + k * survey.visit_interval for k in range(survey.n_visits)]
    if survey.asteroids <= 0:
        return MOVERS.empty()
    known = MOVERS.empty()
    for number, mjd in enumerate(times):
        rng = generator(survey.seed, "movers", number)
        new = _draw(survey, rng, mjd, radius)
        for earlier in times[:number]:
            if not len(new):
                break
            then = places_at(new, earlier)
            new = new[~in_field(survey, then, radius)]
        known = np.concatenate([known, new])
    known["id"] = FIRST_ID + np.arange(len(known))
    known.flags.writeable = False
    return known


def in_field(survey: Survey, places: Places, radius: float) -> np.ndarray:
    """Which places are within `radius` (degrees) of the survey's centre."""
    east = (places.ra - survey.ra + 180.0) % 360.0 - 180.0
    east *= np.cos(np.radians(survey.dec))
    return np.asarray(np.hypot(east, places.dec - survey.dec) < radius)


def _draw(survey: Survey, rng: np.random.Generator, mjd: float, radius: float) -> np.ndarray:
    """Bodies in the field at a time, as they are spread at any time."""
    n = rng.poisson(survey.asteroids * np.pi * radius**2)
    rows = MOVERS.empty(n)
    distance = radius * np.sqrt(rng.uniform(size=n))
    turn = rng.uniform(0.0, 2.0 * np.pi, n)
    ra, dec = inverse_gnomonic(
        distance * np.cos(turn), distance * np.sin(turn), survey.ra, survey.dec
    )
    family = rng.choice(len(_FAMILIES), n, p=[entry[1] for entry in _FAMILIES])
    columns = [np.array(values) for values in zip(*_FAMILIES, strict=True)]
    rows["family"] = columns[0].astype("S12")[family]
    low, high, hot, tilt = (values.astype(float)[family] for values in columns[2:])
    from_sun = rng.uniform(low, high)
    place = _on_ray(ra, dec, from_sun, mjd)
    rows["state"][:, :3] = place
    rows["state"][:, 3:] = _velocity(rng, place, hot, np.radians(tilt))
    rows["epoch"] = mjd
    rows["a"], rows["e"], rows["inclination"] = elements(rows["state"])
    apparent = draw_magnitudes(rng, n, survey.asteroid_mag_min, survey.asteroid_mag_max, 0.3)
    rows["h"] = apparent - places_at(rows, mjd).mag  # of bodies with H = 0
    return rows


def bodies_towards(
    ra: np.ndarray,
    dec: np.ndarray,
    mjd: float,
    from_earth: np.ndarray,
    speed: np.ndarray,
    mag: np.ndarray,
) -> np.ndarray:
    """Bodies seen at these places at a time, going along the ecliptic.

    Parameters
    ----------
    from_earth
        Distances, au.
    speed
        Over that of a circular orbit; above 1.414 they come from outside and leave.
    mag
        Apparent, in r.
    """
    a, d = np.radians(ra), np.radians(dec)
    sight = np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=1)
    place = earth_from_sun(mjd) + from_earth[:, None] * sight
    rows = MOVERS.empty(len(place))
    rows["state"][:, :3] = place
    still = np.zeros(len(place))
    calm = generator(0, "calm")
    rows["state"][:, 3:] = speed[:, None] * _velocity(calm, place, still, still)
    rows["epoch"] = mjd
    rows["a"], rows["e"], rows["inclination"] = elements(rows["state"])
    rows["h"] = mag - places_at(rows, mjd).mag
    return rows


def _on_ray(ra: np.ndarray, dec: np.ndarray, from_sun: np.ndarray, mjd: float) -> np.ndarray:
    """The places on lines of sight that are so far from the Sun, the far ones of two; au."""
    earth = earth_from_sun(mjd)
    a, d = np.radians(ra), np.radians(dec)
    sight = np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=1)
    along = sight @ earth
    reach = np.sqrt(from_sun**2 - earth @ earth + along**2)
    return np.asarray(earth + (reach - along)[:, None] * sight)


def _velocity(
    rng: np.random.Generator, place: np.ndarray, hot: np.ndarray, tilt: np.ndarray
) -> np.ndarray:
    """Velocities about the Sun: nearly circular, nearly along the ecliptic; au/day."""
    r = np.linalg.norm(place, axis=1)
    out = place / r[:, None]
    pole = np.array([0.0, -np.sin(OBLIQUITY), np.cos(OBLIQUITY)])
    along = np.cross(pole, out)
    along /= np.linalg.norm(along, axis=1)[:, None]
    up = np.cross(out, along)
    circular = np.sqrt(GM_SUN / r)
    angle = tilt * rng.normal(size=len(r))
    # Bound all of them: the speed of escape is 1.41 times the circular one.
    speed = 1.0 + np.clip(hot * rng.normal(size=len(r)), -0.35, 0.35)
    outward = np.clip(hot * rng.normal(size=len(r)), -0.35, 0.35)
    direction = np.cos(angle)[:, None] * along + np.sin(angle)[:, None] * up
    return np.asarray(circular[:, None] * (speed[:, None] * direction + outward[:, None] * out))
