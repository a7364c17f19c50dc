"""FITS sections: what is written is read back, and slices mean the same pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpipipe.data.errors import BadDataError
from mpipipe.data.sections import Section


@st.composite
def sections(draw: st.DrawFn, limit: int = 200) -> Section:
    x0, y0 = draw(st.integers(0, limit)), draw(st.integers(0, limit))
    nx, ny = draw(st.integers(2, limit)), draw(st.integers(2, limit))
    return Section(x0, x0 + nx, y0, y0 + ny, draw(st.booleans()), draw(st.booleans()))


@given(sections())
def test_text_round_trip(section: Section) -> None:
    assert Section.parse(str(section)) == section


@given(sections(), st.sampled_from(["", " ", "   "]))
def test_blanks_do_not_matter(section: Section, blank: str) -> None:
    """SAAO and LSST simulator headers pad their numbers."""
    padded = str(section)
    for mark in "[]:,":
        padded = padded.replace(mark, f"{blank}{mark}{blank}")
    assert Section.parse(padded) == section


@given(st.text(max_size=30))
def test_other_text_is_bad_data(text: str) -> None:
    try:
        section = Section.parse(text)
    except BadDataError:
        return
    assert min(section.shape) >= 1


@pytest.mark.parametrize("value", [None, 5, 1.5, "UNKNOWN", "[0:10,1:10]", "[1:10]", "[1:2:3,4:5]"])
def test_garbage_is_bad_data(value: object) -> None:
    with pytest.raises(BadDataError):
        Section.parse(value)  # type: ignore[arg-type]


@given(sections(limit=30))
def test_cut_is_the_fits_meaning(section: Section) -> None:
    """Cutting ``[a:b,c:d]`` starts at pixel (a, c) and ends at (b, d), counted from 1."""
    image = np.arange(80 * 80).reshape(80, 80)
    cut = section.cut(image)
    xs, ys = str(section)[1:-1].split(",")
    (xa, xb), (ya, yb) = (map(int, part.split(":")) for part in (xs, ys))
    assert cut.shape == section.shape
    assert cut[0, 0] == image[ya - 1, xa - 1]
    assert cut[-1, -1] == image[yb - 1, xb - 1]


@given(sections(), st.integers(-100, 100), st.integers(-100, 100))
def test_shift_keeps_the_shape(section: Section, dx: int, dy: int) -> None:
    moved = section.shifted(dx, dy)
    assert moved.shape == section.shape
    assert moved.shifted(-dx, -dy) == section


@given(sections(), st.integers(1, 4), st.integers(1, 4))
def test_binning_covers_all_pixels(section: Section, bx: int, by: int) -> None:
    binned = section.binned(bx, by)
    assert binned.x0 * bx <= section.x0 and binned.x1 * bx >= section.x1
    assert binned.y0 * by <= section.y0 and binned.y1 * by >= section.y1
