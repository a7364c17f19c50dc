"""Header cards: whatever astropy writes is read back the same, and nothing crashes."""

from __future__ import annotations

import math
import warnings

import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from mpipipe.store.cards import BLOCK, Header, end_of_header, parse_value

KEYS = st.from_regex(r"[A-Z][A-Z0-9_-]{0,7}", fullmatch=True).filter(
    lambda key: key not in ("COMMENT", "HISTORY", "END", "CONTINUE", "HIERARCH")
)
VALUES = st.one_of(
    st.booleans(),
    st.integers(-(10**15), 10**15),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60),
)


@given(st.dictionaries(KEYS, VALUES, max_size=8))
def test_what_astropy_writes_is_read_back(content: dict[str, object]) -> None:
    written = fits.Header()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for key, value in content.items():
            written[key] = value
        expected = {key: written[key] for key in written if key not in ("COMMENT", "HISTORY")}
        header = Header(written.tostring().encode("latin-1"))
    assert set(header) == set(expected)
    for key, value in expected.items():
        if isinstance(value, str):
            # FITS does not keep trailing blanks; astropy does until the header is read again.
            value = value.rstrip()
        if isinstance(value, float):
            assert header[key] == pytest.approx(value, rel=1e-12)
        else:
            assert (header[key] or "") == (value or "") and type(header[key]) is type(value)


@given(st.binary(max_size=4 * 80))
def test_any_bytes_make_a_header(block: bytes) -> None:
    header = Header(block)
    for key in header:
        value = header[key]
        assert value is None or isinstance(value, (bool, int, float, str))
        assert isinstance(header.comment(key), str)


@pytest.mark.parametrize(
    ("text", "value", "comment"),
    [
        ("                  42 / answer", 42, "answer"),
        ("              1.5D+03", 1500.0, ""),
        ("                    T / yes", True, "yes"),
        (" 'it''s / not a comment' / a comment", "it's / not a comment", "a comment"),
        (" 'never closed", "never closed", ""),
        (" '  leading kept'", "  leading kept", ""),
        ("                     / nothing", None, "nothing"),
        (" 1.2.3 / garbage", "1.2.3", "garbage"),
        (" " + "9" * 60, "9" * 60, ""),
    ],
)
def test_values(text: str, value: object, comment: str) -> None:
    assert parse_value(text) == (value, comment)


def test_first_card_of_a_key_counts() -> None:
    assert Header(b"A       = 1".ljust(80) + b"A       = 2".ljust(80))["A"] == 1


def test_long_string_and_hierarch() -> None:
    written = fits.Header()
    written["LONG"] = "x" * 150 + "/'" + "y" * 50
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written["HIERARCH ESO DET GAIN"] = 1.25
    header = Header(written.tostring().encode())
    assert header["LONG"] == written["LONG"]
    assert header["ESO DET GAIN"] == 1.25


def test_nan_is_kept_as_text() -> None:
    """Some writers put a bare NaN, which FITS has not; it must not become a number."""
    value = Header(b"GAIN    =                  NaN".ljust(80))["GAIN"]
    assert value == "NaN" and not isinstance(value, float)
    assert not math.isnan(len(str(value)))


@given(st.integers(0, 200), st.booleans())
def test_end_of_header(n_cards: int, with_decoy: bool) -> None:
    """END counts only at the start of a card."""
    decoy = b"A       = 'END     '".ljust(80) if with_decoy else b""
    block = decoy + b"B       = 1".ljust(80) * n_cards + b"END".ljust(80)
    size = end_of_header(block)
    assert size % BLOCK == 0 and 0 <= size - len(block) < BLOCK
    assert end_of_header(block[:-80]) == -1
