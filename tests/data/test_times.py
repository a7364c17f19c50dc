"""Dates and leap seconds against astropy, which knows them from the IERS."""

from __future__ import annotations

import math
from datetime import datetime

import pytest
from astropy.time import Time
from hypothesis import given
from hypothesis import strategies as st

from mpipipe.data.times import date_digits, mjd_of_date, utc_to_tai


@given(st.floats(41317.0, 61500.0).filter(lambda mjd: mjd % 1 < 0.99))
def test_utc_to_tai(mjd: float) -> None:
    assert utc_to_tai(mjd) == pytest.approx(Time(mjd, format="mjd", scale="utc").tai.mjd, abs=2e-5)


@pytest.mark.parametrize("day", [41499, 45151, 50083, 54832, 57204, 57754])
def test_leap_seconds_begin_on_their_day(day: int) -> None:
    for mjd in (day - 0.75, day + 0.25):
        expected = Time(mjd, format="mjd", scale="utc").tai.mjd
        # astropy stretches the day of the leap second; half a second is far below the leap.
        assert utc_to_tai(mjd) == pytest.approx(expected, abs=0.5 / 86400)


@given(st.datetimes(min_value=datetime(1980, 1, 1), max_value=datetime(2099, 1, 1)))
def test_dates(when: datetime) -> None:
    text = when.isoformat()
    mjd, has_time = mjd_of_date(text)
    assert has_time
    assert mjd == pytest.approx(Time(text, scale="tai").mjd, abs=1e-9)


@pytest.mark.parametrize("text", ["", "02/06/25", "2025-13-01", "2025-02-30T00:00:00", "now"])
def test_no_date_is_nan(text: str) -> None:
    assert math.isnan(mjd_of_date(text)[0])


def test_bare_date() -> None:
    assert mjd_of_date("2013-06-27") == (56470.0, False)


def test_date_as_number_reads_like_the_date() -> None:
    """The visit number of a camera without one."""
    for text, number in (
        ("2025-06-02T04:10:14.288", 20250602041014),
        ("2025-06-02T04:10:14", 20250602041014),
        ("2099-12-31T23:59:59.9", 20991231235959),
    ):
        assert date_digits(mjd_of_date(text)[0]) == number
