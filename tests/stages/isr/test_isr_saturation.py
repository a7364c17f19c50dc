"""Saturated pixels, their rim and bleed trails are masked; nothing else is."""

from __future__ import annotations

import numpy as np
import pytest

from mpipipe.data.errors import BadDataError
from mpipipe.data.mask import is_set


def masked(frame, run, signal: np.ndarray) -> np.ndarray:
    channels = run(frame(n=1, signal=signal[None], noise=3.0), "isr.saturation")["channels"]
    return is_set(channels.mask[0], "SAT")


def test_rim_of_one_pixel(frame, run) -> None:
    signal = np.full((60, 40), 100.0)
    signal[20, 10] = 6e4
    found = masked(frame, run, signal)
    expected = np.zeros_like(found)
    expected[19:22, 9:12] = True
    assert np.array_equal(found, expected)


def test_the_level_is_that_of_the_raw_adu(frame, run) -> None:
    """59,000 ADU above a level of 1,000 are saturated at 60,000."""
    signal = np.full((60, 40), 100.0)
    signal[30, 30] = 59010.0
    assert masked(frame, run, signal).sum() == 9


def test_a_trail_that_fades_below_saturation_is_followed(frame, run) -> None:
    signal = np.full((60, 40), 100.0)
    signal[20:30, 15] = 6e4
    signal[30:40, 15] = np.linspace(4e4, 5e3, 10)
    found = masked(frame, run, signal)
    assert found[19:41, 14:17].all()
    assert found.sum() == 22 * 3


def test_the_wings_of_a_star_are_no_trail(frame, run) -> None:
    y, x = np.mgrid[:60, :40]
    star = 100.0 + 3e5 * np.exp(-((x - 20) ** 2 + (y - 30) ** 2) / (2 * 2.0**2))
    found = masked(frame, run, star)
    # Radius of the saturated disc is 3.6; the rim adds 1, the test for trails at most 3.
    far = np.hypot(x - 20, y - 30) > 8
    assert found.any() and not found[far].any()


def test_edges_do_not_overflow(frame, run) -> None:
    signal = np.full((60, 40), 100.0)
    signal[0:5, 0] = signal[55:60, 39] = 6e4
    found = masked(frame, run, signal)
    assert found[0, 0] and found[59, 39] and found.sum() == 2 * 6 * 2


def test_a_saturated_frame_is_bad_data(frame, run) -> None:
    with pytest.raises(BadDataError, match="saturated"):
        masked(frame, run, np.random.default_rng(1).uniform(6e4, 6.4e4, (60, 40)))
