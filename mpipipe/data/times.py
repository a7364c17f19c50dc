"""Times of exposures: header dates to MJD (TAI), without the cost of a time library."""

from __future__ import annotations

import bisect
import datetime
import math
import re

_ISO = re.compile(
    r"\s*(\d{4})-(\d{1,2})-(\d{1,2})(?:[T ](\d{1,2}):(\d{1,2})(?::(\d{1,2}(?:\.\d*)?))?)?\s*Z?\s*\Z"
)
_MJD_OF_ORDINAL_0 = -678576
"""MJD of the day before 1 January of year 1 (date.toordinal() = 0)."""

# TAI - UTC in seconds from the day on (IERS Bulletin C).
_LEAPS = (
    (41317, 10), (41499, 11), (41683, 12), (42048, 13), (42413, 14), (42778, 15), (43144, 16),
    (43509, 17), (43874, 18), (44239, 19), (44786, 20), (45151, 21), (45516, 22), (46247, 23),
    (47161, 24), (47892, 25), (48257, 26), (48804, 27), (49169, 28), (49534, 29), (50083, 30),
    (50630, 31), (51179, 32), (53736, 33), (54832, 34), (56109, 35), (57204, 36), (57754, 37),
)  # fmt: skip
_LEAP_DAYS = [day for day, _ in _LEAPS]


def tai_minus_utc(mjd_utc: float) -> float:
    """Seconds by which TAI is ahead of UTC; before 1972, when they drifted, 10."""
    index = bisect.bisect_right(_LEAP_DAYS, mjd_utc) - 1
    return float(_LEAPS[max(index, 0)][1])


def utc_to_tai(mjd_utc: float) -> float:
    """MJD (UTC) to MJD (TAI); NaN stays NaN."""
    if math.isnan(mjd_utc):
        return mjd_utc
    return mjd_utc + tai_minus_utc(mjd_utc) / 86400.0


def mjd_of_date(text: str) -> tuple[float, bool]:
    """MJD of an ISO 8601 date, in the time scale it is written in.

    Returns
    -------
    mjd, has_time
        NaN if `text` is no date; `has_time` tells whether it has a time of day.
    """
    match = _ISO.match(text)
    if match is None:
        return math.nan, False
    year, month, day, hour, minute, second = match.groups()
    try:
        ordinal = datetime.date(int(year), int(month), int(day)).toordinal()
    except ValueError:
        return math.nan, False
    mjd = float(ordinal + _MJD_OF_ORDINAL_0)
    if hour is None:
        return mjd, False
    seconds = 3600 * int(hour) + 60 * int(minute) + float(second or 0.0)
    return mjd + seconds / 86400.0, True


def date_digits(mjd: float) -> int:
    """An MJD as the number YYYYMMDDhhmmss (seconds cut off), e.g. 20250602041014."""
    # The nudge keeps a whole second whole through the rounding of MJD (about a microsecond).
    seconds = math.floor(mjd * 86400.0 + 1e-4)
    day, of_day = divmod(seconds, 86400)
    date = datetime.date.fromordinal(day - _MJD_OF_ORDINAL_0)
    clock = of_day // 3600 * 10000 + of_day // 60 % 60 * 100 + of_day % 60
    return ((date.year * 100 + date.month) * 100 + date.day) * 1_000_000 + clock
