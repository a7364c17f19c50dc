"""Reference stars: a catalogue's rows, and where its stars stand at the time of an exposure.

Positions are barycentric (ICRS) at an epoch of their own each. What a catalogue does not know is
NaN: nothing is made up before `ReferenceStars.at_epoch` places the stars, with the errors below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mpipipe.data.schema import Column, Schema

UNKNOWN_POSITION_ERROR = 20.0
"""Error of a coordinate that the catalogue tells none for, mas: that of deep surveys' positions."""

UNKNOWN_PROPER_MOTION = 8.0
"""Error that a year adds to a coordinate of a star of unknown proper motion, mas: the usual motion
of a star of 17 mag."""

UNKNOWN_PROPER_MOTION_ERROR = 1.0
"""Error of a proper motion that the catalogue tells none for, mas/yr."""

DAYS_PER_YEAR = 365.25
_MAS = np.pi / (180.0 * 3600.0e3)
"""A milliarcsecond in radians."""

_TT_MINUS_TAI = 32.184 / 86400.0
"""Days."""

_COLUMNS = (
    Column("id", "i8", "", "identifier of the catalogue", "meta.id;meta.main"),
    Column("ra", "f8", "deg", "right ascension (ICRS) at epoch", "pos.eq.ra;meta.main"),
    Column("dec", "f8", "deg", "declination (ICRS) at epoch", "pos.eq.dec;meta.main"),
    Column("ra_error", "f4", "mas", "error of ra, cos(dec) included", "stat.error;pos.eq.ra"),
    Column("dec_error", "f4", "mas", "error of dec", "stat.error;pos.eq.dec"),
    Column("pm_ra", "f4", "mas/yr", "proper motion in ra, cos(dec) included", "pos.pm;pos.eq.ra"),
    Column("pm_dec", "f4", "mas/yr", "proper motion in dec", "pos.pm;pos.eq.dec"),
    Column("pm_ra_error", "f4", "mas/yr", "error of pm_ra", "stat.error;pos.pm;pos.eq.ra"),
    Column("pm_dec_error", "f4", "mas/yr", "error of pm_dec", "stat.error;pos.pm;pos.eq.dec"),
    Column("parallax", "f4", "mas", "parallax", "pos.parallax.trig"),
    Column("epoch", "f8", "d", "epoch of the position, MJD TAI", "time.epoch"),
)
_NEEDED = ("id", "ra", "dec")
"""Columns without which there is no star."""


def reference_schema(bands: Sequence[str]) -> Schema:
    """The columns of a reference catalogue with AB magnitudes in these bands."""
    magnitudes = [
        column
        for band in bands
        for column in (
            Column(f"mag_{band}", "f4", "mag", f"AB magnitude in {band}", "phot.mag"),
            Column(f"mag_{band}_error", "f4", "mag", f"error of mag_{band}", "stat.error;phot.mag"),
        )
    ]
    return Schema("reference", "Reference stars", (*_COLUMNS, *magnitudes))


def reference_rows(columns: Mapping[str, np.ndarray], bands: Sequence[str]) -> np.ndarray:
    """Rows of `reference_schema` of the columns that are known; the others become NaN.

    Raises
    ------
    KeyError
        If a column is not of the schema, or `id`, `ra` or `dec` is missing.
    """
    schema = reference_schema(bands)
    n_rows = len(columns["ra"])
    unknown = np.full(n_rows, np.nan)
    filled = {c.name: unknown for c in schema.columns if c.name not in _NEEDED}
    return schema.table(filled | dict(columns))


@dataclass(frozen=True, eq=False)
class PlacedStars:
    """Where reference stars are seen from the Earth's centre at a time, without aberration.

    Attributes
    ----------
    ra, dec
        (n,) float64, degrees (ICRS).
    ra_error, dec_error
        (n,) float64, mas, with cos(dec) in `ra_error`; finite and positive.
    """

    ra: np.ndarray
    dec: np.ndarray
    ra_error: np.ndarray
    dec_error: np.ndarray

    def __len__(self) -> int:
        return len(self.ra)


