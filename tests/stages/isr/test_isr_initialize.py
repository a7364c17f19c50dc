"""What isr refuses before it touches a pixel, and where gains come from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mpipipe.data.camera import Corrections, Linearity, Need
from mpipipe.data.errors import BadDataError, ConfigError, MissingInputError
from mpipipe.data.exposure import Masters
from mpipipe.data.mask import is_set
from mpipipe.data.sections import Section

NAMES = ("C0", "C1", "C2", "C3")


@pytest.mark.parametrize("kind", ["bias", "dark", "flat", "defects", "crosstalk", "linearity"])
def test_a_required_correction_without_its_master_is_bad_data(frame, run, kind) -> None:
    corrections = Corrections(**{kind: Need.REQUIRE})
    with pytest.raises(MissingInputError, match=kind) as caught:
        run(frame(), "isr.initialize", corrections=corrections)
    assert "if-available" in str(caught.value)


def test_an_available_one_that_is_missing_is_left_out_and_named(frame, run) -> None:
    result = run(frame())
    assert result["channels"].applied["bias"] == "left out: no master bias"
    assert any("bias" in warning for warning in result["warnings"])


def test_off_needs_nothing_and_warns_of_nothing(frame, run) -> None:
    off = Corrections(**dict.fromkeys(Corrections.model_fields, Need.OFF))
    result = run(frame(), corrections=off)
    assert result["warnings"] == []
    assert set(result["channels"].applied.values()) == {"off", "electrons"}


def test_gain_of_the_camera_wins_and_photon_transfer_fills_in(frame, run) -> None:
    masters = Masters(names=NAMES, gain=np.full(4, 3.0), read_noise=np.full(4, 9.0))
    with_camera = run(frame(gain=2.0), "isr.initialize", masters=masters)["channels"]
    without = run(frame(gain=None), "isr.initialize", masters=masters)["channels"]
    assert with_camera.gain.tolist() == [2.0] * 4
    assert without.gain.tolist() == [3.0] * 4


def test_no_gain_anywhere_names_the_way_out(frame, run) -> None:
    with pytest.raises(BadDataError, match="photon transfer"):
        run(frame(gain=None), "isr.initialize")


def test_constant_frames_and_dead_channels(frame, run) -> None:
    raw = frame()
    zeros = [np.zeros_like(channel.pixels) for channel in raw.channels]
    with pytest.raises(BadDataError, match="same value"):
        run(frame(zeros), "isr.initialize")
    one = [zeros[0]] + [channel.pixels for channel in raw.channels[1:]]
    result = run(frame(one))
    dead = is_set(result["channels"].mask, "BAD")
    assert dead[0].all() and not dead[1:].any()
    assert np.isfinite(result["channels"].variance).all()


def test_pixels_that_are_not_finite_are_masked(frame, run) -> None:
    raw = frame()
    pixels = [channel.pixels.astype(np.float32) for channel in raw.channels]
    pixels[2][5, 7] = np.nan
    channels = run(frame(pixels))["channels"]
    assert is_set(channels.mask, "NO_DATA").sum() == 1
    assert np.isfinite(channels.image).all() and np.isfinite(channels.variance).all()


def test_unlike_channels_absurd_sections_and_foreign_masters_are_refused(frame, run) -> None:
    raw = frame()
    small = replace(raw.channels[1], datasec=Section(0, 39, 0, 60))
    unlike = replace(raw, channels=(raw.channels[0], small, *raw.channels[2:]))
    with pytest.raises(BadDataError, match="must be alike"):
        run(unlike, "isr.initialize")
    outside = replace(raw.channels[0], biassec=Section(40, 9999, 0, 60))
    with pytest.raises(BadDataError, match="leaves the image"):
        run(replace(raw, channels=(outside, *raw.channels[1:])), "isr.initialize")
    with pytest.raises(BadDataError, match="shape"):
        masters = Masters(names=NAMES, bias=np.zeros((4, 3, 3), np.float32))
        run(raw, "isr.initialize", masters=masters)
    with pytest.raises(BadDataError, match="channels"):
        run(raw, "isr.initialize", masters=Masters(names=("X",)))


def test_a_table_that_goes_back_is_refused(frame, run) -> None:
    table = Linearity(kind="table", coefficients=(0.0, 0.0, 10.0, 10.0, 5.0, 5.0))
    with pytest.raises(ConfigError, match="ascending"):
        run(frame(linearity=table), "isr.initialize")
