"""Source ids lead back to visit, CCD and number, and never collide."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpipipe.data.errors import BadDataError
from mpipipe.data.ids import MAX_SOURCES, source_ids, split_source_id, visit_key

PLAIN = st.integers(0, 2**34 - 1)
DAYS = st.dates(date(2000, 1, 1), date(2099, 12, 31)).map(lambda day: f"{day:%Y%m%d}")
MOMENTS = st.tuples(DAYS, st.integers(0, 999_999)).map(lambda pair: int(f"{pair[0]}{pair[1]:06d}"))
NIGHTS = st.tuples(DAYS, st.integers(0, 99_999)).map(lambda pair: int(f"{pair[0]}{pair[1]:05d}"))
VISITS = st.one_of(PLAIN, MOMENTS, NIGHTS)


@given(visit=VISITS, ccd=st.integers(0, 1023), number=st.integers(0, MAX_SOURCES - 1))
def test_an_id_leads_back(visit: int, ccd: int, number: int) -> None:
    ids = source_ids(visit, ccd, np.array([number]))
    assert ids.dtype == np.int64 and ids[0] >= 0
    assert split_source_id(ids[0]) == (visit, ccd, number)


@given(one=VISITS, other=VISITS)
def test_no_two_visits_share_a_key(one: int, other: int) -> None:
    assert (visit_key(one) == visit_key(other)) == (one == other)
    assert 0 <= visit_key(one) < 2**36


@pytest.mark.parametrize(
    "visit",
    [-1, 2**34, 20250631041014, 20251302041014, 19991231235959, 21000101000000, 2**62],
    ids=["negative", "large", "no such day", "no such month", "early", "late", "huge"],
)
def test_what_is_no_date_is_refused(visit: int) -> None:
    with pytest.raises(BadDataError, match="does not fit"):
        visit_key(visit)


def test_too_many_sources_or_ccds_are_refused() -> None:
    with pytest.raises(BadDataError):
        source_ids(1, 1024, np.array([0]))
    with pytest.raises(BadDataError):
        source_ids(1, 0, np.array([MAX_SOURCES]))
    assert source_ids(1, 0, np.empty(0, int)).shape == (0,)


def test_ids_rise_with_the_number() -> None:
    ids = source_ids(20250602041014, 5, np.arange(1000))
    assert (np.diff(ids) == 1).all()
