"""Source ids: 63 bits that follow from the content (visit, CCD, number) and lead back to it.

Layout, from the highest bit: 36 bits visit key, 10 bits CCD number, 17 bits number in the CCD.
The visit key is the visit number itself below 2**35. Larger numbers are dates in all cameras
known here, and are packed by what they say, so that two visits can never share a key:

* 14 digits YYYYMMDDhhmmss (2000 to 2543): 2**35 + seconds since 2000-01-01;
* 13 digits YYYYMMDDNNNNN (2000 to 2469): 2**35 + 2**34 + 100,000 x days since 2000-01-01 + NNNNN.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np

from mpipipe.data.errors import BadDataError

NUMBER_BITS = 17
CCD_BITS = 10
VISIT_BITS = 36
MAX_SOURCES = 1 << NUMBER_BITS
"""Sources that one CCD of one visit can have."""

_PLAIN = 1 << 35
_SECONDS = 1 << 34
_EPOCH = datetime(2000, 1, 1)
_SEQUENCE = 100_000


def visit_key(visit: int) -> int:
    """The 36-bit key of a visit number: one to one, see the module's description.

    Raises
    ------
    BadDataError
        If the number is negative, or is 2**35 or more and no date.
    """
    if 0 <= visit < _PLAIN:
        return visit
    text = str(visit)
    key = -1
    if len(text) == 14:
        key = _seconds_key(text)
    elif len(text) == 13:
        key = _day_key(text)
    if key < 0:
        raise BadDataError(
            f"visit number {visit} does not fit into a source id",
            key="visit",
            way_out="number visits below 34,359,738,368, or as YYYYMMDDhhmmss or YYYYMMDDNNNNN",
        )
    return key


def _seconds_key(text: str) -> int:
    try:
        elapsed = datetime.strptime(text, "%Y%m%d%H%M%S") - _EPOCH
    except ValueError:
        return -1
    seconds = elapsed // timedelta(seconds=1)
    # strptime takes second 60 or 61 for the next minute's: that would give two visits one key.
    if int(text[-2:]) > 59 or not 0 <= seconds < _SECONDS:
        return -1
    return _PLAIN + seconds


def _day_key(text: str) -> int:
    try:
        days = (datetime.strptime(text[:8], "%Y%m%d") - _EPOCH).days
    except ValueError:
        return -1
    key = days * _SEQUENCE + int(text[8:])
    return _PLAIN + _SECONDS + key if days >= 0 and key < _SECONDS else -1


def visit_of_key(key: int) -> int:
    """The visit number that has this key."""
    if key < _PLAIN:
        return key
    rest = key - _PLAIN
    if rest < _SECONDS:
        return int((_EPOCH + timedelta(seconds=rest)).strftime("%Y%m%d%H%M%S"))
    days, number = divmod(rest - _SECONDS, _SEQUENCE)
    return int(f"{_EPOCH + timedelta(days=days):%Y%m%d}") * _SEQUENCE + number


def source_ids(visit: int, ccd_number: int, numbers: np.ndarray) -> np.ndarray:
    """Ids of the sources `numbers` of one CCD of one visit, int64.

    Parameters
    ----------
    visit, ccd_number
        The visit number, and the CCD's number within its camera (below 1024).
    numbers
        Place of each source in the order (y, x), below `MAX_SOURCES`.

    Raises
    ------
    BadDataError
        If a number does not fit.
    """
    if not 0 <= ccd_number < 1 << CCD_BITS:
        raise BadDataError(f"CCD number {ccd_number} does not fit into a source id", key="ccd")
    numbers = np.asarray(numbers, dtype=np.int64)
    if numbers.size and not (numbers.min() >= 0 and numbers.max() < MAX_SOURCES):
        raise BadDataError(f"more than {MAX_SOURCES} sources on one CCD")
    base = (visit_key(visit) << (CCD_BITS + NUMBER_BITS)) | (ccd_number << NUMBER_BITS)
    return np.int64(base) + numbers


def split_source_id(source_id: int) -> tuple[int, int, int]:
    """(visit, CCD number, number) of a source id."""
    source_id = int(source_id)
    number = source_id & (MAX_SOURCES - 1)
    ccd = (source_id >> NUMBER_BITS) & ((1 << CCD_BITS) - 1)
    return visit_of_key(source_id >> (CCD_BITS + NUMBER_BITS)), ccd, number
