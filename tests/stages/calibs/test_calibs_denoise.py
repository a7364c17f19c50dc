"""Masters lose noise where they have no structure, and keep what is real."""

from __future__ import annotations

import numpy as np
import pytest

from mpipipe.stages.calibs.denoise import denoise

SHAPE = (400, 300)
NOISE = 2.0


def cleared(truth: np.ndarray, seed: int = 1) -> tuple[np.ndarray, np.ndarray, float]:
    rng = np.random.default_rng(seed)
    image = (truth + rng.normal(0, NOISE, SHAPE)).astype(np.float32)
    image, variance, share = denoise(image, np.full(SHAPE, NOISE**2, np.float32))
    return image - truth, variance, share


def test_a_flat_bias_keeps_next_to_no_noise() -> None:
    left, variance, share = cleared(np.full(SHAPE, 1000.0))
    assert share < 0.02
    # What is further than 4 sigma stays as it is: 63 in a million.
    assert np.std(left[np.abs(left) < 3]) < 0.15 * NOISE
    assert np.median(variance) < 0.03 * NOISE**2


def test_columns_ramps_and_glows_are_structure() -> None:
    rng = np.random.default_rng(2)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    truth = rng.normal(0, 3.0, SHAPE[1]) + 5.0 * np.sin(y / 60.0)
    truth = truth + 20.0 * np.exp(-((x / 90.0) ** 2) - (y / 120.0) ** 2)
    left, _, _ = cleared(truth)
    assert np.std(left) < 0.25 * NOISE


def test_single_pixels_that_stand_out_keep_value_and_variance() -> None:
    truth = np.zeros(SHAPE)
    truth[100, 50] = 500.0
    truth[:, 77] = 40.0
    left, variance, _ = cleared(truth)
    assert abs(left[100, 50]) < 4 * NOISE
    assert variance[100, 50] == pytest.approx(NOISE**2)
    assert np.abs(np.mean(left[:, 77])) < 0.5


def test_structure_of_single_pixels_is_kept_in_the_ratio_of_the_variances() -> None:
    """Wiener: half structure, half noise leaves half the noise's variance, and says so."""
    truth = np.random.default_rng(3).normal(0, NOISE, SHAPE)
    left, variance, share = cleared(truth)
    assert share == pytest.approx(0.5, abs=0.02)
    assert np.var(left) == pytest.approx(0.5 * NOISE**2, rel=0.05)
    assert np.median(variance) == pytest.approx(np.var(left), rel=0.1)


@pytest.mark.parametrize("shape", [(3, 4), (64, 250), (40, 500)])
def test_small_channels(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(4).normal(10.0, 1.0, shape).astype(np.float32)
    result, variance, _ = denoise(image, np.ones(shape, np.float32))
    assert result.shape == shape and np.isfinite(result).all()
    assert (variance > 0).all()
