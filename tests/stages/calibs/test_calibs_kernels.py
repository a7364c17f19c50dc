"""Combining a handful of frames: clipped by expected noise, weighted by light."""

from __future__ import annotations

import numpy as np
import pytest

from mpipipe.stages.calibs import kernels


def combine(stack: np.ndarray, levels=None, floor=1.0, photon=0.0, n_sigma=5.0):
    stack = np.asarray(stack, np.float32)
    n, n_pixels = stack.shape
    levels = np.ones(n) if levels is None else np.asarray(levels, float)
    out = [np.empty(n_pixels, kind) for kind in (np.float32, np.float32, np.uint8)]
    kernels.combine_clipped(stack, levels, np.full(n, floor), photon, n_sigma, *out)
    return out


@pytest.mark.parametrize("n", [2, 3, 4, 5, 9])
def test_a_cosmic_ray_in_any_frame_goes(n: int) -> None:
    """Even of two or three frames, which can not clip by their own scatter."""
    for hit in range(n):
        stack = np.full((n, 1), 10.0)
        stack[hit] += 300.0
        mean, variance, used = combine(stack)
        assert mean[0] == 10.0 and used[0] == n - 1
        assert variance[0] == pytest.approx(1.0 / (n - 1))


def test_mean_and_variance_of_many_pixels() -> None:
    rng = np.random.default_rng(1)
    mean, variance, _ = combine(rng.normal(5.0, 1.0, (5, 20000)))
    assert mean.mean() == pytest.approx(5.0, abs=0.01)
    assert np.var(mean) == pytest.approx(variance.mean(), rel=0.05)


def test_frames_of_different_light_are_weighted_by_it() -> None:
    rng = np.random.default_rng(2)
    levels = np.array([500.0, 2000.0, 8000.0, 8000.0])
    response = rng.normal(1.0, 0.05, 20000)
    stack = rng.poisson(levels[:, None] * response) + rng.normal(0, 5.0, (4, 20000))
    mean, variance, used = combine(stack, levels, floor=25.0, photon=1.0)
    pull = (mean - response) / np.sqrt(variance)
    assert np.std(pull) == pytest.approx(1.0, abs=0.03)
    assert abs(np.mean(pull)) < 0.03
    assert (used == 4).mean() > 0.999
    assert variance.mean() == pytest.approx((levels.sum() + 100.0) / levels.sum() ** 2, rel=0.02)


def test_a_pixel_that_jumps_shows_in_its_variance() -> None:
    mean, variance, used = combine([[0.0], [100.0], [0.0], [0.0], [200.0]])
    assert used[0] == 3 and mean[0] == 0.0
    assert variance[0] == pytest.approx(np.var([0, 100, 0, 0, 200], ddof=1) / 5, rel=1e-5)


def test_noise_of_a_pair_does_not_feel_pixel_response_or_rays() -> None:
    rng = np.random.default_rng(3)
    response = rng.normal(1.0, 0.02, (128, 128))
    one, two = (rng.normal(level * response, 10.0) for level in (2000.0, 2200.0))
    two[5, 5] += 1e4
    table = np.empty((2, 2, 4))
    kernels.pair_blocks(one.astype("f4"), two.astype("f4"), 64, 5.0, table)
    scale = table[..., 2]
    assert scale == pytest.approx(1.1, abs=0.002)
    assert np.mean(table[..., 3]) == pytest.approx(100.0 * (1 + 1.1**2), rel=0.03)
