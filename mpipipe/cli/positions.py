"""Places on the sky and angles as people write them."""

from __future__ import annotations

import re

from mpipipe.data.errors import ConfigError

_ANGLES = {
    "": 1.0,
    "deg": 1.0,
    "d": 1.0,
    "arcmin": 1 / 60,
    "'": 1 / 60,
    "m": 1 / 60,
    "arcsec": 1 / 3600,
    '"': 1 / 3600,
    "s": 1 / 3600,
}
_ANGLE = re.compile(r"\s*([0-9.eE+-]+?)\s*(deg|arcmin|arcsec|[dms'\"]?)\s*")
_SEXAGESIMAL = re.compile(
    r"""\s*([+-]?)\s*(\d+)\s*[hd:°\s]\s*(\d+)\s*(?:[m:'′\s]\s*(\d+(?:\.\d*)?)\s*[s"″]?|[m'′]?)\s*"""
)


def parse_position(ra: str, dec: str) -> tuple[float, float]:
    """Right ascension and declination in degrees.

    Decimal numbers are degrees; 10:20:30.5, 10h20m30.5s and "10 20 30.5" are hours for right
    ascension, degrees for declination.

    Raises
    ------
    ConfigError
        If it is no place on the sky.
    """
    place = 15.0 * _sexagesimal(ra) if _is_parted(ra) else _number(ra, "RA")
    height = _sexagesimal(dec) if _is_parted(dec) else _number(dec, "DEC")
    if not (-360.0 <= place <= 360.0 and abs(height) <= 90.0):
        raise ConfigError(f"there is no place {ra}, {dec} on the sky")
    return place % 360.0, height


def parse_angle(text: str) -> float:
    """An angle in degrees, of 0.1, 0.1deg, 6arcmin, 6', 360arcsec or 360".

    Raises
    ------
    ConfigError
        If it is none.
    """
    found = _ANGLE.fullmatch(text)
    if found is None:
        raise ConfigError(f"{text!r} is no angle", way_out="degrees, or as in 6arcmin, 30arcsec")
    return _number(found[1], "RADIUS") * _ANGLES[found[2]]


def _is_parted(text: str) -> bool:
    return _SEXAGESIMAL.fullmatch(text) is not None


def _sexagesimal(text: str) -> float:
    found = _SEXAGESIMAL.fullmatch(text)
    assert found is not None
    sign, whole, minutes, seconds = found.groups()
    if int(minutes) >= 60 or float(seconds or 0) >= 60:
        raise ConfigError(f"{text!r} has 60 or more minutes or seconds")
    value = int(whole) + int(minutes) / 60 + float(seconds or 0) / 3600
    return -value if sign == "-" else value


def _number(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(
            f"{text!r} is no {what}", way_out="decimal degrees, or as in 10:00:24.5 +02:12:30"
        ) from error
