"""Toy catalogues whose objects are known: blends, fast stars, asteroids; and what association makes
of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpipipe.data.association import FLUX_KINDS, SOURCE
from mpipipe.sim.earth import earth_from_sun

FWHM = 0.83
"""Arcsec."""
FLOOR = 1.2
"""Error of every position beyond what sources know of, mas."""
FIELD = 150.0, -20.0


@dataclass(frozen=True, eq=False)
class ToySky:
    """Sources, ascending by id, with the star that each is of.

    Attributes
    ----------
    rows
        Structured array of `SOURCE`.
    star
        Number of every row's star.
    neighbour
        Distance of every star's nearest neighbour, arcsec.
    motion, parallax
        True proper motions (n_stars, 2), mas/yr, and parallaxes, mas.
    """

    rows: np.ndarray
    star: np.ndarray
    neighbour: np.ndarray
    motion: np.ndarray
    parallax: np.ndarray


@dataclass(frozen=True)
class Toy:
    """Options of a toy sky.

    Attributes
    ----------
    n_stars, density
        Number of stars, and how many to a square degree.
    n_epochs, interval
        Visits, and days between them.
    fast
        Share of stars that move.
    slowest, fastest
        Proper motions of these, mas/yr, uniform in the logarithm.
    parallax
        Largest parallax, mas.
    faint
        SNR that stars have at least in the mean; their counts go as SNR^-1.
    asteroids
        Sources a star and visit that are seen there once.
    """

    n_stars: int = 100_000
    density: float = 1e5
    n_epochs: int = 10
    interval: float = 365.25
    fast: float = 0.0
    slowest: float = 1.0
    fastest: float = 1000.0
    parallax: float = 0.0
    faint: float = 7.0
    asteroids: float = 0.0


def toy_sky(toy: Toy, seed: int) -> ToySky:
    """Stars over the visits of a survey in several bands, seeing of 0.6 to 1.1 arcsec.

    Of two stars closer than 0.8 FWHM of a visit the fainter is lost in it, and the other is where
    their light's centre is.
    """
    rng = np.random.default_rng(seed)
    side = np.sqrt(toy.n_stars / toy.density) * 3600.0
    where = rng.uniform(-side / 2, side / 2, (toy.n_stars, 2))
    snr = toy.faint * 10 ** rng.exponential(0.5, toy.n_stars).clip(max=2.0)
    speed = np.exp(rng.uniform(np.log(toy.slowest), np.log(toy.fastest), toy.n_stars))
    speed *= rng.random(toy.n_stars) < toy.fast
    angle = rng.uniform(0.0, 2.0 * np.pi, toy.n_stars)
    motion = speed[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    parallax = toy.parallax * rng.random(toy.n_stars)
    tables, stars = [], []
    for epoch in range(toy.n_epochs):
        mjd = 60000.0 + toy.interval * epoch + 0.3 * rng.random()
        years = toy.interval * (epoch - toy.n_epochs / 2) / 365.25
        now = where + (motion * years + parallax[:, None] * _factors(mjd)) / 1e3
        seen, table = _visit(rng, epoch, mjd, now, snr, toy.asteroids * toy.n_stars, side)
        tables.append(table)
        stars.append(seen)
    pairs, distance = _near(where, 10.0)
    neighbour = np.full(toy.n_stars, np.inf)
    for column in (0, 1):
        np.minimum.at(neighbour, pairs[:, column], distance)
    star = np.concatenate(stars)
    return ToySky(np.concatenate(tables), star, neighbour, motion, parallax)


def _factors(mjd: float) -> np.ndarray:
    """Offsets east and north, at the field, that a parallax of 1 makes."""
    ra, dec = np.radians(FIELD)
    east = np.array([-np.sin(ra), np.cos(ra), 0.0])
    north = np.array([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)])
    return -np.array([east, north]) @ earth_from_sun(mjd)


def _near(where: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    from scipy.spatial import cKDTree

    pairs = cKDTree(where).query_pairs(reach, output_type="ndarray")
    return pairs, np.hypot(*(where[pairs[:, 0]] - where[pairs[:, 1]]).T)


def _visit(
    rng: np.random.Generator,
    epoch: int,
    mjd: float,
    where: np.ndarray,
    snr: np.ndarray,
    n_asteroids: float,
    side: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Stars seen (-1: an asteroid) and rows of one visit."""
    fwhm = rng.uniform(0.6, 1.1)
    here = snr * (FWHM / fwhm) * rng.uniform(0.9, 1.1)
    pairs, distance = _near(where, 2.0 * fwhm)
    pairs = np.where((snr[pairs[:, 0]] >= snr[pairs[:, 1]])[:, None], pairs, pairs[:, ::-1])
    blended = np.zeros(len(where), bool)
    blended[pairs.ravel()] = True
    lost = np.zeros(len(where), bool)
    places = where.copy()
    bright, faint = pairs[distance < 0.8 * fwhm].T
    lost[faint] = True
    share = snr[faint] / (snr[bright] + snr[faint])
    np.add.at(places, bright, share[:, None] * (where[faint] - where[bright]))
    measured = here + rng.normal(0.0, 1.0, len(where))
    stars = np.flatnonzero((measured > 5.0) & ~lost)
    n_asteroids = rng.poisson(n_asteroids)
    error = 1e3 * 0.6 * fwhm / here[stars]
    total = np.hypot(error, FLOOR)
    places = places[stars] + rng.normal(0.0, 1.0, (len(stars), 2)) * total[:, None] / 1e3
    places = np.concatenate([places, rng.uniform(-side / 2, side / 2, (n_asteroids, 2))])
    n = len(places)
    rows = SOURCE.empty(n)
    rows["visit"], rows["mjd"], rows["objectId"] = epoch + 1, mjd, -1
    rows["id"] = ((epoch + 1) << 27) + np.arange(n)
    rows["band"] = np.array([b"g", b"r", b"i"])[epoch % 3]
    rows["ra"], rows["dec"] = _sky(places)
    rows["raErr"] = rows["decErr"] = np.append(error, np.full(n_asteroids, 50.0))
    rows["fwhm"], rows["snr"] = fwhm, np.append(measured[stars], np.full(n_asteroids, 10.0))
    rows["flag_blended"][: len(stars)] = blended[stars]
    for kind in FLUX_KINDS:
        rows[f"{kind}Flux"], rows[f"{kind}FluxErr"] = 100.0 * rows["snr"], 100.0
    for name in ("extendedness", "petroRadius", "ixx", "iyy", "psfIxx", "psfIyy"):
        rows[name] = rng.random(n)
    return np.append(stars, np.full(n_asteroids, -1)), rows


