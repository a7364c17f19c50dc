"""Aperture correction and photometric calibration as values: units, errors, storing."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from mpipipe.data.aperture_correction import ApertureCorrection
from mpipipe.data.ccd_polynomial import CcdPolynomial, n_terms, terms
from mpipipe.data.photo_calib import ColourTerm, PhotoCalib

SHAPE = (2000, 2048)


def calibration(order: int = 1, term: ColourTerm | None = None) -> PhotoCalib:
    n = n_terms(order)
    rng = np.random.default_rng(5)
    root = 1e-3 * rng.normal(size=(n, n))
    surface = CcdPolynomial(
        np.array([31.23456789123456, 0.01, -0.02])[:n], root @ root.T + 1e-6 * np.eye(n), SHAPE
    )
    return PhotoCalib(surface, 0.003, "r", term, 57, 0.0123456789123, False)


def test_polynomial_error_is_that_of_its_coefficients() -> None:
    """The quoted error is the scatter of values drawn with the covariance."""
    rng = np.random.default_rng(1)
    root = 0.01 * rng.normal(size=(6, 6))
    covariance = root @ root.T
    polynomial = CcdPolynomial(np.arange(6.0), covariance, SHAPE)
    x, y = np.array([0.0, 2047.0, 300.0]), np.array([0.0, 1999.0, 1500.0])
    value, error = polynomial.at(x, y)
    drawn = rng.multivariate_normal(polynomial.coefficients, covariance, 20000)
    values = drawn @ terms(x, y, SHAPE, 2).T
    np.testing.assert_allclose(values.mean(axis=0), value, atol=1e-3)
    np.testing.assert_allclose(values.std(axis=0), error, rtol=0.03)


def test_aperture_correction_multiplies_and_adds_its_error() -> None:
    correction = ApertureCorrection(CcdPolynomial.constant(1.02, 0.01, SHAPE), 12, False)
    flux, error = correction.apply(np.array([1000.0, np.nan]), np.array([5.0, 1.0]), 3.0, 4.0)
    assert flux[0] == pytest.approx(1020.0)
    assert error[0] == pytest.approx(np.hypot(5.1, 10.0))
    assert np.isnan(flux[1])


@pytest.mark.parametrize("order", [0, 1, 2])
def test_aperture_correction_is_stored_to_the_bit(order: int) -> None:
    rng = np.random.default_rng(order)
    n = n_terms(order)
    root = rng.normal(size=(n, n))
    factors = CcdPolynomial(rng.normal(size=n), root @ root.T, SHAPE)
    correction = ApertureCorrection(factors, 5, True)
    again = ApertureCorrection.from_arrays(correction.arrays())
    assert (again.n_stars, again.is_simplified, again.shape) == (5, True, SHAPE)
    for one, other in zip(correction.at(3.3, 4.4), again.at(3.3, 4.4), strict=True):
        assert one == other


def test_arrays_of_something_else_are_refused() -> None:
    with pytest.raises(ValueError, match="no aperture correction"):
        ApertureCorrection.from_arrays({"coefficients": np.ones(1)})
    arrays = ApertureCorrection.unknown(0.02, SHAPE).arrays()
    with pytest.raises(ValueError, match="4 coefficients"):
        ApertureCorrection.from_arrays(arrays | {"coefficients": np.ones(4)})


def test_one_nanojansky_is_31_4_mag() -> None:
    """A source as bright as the zero point is 10^(0.4 (31.4 - zero point)) nJy per electron."""
    made = PhotoCalib(CcdPolynomial.constant(28.9, 0.002, SHAPE), 0.003, "g", None, 9, 0.01)
    flux, error = made.to_nanojansky(np.array([10.0]), np.array([0.0]), 5.0, 5.0)
    assert flux[0] == pytest.approx(100.0)
    assert error[0] == pytest.approx(100.0 * 0.002 * np.log(10) / 2.5)
    magnitude, error = made.magnitudes(np.array([100.0, -1.0]), np.array([1.0, 1.0]), 5.0, 5.0)
    assert magnitude[0] == pytest.approx(23.9)
    assert error[0] == pytest.approx(np.hypot(0.0108574, 0.002), rel=1e-4)
    assert np.isnan(magnitude[1]) and np.isnan(error[1])


def test_fluxes_and_magnitudes_agree_over_a_gradient() -> None:
    made = calibration()
    x, y = np.array([0.0, 2047.0]), np.array([1999.0, 0.0])
    flux = np.array([500.0, 700.0])
    nanojansky, _ = made.to_nanojansky(flux, np.sqrt(flux), x, y)
    magnitude, _ = made.magnitudes(flux, np.sqrt(flux), x, y)
    np.testing.assert_allclose(31.4 - 2.5 * np.log10(nanojansky), magnitude, rtol=1e-12)
    assert made.gradient == pytest.approx((0.02, -0.04))
    assert magnitude[1] - magnitude[0] == pytest.approx(0.06 - 2.5 * np.log10(7 / 5))


def test_colour_term_gives_the_catalogue_s_magnitudes() -> None:
    made = calibration(term=ColourTerm(0.05, "g", "i", 1.0))
    flux = np.full(3, 1000.0)
    at = (flux, np.ones(3), np.zeros(3), np.zeros(3))
    plain, _ = made.magnitudes(*at)
    coloured, _ = made.magnitudes(*at, colour=np.array([1.0, 3.0, np.nan]))
    np.testing.assert_allclose(coloured - plain, [0.0, 0.1, 0.0], atol=1e-12)


NUMBERS = st.floats(-99, 99, allow_subnormal=False)


@given(
    st.sampled_from([0, 1]),
    st.lists(NUMBERS, min_size=6, max_size=6),
    st.booleans(),
    st.floats(1e-9, 3.0),
)
def test_header_cards_give_back_the_same_bits(
    order: int, numbers: list[float], fitted: bool, error: float
) -> None:
    """Through a real FITS header: what is read is what was calibrated with."""
    n = n_terms(order)
    covariance = np.outer(numbers[:n], numbers[:n]) * error
    term = ColourTerm(numbers[3], "g", "gaia_g", numbers[4], error, fitted)
    surface = CcdPolynomial(np.array(numbers[:n]), covariance, SHAPE)
    made = PhotoCalib(surface, error, "r", term if fitted else None, 12, abs(numbers[5]), fitted)
    header = fits.Header([fits.Card(*card) for card in made.cards()])
    stored = fits.Header.fromstring(header.tostring())
    again = PhotoCalib.from_cards(stored, SHAPE)
    assert again is not None
    np.testing.assert_array_equal(again.zero_points.coefficients, made.zero_points.coefficients)
    np.testing.assert_array_equal(again.zero_points.covariance, made.zero_points.covariance)
    for name in ("systematic", "band", "colour_term", "n_stars", "scatter", "is_relative"):
        assert getattr(again, name) == getattr(made, name)
    assert all(len(str(card)) == 80 for card in header.cards)


def test_a_header_without_zero_point_has_none() -> None:
    assert PhotoCalib.from_cards(fits.Header(), SHAPE) is None


@pytest.mark.parametrize("spoil", [{"MAGCOV00": "x"}, {"MAGORDER": 2}, {"MAGBAND": None}])
def test_spoilt_cards_are_refused(spoil: dict[str, object]) -> None:
    cards: dict[str, object] = {key: value for key, value, _ in calibration().cards()}
    cards |= spoil
    if cards["MAGBAND"] is None:
        del cards["MAGBAND"]
    with pytest.raises(ValueError, match="no photometric calibration"):
        PhotoCalib.from_cards(cards, SHAPE)
