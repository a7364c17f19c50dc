"""The shapelet PSF: its functions, its images, and its fit against a known PSF."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpipipe.data.circle import sum_inside
from mpipipe.data.errors import BadDataError
from mpipipe.data.moments import adaptive_moments
from mpipipe.data.shapelet_psf import ShapeletPsf, axis_integrals, n_functions
from mpipipe.stages.ic.psf_stars import PsfFit, PsfOptions, PsfStars
from mpipipe.stages.ic.shapelet_psf_fit import fit_shapelet
from tests.stages.ic.toy_psf import FWHM, SHAPE, toy_stars, true_image

GRID_X, GRID_Y = (
    a.ravel() for a in np.meshgrid(np.linspace(120, 1080, 5), np.linspace(100, 900, 5))
)


@pytest.fixture(scope="module")
def fitted() -> PsfFit:
    return fit_shapelet(toy_stars(80), PsfOptions())


def shape_errors(psf: ShapeletPsf) -> tuple[np.ndarray, np.ndarray]:
    """dT/T and |de| over a grid, against the true PSF of stars in the middle of their pixels."""
    half = psf.size // 2
    x, y = np.round(GRID_X), np.round(GRID_Y)
    true = adaptive_moments(np.array([true_image(*xy, half) for xy in zip(x, y, strict=True)]))
    ours = psf.moments(x, y)
    size, true_size = ours[:, 0] + ours[:, 1], true[:, 0] + true[:, 1]
    de1 = (ours[:, 0] - ours[:, 1]) / size - (true[:, 0] - true[:, 1]) / true_size
    de2 = 2 * ours[:, 2] / size - 2 * true[:, 2] / true_size
    return size / true_size - 1, np.hypot(de1, de2)


@settings(max_examples=40)
@given(offset=st.floats(-0.5, 0.5), width=st.floats(0.5, 4.0), order=st.integers(0, 8))
def test_functions_are_integrated_over_pixels(offset: float, width: float, order: int) -> None:
    """The closed form of the pixel integral agrees with quadrature of the Hermite functions."""
    size, orders = 15, np.array([order])
    values, slopes = np.empty((1, order + 1, size)), np.empty((1, order + 1, size))
    axis_integrals(offset, np.array([width]), orders, values, slopes)
    nodes, weights = np.polynomial.legendre.leggauss(24)
    t = (np.arange(size)[:, None] - size // 2 + 0.5 * nodes - offset) / width
    before, psi = np.zeros_like(t), np.pi**-0.25 * np.exp(-0.5 * t * t)
    for n in range(order + 1):
        expected = psi @ (0.5 * weights) / np.sqrt(width)
        np.testing.assert_allclose(values[0, n], expected, atol=2e-9)
        before, psi = psi, np.sqrt(2 / (n + 1)) * t * psi - np.sqrt(n / (n + 1)) * before


def test_slopes_are_those_of_the_integrals() -> None:
    """Positions are fitted with them."""
    widths, orders = np.array([0.8, 2.5]), np.array([6, 3])
    tables = [np.empty((2, 7, 21)) for _ in range(4)]
    axis_integrals(0.2, widths, orders, tables[0], tables[1])
    axis_integrals(0.2 + 1e-6, widths, orders, tables[2], tables[3])
    for series, order in enumerate(orders):
        step = (tables[2] - tables[0])[series, : order + 1] / 1e-6
        np.testing.assert_allclose(step, tables[1][series, : order + 1], atol=3e-6)


@settings(max_examples=40)
@given(x=st.floats(0, SHAPE[1] - 1), y=st.floats(0, SHAPE[0] - 1))
def test_images_sum_to_one_inside_the_radius(fitted: PsfFit, x: float, y: float) -> None:
    image = fitted.psf.image(x, y)
    assert sum_inside(image, x - round(x), y - round(y), fitted.psf.radius) == pytest.approx(1.0)


def test_wherever_in_its_pixel_a_star_stands_it_is_drawn_right() -> None:
    """Without noise, images at any part of a pixel are those of the integrated profile."""
    psf = fit_shapelet(toy_stars(60, noise=0.0), PsfOptions((2,))).psf
    half = psf.size // 2
    for x, y in ((400.0, 300.0), (400.5, 300.25), (399.7, 299.6)):
        expected = true_image(x, y, half)
        expected /= sum_inside(expected, x - round(x), y - round(y), psf.radius)
        error = psf.image(x, y) - expected
        assert np.abs(error).max() < 2e-3 * expected.max()


def test_the_field_is_followed(fitted: PsfFit) -> None:
    """80 stars: within the targets for fewer than 300."""
    size, ellipticity = shape_errors(fitted.psf)
    fwhm = 2.355 * fitted.psf.moments(*_middle())[0, 0] ** 0.5
    assert fitted.order == 2 and fitted.used.sum() >= 76
    assert abs(size.mean()) < 1e-3 and np.sqrt(np.mean(size**2)) < 2e-3
    assert np.sqrt(np.mean(ellipticity**2)) < 2e-3
    assert fitted.psf.fwhm == pytest.approx(fwhm, 0.03)
    assert fitted.psf.n_stars == fitted.used.sum() and not fitted.psf.is_guess


def _middle() -> tuple[np.ndarray, np.ndarray]:
    return np.array([SHAPE[1] // 2]), np.array([SHAPE[0] // 2])


def test_a_constant_psf_is_held_by_every_order() -> None:
    """Terms that are not needed stay small: order 2 is hardly worse than what is true."""
    stars = toy_stars(40, seed=3)
    dx, dy = stars.x - stars.middle_x, stars.y - stars.middle_y
    places = zip(600.0 + dx, 500.0 + dy, strict=True)
    same = np.array([true_image(x, y, stars.half) for x, y in places])
    noise = np.random.default_rng(5).standard_normal(same.shape)
    light = stars.flux[:, None, None] * same
    stars = replace(stars, stamps=light + np.sqrt(light + 300.0) * noise)
    moments = fit_shapelet(stars, PsfOptions((0, 1, 2))).psf.moments(GRID_X, GRID_Y)
    size = moments[:, 0] + moments[:, 1]
    assert np.std(size / size.mean()) < 5e-3


@pytest.mark.parametrize(("n", "orders"), [(1, (0,)), (2, (0,)), (5, (0, 1)), (12, (0, 1))])
def test_few_stars(n: int, orders: tuple[int, ...]) -> None:
    stars = toy_stars(80).take(np.arange(n))
    found = fit_shapelet(stars, PsfOptions(orders))
    size, ellipticity = shape_errors(found.psf)
    assert found.used.all() and found.order in orders
    assert np.abs(size).max() < 0.12 and ellipticity.max() < 0.12


def test_bad_pixels_and_nan_do_not_count(fitted: PsfFit) -> None:
    """A model made of stars with holes, neighbours and NaN is as good as without."""
    stars = toy_stars(80)
    rng = np.random.default_rng(9)
    stamps, bad = stars.stamps.copy(), rng.random(stars.stamps.shape) < 0.03
    stamps[bad] = 1e6
    stamps[3, 4, 5] = np.nan
    for k in range(0, 80, 4):
        stamps[k, :6, :6] += 0.05 * stars.flux[k]
    damaged = fit_shapelet(replace(stars, stamps=stamps, bad=bad), PsfOptions())
    size, ellipticity = shape_errors(damaged.psf)
    assert np.sqrt(np.mean(size**2)) < 2.5e-3 and np.sqrt(np.mean(ellipticity**2)) < 2.5e-3


def test_what_is_no_star_is_left_out() -> None:
    stars = toy_stars(60)
    stamps = stars.stamps.copy()
    stamps[7] = np.roll(stamps[7], 3, axis=1) + np.roll(stamps[7], -3, axis=1)
    stamps[20] = 0.0
    used = fit_shapelet(replace(stars, stamps=stamps), PsfOptions()).used
    assert not used[7] and not used[20] and used.sum() >= 55


def test_nothing_to_fit_is_told() -> None:
    stars = toy_stars(3)
    empty = replace(stars, stamps=np.zeros_like(stars.stamps))
    with pytest.raises(BadDataError, match="none of the 3 stars"):
        fit_shapelet(empty, PsfOptions((0,)))
    with pytest.raises(BadDataError):
        fit_shapelet(replace(stars, bad=np.ones_like(stars.bad)), PsfOptions((0,)))


def test_same_stars_same_bits(fitted: PsfFit) -> None:
    again = fit_shapelet(toy_stars(80), PsfOptions())
    np.testing.assert_array_equal(again.psf.coefficients, fitted.psf.coefficients)


def test_of_many_stars_the_brightest_count() -> None:
    stars = toy_stars(30)
    many = stars.take(np.resize(np.arange(30), 1100))
    found = fit_shapelet(many, PsfOptions((1,)))
    assert found.used.shape == (1100,) and 900 <= found.used.sum() <= 1000
    assert many.flux[found.used].min() >= np.sort(many.flux)[99]


@pytest.mark.parametrize("name", ["coefficients", "widths", "orders", "shape", "radius"])
def test_other_arrays_make_no_model(fitted: PsfFit, name: str) -> None:
    arrays = fitted.psf.arrays()
    for wrong in (None, -arrays[name].astype(float), arrays[name][:-1]):
        changed = {key: value for key, value in arrays.items() if key != name}
        if wrong is not None:
            changed[name] = wrong
        if name == "coefficients" and wrong is not None and len(wrong) == len(arrays[name]):
            continue  # negative coefficients are coefficients
        with pytest.raises(ValueError):
            ShapeletPsf.from_arrays(changed)


def test_far_from_sampled_stars() -> None:
    """FWHM below 2 pixels and the seeing misjudged: a model all the same."""
    stars: PsfStars = replace(toy_stars(30), fwhm=0.6 * FWHM)
    psf = fit_shapelet(stars, PsfOptions((1,))).psf
    assert psf.moments(*_middle())[0, 0] == pytest.approx(3.0, rel=0.5)
    assert n_functions(psf.orders) == psf.coefficients.shape[1]
