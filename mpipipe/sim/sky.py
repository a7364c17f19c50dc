"""The sky: stars and galaxies by number counts, with colours, variability and motion.

The sky is made of tiles on the tangent plane of the survey's centre. A tile depends on seed and
tile number only, so that every process draws the same objects where it needs them, and the cost
of a CCD does not grow with the survey.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from mpipipe.data.errors import ConfigError
from mpipipe.data.schema import Column, Schema
from mpipipe.sim.astrometry import gnomonic, inverse_gnomonic
from mpipipe.sim.earth import earth_from_sun
from mpipipe.sim.lightcurves import Variability, offsets
from mpipipe.sim.seeds import generator
from mpipipe.sim.star_counts import cumulative_counts
from mpipipe.sim.survey import BANDS, Survey

TILE = 3.0
"""Side of a tile, arcmin."""

STAR, GALAXY = 0, 1

_MOST_IN_TILE = 1 << 20
"""Identifiers have room for so many objects of a tile."""

OBJECTS = Schema(
    "objects",
    "Truth: all objects of the simulated sky at the epoch of the first visit",
    (
        Column("id", "i8", "", "identifier", "meta.id;meta.main"),
        Column("kind", "i2", "", "0 star, 1 galaxy", "src.class"),
        Column("ra", "f8", "deg", "right ascension at the first visit", "pos.eq.ra"),
        Column("dec", "f8", "deg", "declination at the first visit", "pos.eq.dec"),
        Column("pm_ra", "f4", "mas/yr", "proper motion in ra, cos(dec) included", "pos.pm"),
        Column("pm_dec", "f4", "mas/yr", "proper motion in dec", "pos.pm"),
        *(
            Column(f"mag_{band}", "f4", "mag", f"mean AB magnitude in {band}", "phot.mag")
            for band in BANDS
        ),
        Column("parallax", "f4", "mas", "parallax", "pos.parallax"),
        Column("variability", "i2", "", "how it varies (sim.lightcurves.Variability)", "src.class"),
        Column("amplitude", "f4", "mag", "half range of its variation in r (AGN: rms)", "src.var"),
        Column("period", "f4", "d", "its period", "time.period"),
        Column("phase", "f4", "", "its phase at the epoch, in periods", ""),
        Column("epoch", "f8", "d", "MJD of its phase, or of a transient's maximum", "time.epoch"),
        Column("timescale", "f4", "d", "its time scale, if it is not periodic", "time.scale"),
        Column("host", "i8", "", "id of the galaxy that it is in; -1 for none", "meta.id.assoc"),
        Column("bulge", "f4", "", "fraction of light in r in a de Vaucouleurs bulge", ""),
        Column("disk_radius", "f4", "arcsec", "half-light radius of the exponential", ""),
        Column("bulge_radius", "f4", "arcsec", "half-light radius of the bulge", ""),
        Column("axis_ratio", "f4", "", "minor over major axis", ""),
        Column("angle", "f4", "deg", "position angle of the major axis, east of north", ""),
    ),
)

# Colours along the stellar sequence, from hot to cool; round values after the stellar locus of
# Covey et al. 2007 (AJ 134, 2398), and for galaxies from late to early type after Fukugita et
# al. 1995 (PASP 107, 945).
_STAR_TYPE = np.array([0.0, 0.3, 0.5, 0.7, 1.0])
_STAR_COLOURS = {
    "ug": np.array([1.0, 1.2, 2.2, 2.6, 2.7]),
    "gr": np.array([0.20, 0.45, 1.00, 1.40, 1.50]),
    "ri": np.array([0.05, 0.15, 0.40, 0.80, 1.80]),
    "iz": np.array([0.00, 0.05, 0.20, 0.40, 1.00]),
    "zy": np.array([0.00, 0.02, 0.06, 0.15, 0.45]),
}
_GALAXY_TYPE = np.array([0.0, 0.5, 1.0])
_GALAXY_COLOURS = {
    "ug": np.array([0.3, 0.8, 1.8]),
    "gr": np.array([0.25, 0.6, 1.2]),
    "ri": np.array([0.15, 0.35, 0.6]),
    "iz": np.array([0.10, 0.20, 0.35]),
    "zy": np.array([0.05, 0.10, 0.20]),
}

_GRADIENT = (2.2, 1.0, 0.0, -0.5, -0.8, -0.95)
"""Magnitudes by which bulges are fainter in ugrizy than in r, over their excess in g - r: the
difference between the colours of early and late types."""


def objects_around(survey: Survey, ra: float, dec: float, radius: float) -> np.ndarray:
    """All objects of the tiles that come within `radius` of a position.

    Parameters
    ----------
    ra, dec
        Degrees.
    radius
        Arcmin.

    Returns
    -------
    rows of `OBJECTS`, ordered by tile and number.
    """
    xi, eta = gnomonic(np.array([ra]), np.array([dec]), survey.ra, survey.dec)
    x, y = xi[0] * 60.0, eta[0] * 60.0
    low_i, high_i = int((x - radius) // TILE), int((x + radius) // TILE)
    low_j, high_j = int((y - radius) // TILE), int((y + radius) // TILE)
    tiles = [
        tile_objects(survey, i, j)
        for j in range(low_j, high_j + 1)
        for i in range(low_i, high_i + 1)
    ]
    return np.concatenate(tiles)


@lru_cache(maxsize=128)
def tile_objects(survey: Survey, i: int, j: int) -> np.ndarray:
    """The objects of tile (i, j); tile (0, 0) has the survey's centre at its lower left corner.

    Members of a group can lie a little outside their tile.
    """
    rng = generator(survey.seed, "tile", i, j)
    rows = np.concatenate([_stars(survey, rng), _galaxies(survey, rng)])
    rows["host"] = -1
    rows["epoch"] = survey.mjd
    # What is drawn from here on leaves the objects before as they are without it.
    more = generator(survey.seed, "tile-variables", i, j)
    _set_distances(survey, rows, more)
    _set_kinds(survey, rows, more)
    first = _first_id(i, j)
    rows = np.concatenate([rows, _guests(survey, rows, first, more)])
    # Positions came in arcmin within the tile.
    xi = (rows["ra"] + i * TILE) / 60.0
    eta = (rows["dec"] + j * TILE) / 60.0
    rows["ra"], rows["dec"] = inverse_gnomonic(xi, eta, survey.ra, survey.dec)
    rows["id"] = first + np.arange(len(rows))
    rows.flags.writeable = False
    return rows


def check_counts(survey: Survey) -> None:
    """See that a tile can hold the objects that are asked for.

    Raises
    ------
    ConfigError
        If it can not.
    """
    expected = {
        "star_density": star_count(survey, survey.star_mag_min, survey.star_mag_max),
        "galaxy_density": sum(galaxy_counts(survey)),
    }
    for key, number in expected.items():
        if not number * TILE**2 < _MOST_IN_TILE / 2:
            raise ConfigError(
                f"makes {number:.3g} objects a square arcmin",
                key=key,
                way_out=f"fewer than {_MOST_IN_TILE / 2 / TILE**2:.0f}, down to the faintest",
            )


def _first_id(i: int, j: int) -> int:
    """Id of the first object of a tile.

    2^12 tiles a side are 200 degrees.
    """
    return ((j + 2048) << 12 | (i + 2048)) * _MOST_IN_TILE


def draw_magnitudes(
    rng: np.random.Generator, n: int, bright: float, faint: float, slope: float
) -> np.ndarray:
    """`n` magnitudes between two limits from counts proportional to 10^(slope mag)."""
    k = slope * np.log(10.0)
    low, high = np.exp(k * (bright - faint)), 1.0
    return np.asarray(faint + np.log(low + (high - low) * rng.uniform(size=n)) / k)


def expected_count(at: float, pivot: float, bright: float, faint: float, slope: float) -> float:
    """Number between two magnitudes when counts are `at` per magnitude at `pivot`."""
    k = slope * np.log(10.0)
    return float(at / k * (np.exp(k * (faint - pivot)) - np.exp(k * (bright - pivot))))


def star_count(survey: Survey, bright: float, faint: float) -> float:
    """Expected stars per square arcmin between two magnitudes r."""
    if survey.star_counts == "galactic":
        return float(cumulative_counts(bright, faint, survey.ra, survey.dec)[1][-1])
    return expected_count(survey.star_density, 20.0, bright, faint, survey.star_slope)


def _stars(survey: Survey, rng: np.random.Generator) -> np.ndarray:
    limits = (survey.star_mag_min, survey.star_mag_max)
    n = rng.poisson(star_count(survey, *limits) * TILE**2)
    rows = OBJECTS.empty(n)
    rows["kind"] = STAR
    rows["ra"], rows["dec"] = rng.uniform(0.0, TILE, (2, n))
    if survey.star_counts == "galactic":
        at, counts = cumulative_counts(*limits, survey.ra, survey.dec)
        mag = np.interp(rng.uniform(0.0, counts[-1], n), counts, at)
    else:
        mag = draw_magnitudes(rng, n, *limits, survey.star_slope)
    # A blue and a red peak, the red one for the faint ones: halo turn-off and disk dwarfs.
    red = rng.uniform(size=n) < np.clip(0.3 + 0.06 * (mag - 18.0), 0.2, 0.7)
    kind = np.where(red, rng.normal(0.75, 0.12, n), rng.normal(0.3, 0.1, n))
    _set_magnitudes(rows, mag, np.clip(kind, 0, 1), _STAR_TYPE, _STAR_COLOURS, 0.02, rng)
    rows["pm_ra"], rows["pm_dec"] = rng.normal(0.0, survey.proper_motion, (2, n))
    varies = rng.uniform(size=n) < survey.variable_fraction
    amplitude = survey.variable_amplitude * 10 ** rng.normal(0.0, 0.3, n)
    rows["amplitude"] = np.where(varies, amplitude, 0.0)
    rows["variability"] = np.where(varies, Variability.SINE, Variability.NONE)
    rows["period"] = 10 ** rng.uniform(-1.0, 2.0, n)
    rows["phase"] = rng.uniform(size=n)
    return rows


def galaxy_counts(survey: Survey) -> tuple[float, float]:
    """Expected galaxies per square arcmin before and beyond the break of their counts."""
    bright = (survey.galaxy_mag_min, survey.galaxy_break, survey.galaxy_slope)
    faint = (survey.galaxy_break, survey.galaxy_mag_max, survey.galaxy_slope_faint)
    at_break = survey.galaxy_density * 10 ** (survey.galaxy_slope * (survey.galaxy_break - 24.0))
    return (
        expected_count(survey.galaxy_density, 24.0, *bright),
        expected_count(at_break, survey.galaxy_break, *faint),
    )


def _galaxies(survey: Survey, rng: np.random.Generator) -> np.ndarray:
    bright = (survey.galaxy_mag_min, survey.galaxy_break, survey.galaxy_slope)
    faint = (survey.galaxy_break, survey.galaxy_mag_max, survey.galaxy_slope_faint)
    n_bright, n_faint = (rng.poisson(number * TILE**2) for number in galaxy_counts(survey))
    n = n_bright + n_faint
    mag = np.concatenate(
        [draw_magnitudes(rng, n_bright, *bright), draw_magnitudes(rng, n_faint, *faint)]
    )
    rng.shuffle(mag)
    rows = OBJECTS.empty(n)
    rows["kind"] = GALAXY
    rows["ra"], rows["dec"] = _clustered_positions(survey, rng, n)
    early = rng.uniform(size=n) < survey.bulge_fraction
    kind = np.clip(np.where(early, rng.normal(0.9, 0.1, n), rng.normal(0.3, 0.2, n)), 0, 1)
    _set_magnitudes(rows, mag, kind, _GALAXY_TYPE, _GALAXY_COLOURS, 0.05, rng)
    rows["bulge"] = np.where(early, rng.uniform(0.7, 1.0, n), rng.uniform(0.0, 0.3, n))
    trend = survey.galaxy_radius_slope * (mag - 24.0)
    scatter = survey.galaxy_radius_scatter * rng.normal(size=n)
    radius = survey.galaxy_radius * 10 ** (trend + scatter)
    rows["disk_radius"] = np.clip(radius, 0.05, 10.0)
    rows["bulge_radius"] = np.clip(radius * np.where(early, 1.0, 0.4), 0.05, 10.0)
    rows["axis_ratio"] = np.where(early, rng.uniform(0.5, 1.0, n), rng.uniform(0.2, 1.0, n))
    rows["angle"] = rng.uniform(0.0, 180.0, n)
    return rows


def _set_distances(survey: Survey, rows: np.ndarray, rng: np.random.Generator) -> None:
    """Parallaxes of stars as if all were dwarfs, and proper motions that go with them."""
    star = rows["kind"] == STAR
    red = np.clip((rows["mag_g"] - rows["mag_r"])[star].astype(float), 0.2, 1.5)
    # About the absolute magnitudes of the main sequence: 4 for the turn-off, 11 for M dwarfs.
    absolute = 4.0 + 7.0 * (red - 0.2) / 1.3
    parsec = 10.0 ** (0.2 * (rows["mag_r"][star] - absolute) + 1.0)
    rows["parallax"][star] = survey.parallax * 1000.0 / parsec
    if survey.transverse_velocity > 0:
        axis = survey.transverse_velocity / (4.74 * parsec) * 1000.0
        rows["pm_ra"][star], rows["pm_dec"][star] = axis * rng.normal(size=(2, int(star.sum())))


def _set_kinds(survey: Survey, rows: np.ndarray, rng: np.random.Generator) -> None:
    """Turn a part of the variable stars into RR Lyrae, Cepheids and eclipsing binaries."""
    varies = np.flatnonzero(rows["variability"] == Variability.SINE)
    draw = rng.uniform(size=len(varies))
    spread = rng.uniform(size=len(varies))
    edges = np.cumsum(survey.variable_mix)
    kinds = (
        (Variability.RR_LYRAE, 0.35 + 0.45 * spread, 0.25 + 0.3 * spread),
        (Variability.CEPHEID, 10 ** (0.3 + 1.5 * spread), 0.2 + 0.4 * spread),
        (Variability.ECLIPSING, 10 ** (-0.5 + 1.5 * spread), 0.05 + 0.3 * spread),
    )
    begin = 0.0
    for end, (kind, period, amplitude) in zip(edges, kinds, strict=True):
        some = (draw >= begin) & (draw < end)
        chosen, begin = varies[some], float(end)
        rows["variability"][chosen] = kind
        rows["period"][chosen], rows["amplitude"][chosen] = period[some], amplitude[some]


def _guests(survey: Survey, rows: np.ndarray, first: int, rng: np.random.Generator) -> np.ndarray:
    """Point sources in galaxies: active nuclei, and supernovae of the survey's time."""
    galaxies = np.flatnonzero(rows["kind"] == GALAXY)
    bright = galaxies[rows["mag_r"][galaxies] < survey.agn_mag_max]
    active = bright[rng.uniform(size=len(bright)) < survey.agn_fraction]
    nuclei = _in_hosts(rows, active, first)
    nuclei["variability"] = Variability.AGN
    nuclei["amplitude"] = 0.2 * 10 ** rng.normal(0.0, 0.15, len(active))
    nuclei["timescale"] = 10 ** rng.normal(2.3, 0.3, len(active))
    # The same in all bands, which is blue, and about half a magnitude fainter than the galaxy.
    light = rows["mag_r"][active] + rng.normal(0.5, 0.5, len(active)).astype(np.float32)
    for band in BANDS:
        nuclei[f"mag_{band}"] = light

    years = survey.n_visits * survey.visit_interval / 365.25
    expected = survey.supernovae * years * (TILE / 60.0) ** 2
    number = rng.poisson(expected) if len(galaxies) else 0
    weight = 10.0 ** (-0.4 * (rows["mag_r"][galaxies].astype(float) - 20.0))
    # By light, but not only in the brightest few.
    weight = np.sqrt(weight)
    hosts = rng.choice(galaxies, number, p=weight / weight.sum()) if number else galaxies[:0]
    exploded = _in_hosts(rows, hosts, first)
    radius = rows["disk_radius"][hosts] * rng.exponential(0.6, number) / 60.0
    turn = rng.uniform(0.0, 2.0 * np.pi, number)
    exploded["ra"] += radius * np.cos(turn)
    exploded["dec"] += radius * np.sin(turn)
    exploded["variability"] = Variability.SUPERNOVA
    exploded["epoch"] = survey.mjd + 365.25 * years * rng.uniform(size=number)
    exploded["timescale"] = rng.normal(1.0, 0.1, number)
    peak = draw_magnitudes(rng, number, 18.0, 24.0, 0.5)
    for band in BANDS:
        exploded[f"mag_{band}"] = peak
    return np.concatenate([nuclei, exploded])


