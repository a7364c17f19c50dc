"""Source ids: 63 bits that follow from the content (visit, CCD, number) and lead back to it.

Layout, from the highest bit: 36 bits visit key, 10 bits CCD number, 17 bits number in the CCD.
The visit key is the visit number itself below 2**34. Larger numbers begin with a date (2000 to
2099) in all cameras known here, and are packed by it, so that two visits never share a key:

* 14 digits YYYYMMDDNNNNNN (a time hhmmss or a counter): 2**34 + 10**6 x days since 2000 + NNNNNN;
* 13 digits YYYYMMDDNNNNN (Rubin's): behind those, 10**5 x days since 2000 + NNNNN.
"""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np

from mpipipe.data.errors import BadDataError

NUMBER_BITS = 17
CCD_BITS = 10
VISIT_BITS = 36
MAX_SOURCES = 1 << NUMBER_BITS
"""Sources that one CCD of one visit can have."""

_PLAIN = 1 << 34
_FIRST_DAY = date(2000, 1, 1)
_N_DAYS = (date(2100, 1, 1) - _FIRST_DAY).days
_LONG, _SHORT = 10**6, 10**5
"""Visit numbers that a day can have, with 14 and with 13 digits."""


def visit_key(visit: int) -> int:
    """The 36-bit key of a visit number: one to one, see the module's description.

    Raises
    ------
    BadDataError
        If the number is negative, or is 2**34 or more and begins with no date.
    """
    if 0 <= visit < _PLAIN:
        return visit
    for n_digits, per_day, base in ((14, _LONG, _PLAIN), (13, _SHORT, _PLAIN + _N_DAYS * _LONG)):
        day, number = divmod(visit, per_day)
        if len(str(visit)) == n_digits and (n_days := _days(day)) >= 0:
            return base + n_days * per_day + number
    raise BadDataError(
        f"visit number {visit} does not fit into a source id",
        key="visit",
        way_out="number visits below 17,179,869,184, or as YYYYMMDDhhmmss or YYYYMMDDNNNNN",
    )


def _days(day: int) -> int:
    """Days from 2000 to the date YYYYMMDD; -1 if it is none, or outside 2000 to 2099."""
    try:
        n_days = (date(day // 10000, day // 100 % 100, day % 100) - _FIRST_DAY).days
    except ValueError:
        return -1
    return n_days if 0 <= n_days < _N_DAYS else -1


def visit_of_key(key: int) -> int:
    """The visit number that has this key."""
    if key < _PLAIN:
        return key
    rest, per_day = key - _PLAIN, _LONG
    if rest >= _N_DAYS * _LONG:
        rest, per_day = rest - _N_DAYS * _LONG, _SHORT
    n_days, number = divmod(rest, per_day)
    return int(f"{_FIRST_DAY + timedelta(days=n_days):%Y%m%d}") * per_day + number


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