def _sky(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right ascension and declination of offsets in arcsec on the plane at the field."""
    ra, dec = np.radians(FIELD)
    x, y = np.radians(places.T / 3600.0)
    down = np.cos(dec) - y * np.sin(dec)
    return (
        np.degrees(ra + np.arctan2(x, down)),
        np.degrees(np.arctan2(np.sin(dec) + y * np.cos(dec), np.hypot(x, down))),
    )


@dataclass(frozen=True)
class Score:
    """Shares of stars with two sources or more.

    Attributes
    ----------
    n
        How many stars there are.
    split
        Sources in more than one object.
    merged
        In an object with another star's sources.
    """

    n: int
    split: float
    merged: float


def score(star: np.ndarray, object_id: np.ndarray, which: np.ndarray) -> Score:
    """Splits and merges of some stars (mask over star numbers), by each source's star and object.

    Sources of no star (-1) do not count.
    """
    star, object_id = star[star >= 0], object_id[star >= 0]
    _, number = np.unique(object_id, return_inverse=True)
    n_objects = int(number.max(initial=-1)) + 1
    pairs = np.stack(np.divmod(np.unique(star * n_objects + number), max(n_objects, 1)), axis=1)
    counted = which & (np.bincount(star, minlength=len(which)) >= 2)
    of_star = np.bincount(pairs[:, 0], minlength=len(which))
    n_stars = np.bincount(pairs[:, 1])
    merged = np.zeros(len(which), bool)
    merged[pairs[n_stars[pairs[:, 1]] > 1, 0]] = True
    n = int(counted.sum())
    split = (of_star > 1)[counted].sum()
    return Score(n, float(split / max(n, 1)), float(merged[counted].sum() / max(n, 1)))


def pulls(sky: ToySky, objects: np.ndarray, which: np.ndarray) -> dict[str, np.ndarray]:
    """Errors over quoted errors of pmRa, pmDec and parallax of objects of some stars (mask).

    Parameters
    ----------
    objects
        The table that association gives.
    """
    first = np.searchsorted(sky.rows["id"], objects["objectId"])
    star = sky.star[first]
    chosen = which[star] & (star >= 0) & (objects["nParameters"] == 5)
    truth = {
        "pmRa": sky.motion[star, 0],
        "pmDec": sky.motion[star, 1],
        "parallax": sky.parallax[star],
    }
    return {
        name: ((objects[name] - values) / objects[f"{name}Err"])[chosen]
        for name, values in truth.items()
    }