def _in_hosts(rows: np.ndarray, hosts: np.ndarray, first: int) -> np.ndarray:
    """Point sources at the centres of galaxies of a tile."""
    found = OBJECTS.empty(len(hosts))
    found["kind"] = STAR
    found["ra"], found["dec"] = rows["ra"][hosts], rows["dec"][hosts]
    found["epoch"] = rows["epoch"][hosts]
    found["host"] = first + hosts
    return found


def _clustered_positions(
    survey: Survey, rng: np.random.Generator, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Positions in a tile, arcmin: a part at random, the rest in groups."""
    x, y = rng.uniform(0.0, TILE, (2, n))
    n_grouped = int(survey.group_fraction * n)
    n_groups = int(np.ceil(n_grouped / survey.group_members))
    if n_groups:
        centre = rng.uniform(0.0, TILE, (2, n_groups))
        of = rng.integers(0, n_groups, n_grouped)
        distance = np.minimum(rng.exponential(survey.group_radius, n_grouped), 60.0) / 60.0
        turn = rng.uniform(0.0, 2.0 * np.pi, n_grouped)
        x[:n_grouped] = centre[0, of] + distance * np.cos(turn)
        y[:n_grouped] = centre[1, of] + distance * np.sin(turn)
    return x, y


def _set_magnitudes(
    rows: np.ndarray,
    r: np.ndarray,
    kind: np.ndarray,
    types: np.ndarray,
    colours: dict[str, np.ndarray],
    scatter: float,
    rng: np.random.Generator,
) -> None:
    """Fill in the six magnitudes from r and the place `kind` on a colour sequence."""
    colour = {
        name: np.interp(kind, types, knots) + rng.normal(0.0, scatter, len(r))
        for name, knots in colours.items()
    }
    rows["mag_r"] = r
    rows["mag_g"] = r + colour["gr"]
    rows["mag_u"] = r + colour["gr"] + colour["ug"]
    rows["mag_i"] = r - colour["ri"]
    rows["mag_z"] = r - colour["ri"] - colour["iz"]
    rows["mag_y"] = r - colour["ri"] - colour["iz"] - colour["zy"]


def bulge_fraction(survey: Survey, rows: np.ndarray, band: str) -> np.ndarray:
    """Fraction of the light of galaxies in their bulges, in a band.

    Bulges are redder than their disks by `galaxy_colour_gradient`; the sum of both, which the
    magnitudes tell, is the same whatever the gradient.
    """
    redder = survey.galaxy_colour_gradient * _GRADIENT[BANDS.index(band)]
    if redder == 0.0:
        return np.asarray(rows["bulge"])
    bulge = rows["bulge"] * 10.0 ** (-0.4 * redder)
    return np.asarray(bulge / (bulge + (1.0 - rows["bulge"])))


def magnitudes_at(survey: Survey, rows: np.ndarray, band: str, mjd: float) -> np.ndarray:
    """Magnitudes in a band at a time, variability included."""
    return np.asarray(rows[f"mag_{band}"].astype(np.float64) + offsets(rows, band, mjd))


def positions_at(survey: Survey, rows: np.ndarray, mjd: float) -> tuple[np.ndarray, np.ndarray]:
    """Right ascension and declination at a time, degrees: with proper motion and parallax."""
    years = (mjd - survey.mjd) / 365.25
    cosine = np.cos(np.radians(rows["dec"]))
    dec = rows["dec"] + rows["pm_dec"] * (years / 3.6e6)
    ra = rows["ra"] + rows["pm_ra"] * (years / 3.6e6) / cosine
    if survey.parallax > 0:
        east, north = parallax_factors(rows["ra"], rows["dec"], mjd)
        ra = ra + rows["parallax"] * east / 3.6e6 / cosine
        dec = dec + rows["parallax"] * north / 3.6e6
    return ra, dec


def parallax_factors(ra: np.ndarray, dec: np.ndarray, mjd: float) -> tuple[np.ndarray, np.ndarray]:
    """Displacement to the east and north of a star with a parallax of 1, about the Sun."""
    x, y, z = earth_from_sun(mjd)
    a, d = np.radians(ra), np.radians(dec)
    east = x * np.sin(a) - y * np.cos(a)
    north = (x * np.cos(a) + y * np.sin(a)) * np.sin(d) - z * np.cos(d)
    return np.asarray(east), np.asarray(north)
