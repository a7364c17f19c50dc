"""Background surfaces: exact where a spline must be, the same by every way of asking."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import CubicSpline

from mpipipe.data.background import Background, cell_edges


@given(length=st.integers(1, 5000), size=st.integers(1, 600))
def test_cells_partition_the_axis(length: int, size: int) -> None:
    edges = cell_edges(length, size)
    assert edges[0] == 0 and edges[-1] == length
    widths = np.diff(edges)
    assert widths.min() >= 1 or length < size
    assert widths.max() - widths.min() <= 1


def make(shape: tuple[int, int], cells: tuple[int, int], seed: int = 0) -> Background:
    rng = np.random.default_rng(seed)
    return Background(rng.normal(1000, 20, cells), np.full(cells, 30.0), shape)


@settings(max_examples=25, deadline=None)
@given(ny=st.integers(8, 150), nx=st.integers(8, 150), my=st.integers(1, 6), mx=st.integers(1, 6))
def test_image_and_points_agree(ny: int, nx: int, my: int, mx: int) -> None:
    background = make((ny, nx), (my, mx))
    image = background.image()
    y, x = np.mgrid[:ny, :nx]
    assert image.shape == (ny, nx) and image.dtype == np.float32
    np.testing.assert_allclose(image, background.at(y, x), rtol=2e-6)
    work = image.copy()
    background.subtract_from(work)
    assert np.abs(work).max() <= 1e-3


def test_a_tilted_plane_comes_out_exactly_to_the_corners() -> None:
    y, x = make((300, 410), (5, 7)).nodes()
    plane = Background(100 + 0.3 * y[:, None] - 0.2 * x[None, :], np.ones((5, 7)), (300, 410))
    expected = 100 + 0.3 * np.arange(300)[:, None] - 0.2 * np.arange(410)[None, :]
    np.testing.assert_allclose(plane.image(), expected, atol=1e-3)


def test_between_nodes_it_is_the_natural_spline() -> None:
    background = make((400, 520), (6, 8))
    y, x = background.nodes()
    rows = CubicSpline(y, background.values, axis=0, bc_type="natural")(np.arange(400))
    both = CubicSpline(x, rows, axis=1, bc_type="natural")(np.arange(520))
    inside = (slice(int(y[0]) + 1, int(y[-1])), slice(int(x[0]) + 1, int(x[-1])))
    np.testing.assert_allclose(background.image()[inside], both[inside], rtol=1e-6)


def test_sums_are_sums_of_surfaces() -> None:
    one, other = make((200, 240), (4, 5), 1), make((200, 240), (4, 5), 2)
    np.testing.assert_allclose((one + other).image(), one.image() + other.image(), rtol=1e-6)
    with_constant = one + Background.constant(7.0, (200, 240))
    np.testing.assert_allclose(with_constant.image(), one.image() + 7, rtol=1e-6)
    assert (one + other).rms == pytest.approx(30 * np.sqrt(2))


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="background of"):
        make((20, 30), (2, 2)).subtract_from(np.zeros((30, 20), np.float32))
    with pytest.raises(ValueError, match="backgrounds of images"):
        make((20, 30), (2, 2)) + make((30, 20), (2, 2))