@dataclass(frozen=True, eq=False)
class ReferenceStars:
    """Stars of a reference catalogue.

    Attributes
    ----------
    rows
        Structured array of `reference_schema(bands)`.
    bands
        Bands with magnitudes, in the order of the columns.
    name
        Name of the catalogue.
    is_absolute
        False: it was made from a run's own frames; positions and zero points are relative.
    """

    rows: np.ndarray
    bands: tuple[str, ...]
    name: str
    is_absolute: bool = True

    def __len__(self) -> int:
        return len(self.rows)

    def at_epoch(self, mjd: float) -> PlacedStars:
        """The stars as they are seen at a time.

        A star moves along a straight line with the proper motion at its epoch (ESA 1997, The
        Hipparcos and Tycho Catalogues, vol. 1, 1.5.5, without radial velocity), then the Earth's
        barycentric position shifts it by its parallax. Unknown motions and parallaxes, and
        parallaxes that noise made negative, count as none; a star of unknown epoch stays where it
        is. Errors grow with the time since the epoch.

        Parameters
        ----------
        mjd
            MJD (TAI).
        """
        rows = self.rows
        ra, dec = np.radians(rows["ra"]), np.radians(rows["dec"])
        east, north, outward = _triad(ra, dec)
        years = np.nan_to_num((mjd - rows["epoch"]) / DAYS_PER_YEAR)
        motion = east * _known(rows["pm_ra"]) + north * _known(rows["pm_dec"])
        place = outward + motion * years * _MAS
        # Distances change along the line, too: the parallax is that of the star's new distance.
        parallax = np.clip(_known(rows["parallax"]), 0.0, None) * _MAS
        place -= _earth(mjd)[:, np.newaxis] * parallax
        x, y, z = place
        return PlacedStars(
            ra=np.degrees(np.arctan2(y, x)) % 360.0,
            dec=np.degrees(np.arctan2(z, np.hypot(x, y))),
            ra_error=self._error("ra", years),
            dec_error=self._error("dec", years),
        )

    def _error(self, axis: str, years: np.ndarray) -> np.ndarray:
        """Error of a coordinate after `years`, mas."""
        error, motion = self.rows[f"{axis}_error"], self.rows[f"pm_{axis}"]
        error = np.where(error > 0.0, error, UNKNOWN_POSITION_ERROR)
        growth = self.rows[f"pm_{axis}_error"]
        growth = np.where(np.isfinite(growth), growth, UNKNOWN_PROPER_MOTION_ERROR)
        growth = np.where(np.isfinite(motion), growth, UNKNOWN_PROPER_MOTION)
        return np.hypot(error.astype(float), growth * years)


def _known(values: np.ndarray) -> np.ndarray:
    """Values as float64, zero where they are unknown."""
    return np.where(np.isfinite(values), values, 0.0).astype(float)


def _triad(ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors (3, n) to the east, to the north and outward at positions in radians."""
    sin_ra, cos_ra, sin_dec, cos_dec = np.sin(ra), np.cos(ra), np.sin(dec), np.cos(dec)
    east = np.stack([-sin_ra, cos_ra, np.zeros_like(ra)])
    north = np.stack([-sin_dec * cos_ra, -sin_dec * sin_ra, cos_dec])
    outward = np.stack([cos_dec * cos_ra, cos_dec * sin_ra, sin_dec])
    return east, north, outward


def _earth(mjd: float) -> np.ndarray:
    """Barycentric position of the Earth at an MJD (TAI), (3,) AU along the axes of ICRS.

    The ephemeris that astropy has built in (ERFA's epv00, 5000 km), called without astropy's
    times, which would look for new leap seconds on the network.
    """
    import erfa

    _, barycentric = erfa.epv00(2400000.5, mjd + _TT_MINUS_TAI)
    return np.asarray(barycentric["p"], dtype=float)
