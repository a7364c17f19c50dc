"""Sky cells: they do not overlap, hold no more than asked, and no halo lacks a row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpipipe.data.errors import ConfigError
from mpipipe.data.sky_cells import (
    FINEST,
    NOWHERE,
    SMALLEST_CELL,
    SkyCell,
    choose_cells,
    finest_cells,
    order_for,
    parents,
)

SECOND = 1.0 / 3600.0


def clumps(seed: int, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions in clumps of some arcsec to degrees, at the poles, RA 0, and corners of pixels."""
    rng = np.random.default_rng(seed)
    centres = [(0.0, 0.0), (359.9999, 41.8103), (45.0, 90.0), (10.0, -89.99), (180.0, -41.8103),
               (rng.uniform(0, 360), rng.uniform(-80, 80))]  # fmt: skip
    ra0, dec0 = centres[seed % len(centres)]
    width = 10.0 ** rng.uniform(-3.5, 0.5)
    dec = dec0 + rng.normal(0, width, n_rows)
    dec = np.where(dec > 90, 180 - dec, np.where(dec < -90, -180 - dec, dec))
    ra = (ra0 + rng.normal(0, width, n_rows) / np.maximum(np.cos(np.radians(dec)), 1e-6)) % 360.0
    return ra, dec


def apart(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Degrees between all pairs."""
    ra, dec = np.radians(ra), np.radians(dec)
    xyz = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
    chord = np.linalg.norm(xyz[:, np.newaxis] - xyz, axis=2)
    return np.degrees(2.0 * np.arcsin(np.minimum(chord / 2.0, 1.0)))


def cells_of(ra: np.ndarray, dec: np.ndarray, max_rows: int):
    pixels, counts = np.unique(parents(finest_cells(ra, dec), SMALLEST_CELL), return_counts=True)
    return choose_cells(pixels, counts, max_rows)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 300), st.integers(1, 100))
def test_every_row_is_in_one_cell_that_is_not_too_full(seed, n_rows, max_rows):
    ra, dec = clumps(seed, n_rows)
    cells = cells_of(ra, dec, max_rows)
    finest = finest_cells(ra, dec)
    owners = cells.owners(finest)
    assert np.all(owners != NOWHERE)
    for number in range(len(cells)):
        inside = SkyCell(int(cells.orders[number]), int(cells.pixels[number])).contains(ra, dec)
        assert np.array_equal(inside, owners == number)
        assert inside.sum() <= max_rows or cells.orders[number] == SMALLEST_CELL
        assert inside.any()
    assert np.array_equal(cells.preceding(finest), owners)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 150), st.floats(0.05, 50.0))
def test_a_halo_lacks_no_row_within_the_radius(seed, n_rows, arcsec):
    ra, dec = clumps(seed, n_rows)
    cells = cells_of(ra, dec, 5)
    finest = finest_cells(ra, dec)
    owners = cells.owners(finest)
    radius = arcsec * SECOND
    rows, around = cells.halos(finest, radius)
    held = set(zip(rows.tolist(), around.tolist(), strict=True))
    assert len(held) == len(rows)
    assert not any(owners[row] == cell for row, cell in held)
    for one, other in np.argwhere(apart(ra, dec) <= radius):
        if owners[one] != owners[other]:
            assert (one, owners[other]) in held


def test_cells_do_not_depend_on_the_order_of_pixels():
    ra, dec = clumps(5, 500)
    pixels, counts = np.unique(parents(finest_cells(ra, dec), SMALLEST_CELL), return_counts=True)
    mixed = np.random.default_rng(1).permutation(len(pixels))
    one, other = choose_cells(pixels, counts, 20), choose_cells(pixels[mixed], counts[mixed], 20)
    assert np.array_equal(one.orders, other.orders)
    assert np.array_equal(one.pixels, other.pixels)


def test_rows_without_a_position_are_nowhere():
    ra, dec = np.array([np.nan, 10.0, 10.0]), np.array([0.0, np.nan, 5.0])
    finest = finest_cells(ra, dec)
    assert finest.tolist()[:2] == [NOWHERE, NOWHERE] and finest[2] >= 0
    assert SkyCell(0, int(finest[2] >> (2 * FINEST))).contains(ra, dec).tolist() == [
        False,
        False,
        True,
    ]


def test_no_rows_no_cells():
    nothing = np.zeros(0, dtype=np.int64)
    cells = choose_cells(nothing, nothing, 10)
    assert len(cells) == 0
    assert cells.owners(np.array([5])).tolist() == [NOWHERE]


def test_a_radius_beyond_the_smallest_cells_is_refused():
    assert order_for(1.0 * SECOND) > SMALLEST_CELL
    with pytest.raises(ConfigError, match="beyond the smallest sky cells"):
        order_for(1.0)
