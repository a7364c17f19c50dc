"""PSF photometry: exact without noise, unbiased with true errors in noise, safe on bad pixels."""

from __future__ import annotations

import numpy as np
import pytest

from mpipipe.data.guess_psf import GuessPsf
from mpipipe.stages.psf_photometry import Pixels, blended_photometry, psf_photometry

SHAPE = (600, 640)
RADIUS = 8.0
SKY = 400.0


def psf() -> GuessPsf:
    return GuessPsf(3.0, 2.6, 0.3, 27, 12.0, SHAPE)


def grid(step: int = 30, seed: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Positions `step` pixels apart, each anywhere in its pixel."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[20 : SHAPE[0] - 20 : step, 20 : SHAPE[1] - 20 : step].astype(float)
    return x.ravel() + rng.uniform(-0.5, 0.5, x.size), y.ravel() + rng.uniform(-0.5, 0.5, x.size)


def scene(x: np.ndarray, y: np.ndarray, flux: np.ndarray, seed: int | None = None) -> Pixels:
    """Point sources on a subtracted sky; noise with a seed, none without."""
    light = np.zeros(SHAPE)
    model, half = psf(), psf().size // 2
    for image, px, py, f in zip(model.images(x, y), x, y, flux, strict=True):
        i, j = int(np.round(px)) - half, int(np.round(py)) - half
        rows = slice(max(j, 0), j + model.size), slice(max(i, 0), i + model.size)
        part = light[rows]
        part += f * image[max(-j, 0) :, max(-i, 0) :][: part.shape[0], : part.shape[1]]
    if seed is not None:
        light += np.sqrt(light + SKY) * np.random.default_rng(seed).standard_normal(SHAPE)
    variance = np.full(SHAPE, SKY, np.float32)
    return Pixels(light.astype(np.float32), variance, np.zeros(SHAPE, bool))


def test_exact_without_noise() -> None:
    x, y = grid()
    flux = np.geomspace(1e3, 1e6, len(x))
    found = psf_photometry(scene(x, y, flux), psf(), x + 0.15, y - 0.1, RADIUS)
    np.testing.assert_allclose(found["flux"], flux, rtol=2e-4)
    np.testing.assert_allclose(found["x"], x, atol=2e-3)
    np.testing.assert_allclose(found["y"], y, atol=2e-3)
    assert not found["failed"].any()
    assert found["chi2"].max() < 0.1


def test_unbiased_and_errors_are_true() -> None:
    """1,140 stars of SNR 30 to 400: pulls of flux and position have mean 0 and width 1."""
    pulls = []
    for seed in range(3):
        x, y = grid(seed=seed)
        flux = np.geomspace(3e3, 3e5, len(x))
        found = psf_photometry(scene(x, y, flux, seed), psf(), x, y, RADIUS)
        offsets = found["flux"] - flux, found["x"] - x, found["y"] - y
        errors = found["flux_error"], np.sqrt(found["xx"]), np.sqrt(found["yy"])
        pulls.append([o / e for o, e in zip(offsets, errors, strict=True)])
        assert np.median(found["chi2"]) == pytest.approx(1, abs=0.03)
        assert (found["sky_error"] < found["flux_error"]).all()
    for pull in np.concatenate(pulls, axis=1):
        assert abs(pull.mean()) < 4 / np.sqrt(len(pull))
        assert pull.std() == pytest.approx(1, abs=4 / np.sqrt(2 * len(pull)))


def test_fixed_positions_stay() -> None:
    x, y = grid()
    flux = np.full(len(x), 2e4)
    found = psf_photometry(scene(x, y, flux, 1), psf(), x, y, RADIUS, free=False)
    assert (found["x"] == x).all()
    assert (found["y"] == y).all()
    assert np.mean(found["flux"] / flux) == pytest.approx(1, abs=0.003)


def test_touching_stars_are_told_apart() -> None:
    """Pairs 6 pixels (1.5 FWHM) apart: alone each takes some of the other's light."""
    x, y = grid(60)
    both_x, both_y = np.concatenate([x, x + 6]), np.concatenate([y, y])
    flux = np.concatenate([np.full(len(x), 1e5), np.full(len(x), 3e4)])
    pixels = scene(both_x, both_y, flux, 3)
    alone = psf_photometry(pixels, psf(), both_x, both_y, RADIUS)["flux"] / flux
    found = blended_photometry(pixels, psf(), both_x, both_y, RADIUS, sweeps=3)
    together = found["flux"] / flux
    faint = slice(len(x), None)
    assert np.median(alone[faint]) > 1.05
    assert np.median(together) == pytest.approx(1, abs=0.005)
    assert np.median(together[faint]) == pytest.approx(1, abs=0.01)
    assert np.abs(found["x"] - both_x).max() < 0.2


def test_bad_pixels_do_not_count() -> None:
    x, y = grid()
    flux = np.full(len(x), 1e5)
    pixels = scene(x, y, flux)
    rows, columns = np.round(y).astype(int) + 1, np.round(x).astype(int)
    pixels.image[rows, columns] = np.nan
    pixels.variance[rows, columns] = np.nan
    pixels.unusable[rows, columns] = True
    found = psf_photometry(pixels, psf(), x, y, RADIUS)
    np.testing.assert_allclose(found["flux"], flux, rtol=2e-4)
    np.testing.assert_allclose(found["y"], y, atol=2e-3)


def test_what_can_not_be_measured_says_so() -> None:
    """Under a dead region, off the image, on empty sky, at an edge: a value or a failure."""
    pixels = scene(np.array([100.0, 300.0]), np.array([100.0, 0.5]), np.array([1e5, 1e5]), 5)
    pixels.unusable[90:110, 90:110] = True
    x = np.array([100.0, -50.0, 300.0, 400.3, 1e4])
    y = np.array([100.0, 30.0, 0.5, 400.2, 50.0])
    for method in (psf_photometry, blended_photometry):
        found = method(pixels, psf(), x, y, RADIUS)
        assert found["failed"][[0, 1, 4]].all()
        assert np.isnan(found["flux"][[0, 1, 4]]).all()
        assert found["flux"][2] == pytest.approx(1e5, rel=0.05)
        assert abs(found["flux"][3]) < 10 * found["flux_error"][3]
        # Nothing wanders off: a failed position is the one that was given.
        assert np.hypot(found["x"] - x, found["y"] - y).max() <= 0.25 * RADIUS
        assert (found["x"][found["failed"]] == x[found["failed"]]).all()


def test_same_bits_whatever_else_is_measured() -> None:
    x, y = grid()
    pixels = scene(x, y, np.full(len(x), 1e4), 7)
    all_of_them = psf_photometry(pixels, psf(), x, y, RADIUS)
    again = psf_photometry(pixels, psf(), x[100:103], y[100:103], RADIUS)
    assert (all_of_them[100:103] == again).all()


def test_no_source_is_no_row() -> None:
    nothing = np.empty(0)
    pixels = scene(nothing, nothing, nothing)
    assert len(blended_photometry(pixels, psf(), nothing, nothing, RADIUS)) == 0
