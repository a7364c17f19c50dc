"""Read-out: gain, noise, overscan, crosstalk and trails as the constants say."""

from __future__ import annotations

import numpy as np
import pytest

from mpipipe.sim.exposures import bias_frame, flat_frame
from mpipipe.sim.instrument import make_chip, make_instrument
from mpipipe.sim.readout import canvases, read_out
from mpipipe.sim.survey import Survey, preset

CCD = "R22_S11"


def plain(**changes: float) -> Survey:
    """A detector with nothing but what a test switches on."""
    off = {
        "bias_pattern": 0.0,
        "bias_columns": 0.0,
        "overscan_drift": 0.0,
        "trail": 0.0,
        "cosmic_rays": 0.0,
        "hot_pixels": 0.0,
        "dead_columns": 0,
    }
    return preset("tiny", **{**off, **changes})


def test_values_are_16_bit_and_clip(survey: Survey) -> None:
    chip = make_chip(survey, CCD)
    charge = np.full(chip.shape, 5e5, dtype=np.float32)
    images = read_out(survey, CCD, charge, "test")
    assert all(image.dtype == np.uint16 for image in images)
    assert max(image.max() for image in images) == 65535


def test_read_noise_and_level_of_every_channel() -> None:
    survey = plain()
    chip = make_chip(survey, CCD)
    for image, gain, noise in zip(
        bias_frame(survey, CCD, 0), chip.gain, chip.read_noise, strict=True
    ):
        # Rounding to integers adds 1/12 to the variance.
        expected = np.sqrt((noise / gain) ** 2 + 1 / 12)
        assert np.std(image.astype(float)) == pytest.approx(expected, rel=0.03)
        assert abs(image.mean() - survey.bias_level) < 100


def test_gain_by_photon_transfer() -> None:
    """Variance over mean of the difference of two flats is the gain, channel by channel."""
    survey = plain(lamp_jitter=0.0, crosstalk_error=0.0)
    chip = make_chip(survey, CCD)
    pair = [flat_frame(survey, CCD, "r", 2e4, k) for k in (0, 1)]
    ratios = []
    for one, two, channel, gain, noise in zip(
        *pair, chip.kind.channels, chip.gain, chip.read_noise, strict=True
    ):
        assert channel.datasec is not None and channel.biassec is not None
        level = channel.biassec.cut(one).mean()
        a, b = (channel.datasec.cut(image).astype(float) for image in (one, two))
        good = a > 0.5 * np.median(a)
        variance = np.var((a - b)[good]) / 2 - (noise / gain) ** 2
        ratios.append((a.mean() - level) / variance / gain)
    # 16 channels of 16,000 pixels: 1.1 % each. Non-linearity is 0.1 % here.
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.01)
    assert np.std(ratios) < 0.03


def test_crosstalk_reaches_the_right_pixel_of_the_right_channel() -> None:
    survey = plain()
    chip = make_chip(survey, CCD)
    assert chip.crosstalk is not None
    source = 1
    place = chip.kind.channels[source].detsec
    assert place is not None
    clean = read_out(survey, CCD, np.zeros(chip.shape, dtype=np.float32), "x")
    charge = np.zeros(chip.shape, dtype=np.float32)
    place.cut(charge)[100, 20] = 60_000.0
    images = read_out(survey, CCD, charge, "x")
    for victim, (image, before, channel) in enumerate(
        zip(images, clean, chip.kind.channels, strict=True)
    ):
        assert channel.datasec is not None
        change = channel.datasec.cut(image).astype(int) - channel.datasec.cut(before).astype(int)
        wanted = 60_000.0 / chip.gain[source]
        if victim != source:
            wanted *= chip.crosstalk[victim, source]
        assert change[100, 20] == pytest.approx(wanted, rel=0.01, abs=1.5)
        change[100, 20] = 0
        assert not change.any()


def test_drift_is_common_to_a_row() -> None:
    image = bias_frame(plain(overscan_drift=30.0, read_noise_error=0.0), CCD, 0)[0]
    rows = image.mean(axis=1)
    assert rows.std() > 8.0
    assert np.std(np.diff(rows)) < 0.5 * rows.std()


def test_trail_fades_over_the_first_overscan_columns() -> None:
    survey = plain(trail=1e-2)
    chip = make_chip(survey, CCD)
    images = read_out(survey, CCD, np.full(chip.shape, 5e4, dtype=np.float32), "trail")
    for image, channel in zip(images, chip.kind.channels, strict=True):
        assert channel.biassec is not None
        overscan = channel.biassec.cut(image).mean(axis=0)
        level = overscan[20:].mean()
        assert overscan[0] - level > 100
        assert abs(overscan[8] - level) < 3.0


@pytest.mark.parametrize("file_format", ["channel-files", "mef", "amps-in-hdu", "single"])
def test_every_format_holds_the_same_light_in_the_same_place(file_format: str) -> None:
    survey = plain(gain_error=0.0)
    survey = preset("tiny", format=file_format, bias_pattern=0.0, trail=0.0, gain_error=0.0)
    instrument = make_instrument(survey)
    chip = make_chip(survey, CCD)
    ny, nx = chip.shape
    ramp = np.add.outer(20.0 * np.arange(ny), 30.0 * np.arange(nx)).astype(np.float32)
    images = read_out(survey, CCD, ramp, "ramp")
    seen = np.zeros_like(ramp)
    for canvas, image in zip(canvases(chip, instrument.camera.format), images, strict=True):
        for index in canvas.channels:
            channel = chip.kind.channels[index]
            assert channel.datasec is not None and channel.biassec is not None
            assert channel.detsec is not None
            level = channel.biassec.cut(image).mean()
            channel.detsec.cut(seen)[:] = (
                channel.datasec.cut(image).astype(np.float32) - level
            ) * chip.gain[index]
    # Noise, crosstalk and non-linearity are below 2 %.
    assert np.abs(seen - ramp).max() < 150 + 0.02 * ramp.max()
    assert np.median(np.abs(seen - ramp)) < 60
