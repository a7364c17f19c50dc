"""The pixel basis and the guessed PSF: drawn exactly, normalised everywhere, kept to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf

from mpipipe.data.ccd_polynomial import n_terms
from mpipipe.data.guess_psf import GuessPsf
from mpipipe.data.moments import adaptive_moments
from mpipipe.data.pixel_psf import PixelPsf
from mpipipe.data.psf import KINDS, Psf

SHAPE = (1500, 2000)
RADIUS = 12.0
SIDE = 33


def gaussian(sigma: float, dx: float = 0.0, dy: float = 0.0, side: int = SIDE) -> np.ndarray:
    """A Gaussian summed over pixels, of sum 1."""
    edges = np.arange(-(side // 2), side // 2 + 2) - 0.5

    def along(shift: float) -> np.ndarray:
        return np.diff(0.5 * erf((edges - shift) / sigma / np.sqrt(2)))

    return np.outer(along(dy), along(dx))


def varying(order: int) -> PixelPsf:
    """A PSF whose size, shape and raw sum all change over the field."""
    coefficients = np.zeros((n_terms(order), SIDE, SIDE))
    coefficients[0] = gaussian(1.7)
    for t in range(1, len(coefficients)):
        coefficients[t] = 0.03 * (gaussian(1.9 + 0.1 * t) - 0.7 * gaussian(1.7))
    return PixelPsf(coefficients, 4.0, RADIUS, SHAPE, 100)


def guess() -> GuessPsf:
    return GuessPsf(3.0, 2.5, 0.4, SIDE, RADIUS, SHAPE)


def positions(n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    x, y = rng.uniform(-0.5, SHAPE[1] - 0.5, n), rng.uniform(-0.5, SHAPE[0] - 0.5, n)
    x[:3], y[:3] = [7.0, 7.5, 8.5], [9.5, 10.5, 3.0]  # halves go to the even pixel
    return x, y


@pytest.mark.parametrize("sigma", [1.2, 1.7, 2.6])
def test_a_shifted_star_is_the_star_drawn_elsewhere(sigma: float) -> None:
    """Shape, size and place of a sampled Gaussian survive any shift within a pixel."""
    psf = PixelPsf(gaussian(sigma)[None], 2.35 * sigma, RADIUS, SHAPE, 1)
    for dx, dy in ((0.5, -0.5), (0.3, 0.0), (-0.21, 0.47)):
        drawn, true = psf.image(100 + dx, 200 + dy), gaussian(sigma, dx, dy)
        assert np.abs(drawn - true).max() < 1e-3 * true.max()
        found, expected = adaptive_moments(np.stack([drawn, true]))
        np.testing.assert_allclose(found[:3], expected[:3], atol=5e-4 * expected[0])
        np.testing.assert_allclose(found[3:], expected[3:], atol=3e-4)


def test_moments_of_a_gaussian_are_its_own_and_the_pixels() -> None:
    stamps = np.stack([gaussian(s, 0.3, -0.2) for s in (1.0, 2.0, 3.0)])
    found = adaptive_moments(stamps)
    for row, sigma in zip(found, (1.0, 2.0, 3.0), strict=True):
        assert row[:2] == pytest.approx(sigma**2 + 1 / 12, rel=4e-3)
        assert row[2] == pytest.approx(0, abs=1e-3)
        assert row[3:] == pytest.approx([16.3, 15.8], abs=1e-3)


def test_moments_of_nothing_are_nan() -> None:
    assert np.isnan(adaptive_moments(np.zeros((2, 9, 9)))).all()
    assert np.isnan(adaptive_moments(np.full((1, 9, 9), np.nan))).all()


@pytest.mark.parametrize("psf", [varying(0), varying(1), varying(2), varying(3), guess()])
def test_sums_to_one_inside_the_calibration_radius_everywhere(psf: Psf) -> None:
    x, y = positions()
    half = psf.size // 2
    v, u = np.mgrid[-half : half + 1, -half : half + 1]
    for image, dx, dy in zip(psf.images(x, y), x - np.round(x), y - np.round(y), strict=True):
        inside = np.clip(RADIUS + 0.5 - np.hypot(u - dx, v - dy), 0, 1)
        assert (image * inside).sum() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("psf", [varying(2), guess()])
def test_kept_to_the_bit(psf: Psf) -> None:
    """What `arrays` gives makes the same model; few positions give the same bits as many."""
    arrays = psf.arrays()
    assert {a.dtype for a in arrays.values()} <= {np.dtype("f8"), np.dtype("i8")}
    again = KINDS[psf.kind].from_arrays(arrays)
    x, y = positions()
    images = psf.images(x, y)
    assert (again.images(x, y) == images).all()
    assert (psf.images(x[7:9], y[7:9]) == images[7:9]).all()
    assert (psf.image(x[3], y[3]) == images[3]).all()
    for name in ("fwhm", "radius", "shape", "n_stars", "size", "is_guess"):
        assert getattr(again, name) == getattr(psf, name)
    assert psf.images(x[:0], y[:0]).shape == (0, SIDE, SIDE)


def test_only_the_guess_is_one() -> None:
    assert guess().is_guess
    assert not varying(0).is_guess


def test_the_guess_has_the_size_and_shape_asked_for() -> None:
    psf = guess()
    assert psf.fwhm == pytest.approx(2.3548 * (3.0 * 2.5 - 0.16) ** 0.25, rel=1e-4)
    ixx, iyy, ixy = psf.moments(np.array([10.0]), np.array([20.0]))[0]
    assert ixx / iyy == pytest.approx(3.0 / 2.5, rel=0.02)
    assert ixy / iyy == pytest.approx(0.4 / 2.5, rel=0.05)


@pytest.mark.parametrize("kind", ["pixel", "guess"])
def test_other_arrays_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="not the arrays"):
        KINDS[kind].from_arrays({})
    wrong = dict(varying(1).arrays()) | {"coefficients": np.zeros((2, 8, 8))}
    with pytest.raises(ValueError, match=r"make no|not the arrays"):
        KINDS[kind].from_arrays(wrong)
