"""Sums in circles: areas, neighbours, missing pixels, edges."""

from __future__ import annotations

import numpy as np
import pytest

from mpipipe.data.guess_psf import GuessPsf
from mpipipe.stages.measurement_planes import MeasurementPlanes
from mpipipe.stages.psf_photometry import subtract_sources
from mpipipe.stages.seeing import default_seeing
from mpipipe.stages.sfm.apertures import _ALL_OF_PIXEL, _shares, circles

SHAPE = (120, 140)
RADII = np.array([2.6, 3.5, 7.0, 10.5])
PSF = GuessPsf(2.2, 1.9, 0.1, 33, 10.5, SHAPE)


def planes() -> MeasurementPlanes:
    return MeasurementPlanes(
        np.zeros(SHAPE, bool), np.full(SHAPE, 25.0, np.float32), default_seeing(3.5)
    )


def drawn(x: np.ndarray, y: np.ndarray, flux: np.ndarray) -> np.ndarray:
    return -subtract_sources(np.zeros(SHAPE, np.float32), PSF, x, y, flux)


def sums(
    residual: np.ndarray, which: MeasurementPlanes, x: np.ndarray, y: np.ndarray, flux: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return circles(residual, which, PSF.images(x, y), x, y, flux, RADII)


def shares(dx: np.ndarray, dy: np.ndarray, radius: float) -> np.ndarray:
    out = np.empty(len(dx), np.float32)
    _shares(dx.astype(np.float32), dy.astype(np.float32), radius, out)
    return out


@pytest.mark.parametrize("radius", [1.0, 2.6, 9.7])
def test_shares_of_pixels_add_up_to_the_circle(radius: float) -> None:
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(-12, 13), np.arange(-12, 13)))
    for dx, dy in ((0.0, 0.0), (0.3, -0.45), (0.5, 0.5)):
        distance = np.hypot(x - dx, y - dy)
        rim = abs(distance - radius) <= _ALL_OF_PIXEL
        total = (distance < radius - _ALL_OF_PIXEL).sum()
        total += shares((x - dx)[rim], (y - dy)[rim], radius).sum(dtype=float)
        assert total == pytest.approx(np.pi * radius**2, rel=3e-3)


@pytest.mark.parametrize("radius", [2.6, 8.0])
def test_shares_of_single_pixels_are_true(radius: float) -> None:
    fine = (np.arange(200) + 0.5) / 200 - 0.5
    angle, depth = np.meshgrid(np.linspace(0, 2 * np.pi, 41), (-0.6, -0.3, 0.0, 0.2, 0.5))
    dx = ((radius + depth) * np.cos(angle)).ravel()
    dy = ((radius + depth) * np.sin(angle)).ravel()
    for x, y, share in zip(dx, dy, shares(dx, dy, radius), strict=True):
        inside = (x + fine[None, :]) ** 2 + (y + fine[:, None]) ** 2 <= radius**2
        assert share == pytest.approx(inside.mean(), abs=6e-3)


def test_a_flat_image_gives_area_and_its_noise() -> None:
    at = np.array([60.3]), np.array([55.8])
    flux, error, is_cut = sums(np.full(SHAPE, 2.0, np.float32), planes(), *at, np.array([0.0]))
    np.testing.assert_allclose(flux[0], 2 * np.pi * RADII**2, rtol=2e-3)
    # Pixels on the rim count in part, so the noise is a little below that of the whole area.
    assert (error[0] < 5 * np.sqrt(np.pi) * RADII).all()
    assert (error[0] > 0.9 * 5 * np.sqrt(np.pi) * RADII).all()
    assert not is_cut.any()


def test_a_neighbour_does_not_count() -> None:
    x, y = np.array([60.3, 66.1]), np.array([55.8, 57.0])
    flux = np.array([1e4, 5e4])
    image = drawn(x, y, flux)
    residual = subtract_sources(image, PSF, x, y, flux)
    both, _, _ = sums(residual, planes(), x, y, flux)
    image = drawn(x[:1], y[:1], flux[:1])
    alone, _, _ = sums(image, planes(), x[:1], y[:1], np.array([np.nan]))
    np.testing.assert_allclose(both[0], alone[0], rtol=1e-4)
    assert both[1, -1] == pytest.approx(5e4, rel=3e-3)


def test_missing_pixels_count_as_the_model_says_and_too_many_cut() -> None:
    x, y, flux = np.array([60.3]), np.array([55.8]), np.array([1e4])
    residual = np.zeros(SHAPE, np.float32)
    whole, error, _ = sums(residual, planes(), x, y, flux)
    some = planes()
    some.unusable[56, 60:63] = True
    less, less_error, is_cut = sums(residual, some, x, y, flux)
    np.testing.assert_array_equal(less, whole)
    assert (less_error < error).all() and not is_cut.any()
    some.unusable[50:60, 50:70] = True
    _, _, is_cut = sums(residual, some, x, y, flux)
    assert is_cut[0, :2].all()


def test_circles_that_leave_the_image_are_cut() -> None:
    x, y = np.array([4.0, 139.0, 70.0]), np.array([60.0, 60.0, 118.2])
    _, _, is_cut = sums(np.zeros(SHAPE, np.float32), planes(), x, y, np.full(3, np.nan))
    assert is_cut[0].tolist() == [False, False, True, True]
    assert is_cut[1].all() and is_cut[2, 1:].all()
