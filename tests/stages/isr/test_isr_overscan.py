"""The level of each row is found and removed, whatever lies in a few overscan pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import Masters
from mpipipe.data.sections import Section
from mpipipe.stages.isr.overscan import OverscanConfig, fit_overscan, smooth_levels, smooth_linear


def test_read_noise_is_not_quantised(frame, run) -> None:
    """At 1.2 ADU the median absolute deviation of integers would be off by a quarter."""
    for noise in (0.8, 1.2, 2.5):
        channels = run(frame(noise=noise, read_noise=None), "isr.overscan")["channels"]
        expected = 2.0 * np.sqrt(noise**2 + 1.0 / 12.0)
        assert np.mean(channels.read_noise) == pytest.approx(expected, rel=0.04)


def test_level_rms_and_warning(frame, run) -> None:
    result = run(frame(read_noise=5.0), "isr.overscan")
    assert result["sdqa"].get("isr.overscan.level", channel="C2", snap=0) == pytest.approx(
        1000.0, abs=0.5
    )
    assert sum("read noise" in text for text in result["warnings"]) == 4
    assert np.median(result["channels"].image) == pytest.approx(100.0, abs=1.0)


def test_a_wandering_level_is_followed(frame, run) -> None:
    rng = np.random.default_rng(3)
    drift = np.cumsum(rng.normal(0, 1.0, 60))
    image = rng.normal(1000.0, 3.0, (60, 64)) + drift[:, None]
    raw = frame([np.rint(image).astype(np.uint16)], n=1)
    left = run(raw, "isr.overscan")["channels"].image[0].mean(axis=1)
    # A row's own mean knows it to 3 / sqrt(40) ADU.
    assert np.std(left) < 1.5 * 3.0 * np.sqrt(1 / 40 + 1 / 24)


def test_stray_charge_in_the_overscan_does_no_harm(frame) -> None:
    raw = frame(n=1)
    clean = fit_overscan(raw.channels[0], 0, OverscanConfig())
    pixels = raw.channels[0].pixels.copy()
    pixels[10, 41:50] += 3000  # a cosmic ray through it
    pixels[30, 40:] += 500  # a whole row that trails charge
    hit = fit_overscan(replace(raw.channels[0], pixels=pixels), 0, OverscanConfig())
    assert clean is not None and hit is not None
    assert np.abs(hit.rows - clean.rows).max() < 1.0
    assert hit.rms == pytest.approx(clean.rms, rel=0.03)


def test_columns_that_trail_charge_are_skipped_on_the_side_of_the_data(frame) -> None:
    raw = frame(n=1, noise=0.0, overscan=True)
    pixels = raw.channels[0].pixels.copy()
    pixels[:, 40:43] += 100
    after = replace(raw.channels[0], pixels=pixels)
    mirrored = replace(
        after,
        pixels=np.ascontiguousarray(pixels[:, ::-1]),
        datasec=Section(24, 64, 0, 60),
        biassec=Section(0, 24, 0, 60),
    )
    for channel in (after, mirrored):
        fit = fit_overscan(channel, 3, OverscanConfig())
        assert fit is not None and fit.rows == pytest.approx(1000.0)
    with pytest.raises(BadDataError, match="no column left"):
        fit_overscan(after, 24, OverscanConfig())


def test_without_overscan_the_level_of_the_master_bias_goes_first(frame, run) -> None:
    """So that crosstalk and linearity see signal only; the bias stage takes the rest."""
    bias = np.full((4, 60, 40), 1000.0, np.float32)
    bias[:, :, 10] += 7.0
    masters = Masters(names=("C0", "C1", "C2", "C3"), bias=bias)
    result = run(frame(overscan=False), "isr.bias", masters=masters)
    assert result["readout"].pedestal == pytest.approx(1000.0)
    image = result["channels"].image
    assert np.median(image) == pytest.approx(100.0, abs=0.5)
    assert np.median(image[:, :, 10]) == pytest.approx(93.0, abs=1.5)


def test_a_bias_with_its_level_does_not_meet_a_frame_without(frame, run) -> None:
    masters = Masters(names=("C0", "C1", "C2", "C3"), bias=np.full((4, 60, 40), 1e3, np.float32))
    with pytest.raises(BadDataError, match="same overscan"):
        run(frame(), "isr.bias", masters=masters)


def test_a_parallel_overscan_adds_no_level_of_its_own(frame) -> None:
    """Its rows are read later: what the level has drifted since is not the data's."""
    raw = frame(n=1)
    rng = np.random.default_rng(2)
    pixels = np.vstack([raw.channels[0].pixels, rng.normal(1004.0, 5.0, (10, 64)).astype("u2")])
    channel = replace(raw.channels[0], pixels=pixels, parallel_biassec=Section(0, 40, 60, 70))
    fit = fit_overscan(channel, 0, OverscanConfig())
    assert fit is not None and np.abs(fit.columns.mean()) < 0.01


@given(
    hnp.arrays(float, st.integers(1, 80), elements=st.floats(-1e3, 1e3)),
    st.sampled_from([1, 3, 15, 31]),
)
@settings(max_examples=100, deadline=None)
def test_straight_lines_pass_the_running_fit_to_the_ends(values: np.ndarray, window: int) -> None:
    line = 3.0 + 0.5 * np.arange(len(values))
    assert smooth_linear(line, window) == pytest.approx(line)
    assert smooth_linear(values, window).shape == values.shape


@given(hnp.arrays(float, st.integers(1, 60), elements=st.floats(-1e4, 1e4)), st.floats(0.01, 10))
@settings(max_examples=100, deadline=None)
def test_any_levels_give_finite_ones_within_their_range(values: np.ndarray, sigma: float) -> None:
    smooth, error = smooth_levels(values, 0, sigma)
    assert 0 <= error <= sigma * (1 + 1e-9)
    assert np.isfinite(smooth).all()
    margin = 1e-6 * (1 + np.abs(values).max())
    assert smooth.min() >= values.min() - margin and smooth.max() <= values.max() + margin


def test_the_smoother_is_as_good_as_theory() -> None:
    """A random walk of step q under noise r is known to sqrt(q r) / 2 (steady state)."""
    rng = np.random.default_rng(5)
    q, r = 0.01, 0.4
    truth = np.cumsum(rng.normal(0, np.sqrt(q), 20000))
    levels = truth + rng.normal(0, np.sqrt(r), truth.size)
    smooth, error = smooth_levels(levels, 0, np.sqrt(r))
    found = np.var(smooth - truth)
    assert found < 1.15 * np.sqrt(q * r) / 2
    assert error**2 == pytest.approx(found, rel=0.2)


def test_a_jump_is_followed_and_a_stray_row_is_not() -> None:
    rng = np.random.default_rng(6)
    noise = rng.normal(0, 0.5, 300)
    stray = noise.copy()
    stray[50] += 30.0
    assert np.abs(smooth_levels(stray, 0, 0.5)[0][45:56]).max() < 0.5
    jump = noise.copy()
    jump[150:] += 40.0
    assert np.abs(smooth_levels(jump, 0, 0.5)[0][[149, 150, 151]] - [0.0, 40.0, 40.0]).max() < 1.5
