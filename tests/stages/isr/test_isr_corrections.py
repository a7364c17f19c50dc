"""Each correction undoes what it should, by the right amount, in the right unit."""

from __future__ import annotations

import numpy as np
import pytest

from mpipipe.data.camera import Linearity
from mpipipe.data.exposure import Masters
from mpipipe.data.mask import is_set
from mpipipe.stages.isr.flat import FlatConfig
from mpipipe.stages.isr.variance import VarianceConfig

NAMES = ("C0", "C1", "C2", "C3")


def test_crosstalk_is_subtracted_victim_by_source_and_masked_where_large(frame, run) -> None:
    matrix = np.zeros((4, 4))
    matrix[2, 0] = 1e-3
    signal = np.full((4, 60, 40), 100.0)
    signal[0, 20:25, 10:15] = 5e4
    leaked = signal + np.einsum("vs,syx->vyx", matrix, signal)
    channels = run(frame(signal=leaked, noise=1.0, crosstalk=matrix), "isr.crosstalk")["channels"]
    ghost = channels.image[2, 20:25, 10:15]
    assert np.mean(ghost) == pytest.approx(100.0, abs=1.0)
    masked = is_set(channels.mask, "CROSSTALK")
    assert masked[2, 20:25, 10:15].all() and masked.sum() == 25


@pytest.mark.parametrize(
    "law",
    [
        Linearity(kind="polynomial", coefficients=(2e-6, 1e-11)),
        Linearity(
            kind="table",
            coefficients=tuple(
                float(v)
                for x in np.linspace(0, 6e4, 200)
                for v in (x, x + 2e-6 * x**2 + 1e-11 * x**3)
            ),
        ),
    ],
    ids=["polynomial", "table"],
)
def test_linearity(frame, run, law) -> None:
    measured = np.linspace(100, 55000, 60 * 40).reshape(60, 40)
    raw = frame(signal=np.stack([measured] * 4), noise=0.0, linearity=law)
    channels = run(raw, "isr.linearity")["channels"]
    x = np.rint(measured)
    assert channels.image[0] == pytest.approx(x + 2e-6 * x**2 + 1e-11 * x**3, rel=1e-3)
    suspect = is_set(channels.mask[0], "SUSPECT")
    assert suspect[-1].all() and not suspect[:20].any()


def test_bias_dark_and_flat_in_their_units(frame, run) -> None:
    """Truth: 300 electrons of light, gain 2, 4 ADU of bias, 0.5 e/s for 15 s, response 0.5."""
    adu = 4.0 + (300.0 * 0.5 + 0.5 * 15.0) / 2.0
    shape = (4, 60, 40)
    masters = Masters(
        names=NAMES,
        bias=np.full(shape, 4.0, np.float32),
        dark=np.full(shape, 0.5, np.float32),
        flat=np.full(shape, 0.5, np.float32),
    )
    channels = run(frame(sky=adu, noise=0.5), masters=masters)["channels"]
    assert channels.image.mean() == pytest.approx(300.0, abs=2.0)
    read_noise = 2.0 * np.sqrt(0.25 + 1 / 12)
    expected = (300 * 0.5 + 7.5 + read_noise**2) / 0.25
    assert channels.variance.mean() == pytest.approx(expected, rel=0.02)
    assert channels.master_sigma is None


def test_master_noise_adds_in_quadrature_in_electrons(frame, run) -> None:
    shape = (4, 60, 40)
    masters = Masters(
        names=NAMES,
        bias=np.zeros(shape, np.float32),
        bias_variance=np.full(shape, 0.25, np.float32),
        dark=np.zeros(shape, np.float32),
        dark_variance=np.full(shape, 0.01, np.float32),
        flat=np.full(shape, 0.5, np.float32),
        flat_variance=np.full(shape, 1e-4, np.float32),
    )
    channels = run(frame(sky=1000.0, noise=1.0), masters=masters)["channels"]
    before = (0.5 * 2.0) ** 2 + (0.1 * 15.0) ** 2
    light = 2000.0 / 0.5
    expected = np.sqrt(before / 0.25 + (light * 0.01 / 0.5) ** 2)
    assert channels.master_sigma.mean() == pytest.approx(expected, rel=0.01)


def test_variance_is_unbiased_and_not_tied_to_the_pixel_itself(frame, run) -> None:
    """With a pixel's own photons the weighted mean of a dark sky would be 3 % low."""
    rng = np.random.default_rng(4)
    electrons = rng.poisson(30.0, (4, 60, 40))
    raw = frame(signal=electrons / 2.0, noise=1.5)
    smooth = run(raw)["channels"]
    own = run(raw, configs={"isr.variance": VarianceConfig(photon_radius=0)})["channels"]
    assert smooth.variance.mean() == pytest.approx(30 + 4 * (1.5**2 + 1 / 12), rel=0.02)

    def weighted(channels) -> float:
        return float((channels.image / channels.variance).sum() / (1 / channels.variance).sum())

    assert weighted(smooth) == pytest.approx(30.0, abs=0.3)
    assert weighted(own) < 29.2


def test_next_to_no_response_is_masked_and_not_divided(frame, run) -> None:
    flat = np.ones((4, 60, 40), np.float32)
    flat[1, 5, 5], flat[1, 6, 6] = 0.01, np.nan
    channels = run(frame(), masters=Masters(names=NAMES, flat=flat))["channels"]
    bad = is_set(channels.mask, "BAD")
    assert bad[1, 5, 5] and bad[1, 6, 6] and bad.sum() == 2
    assert np.isfinite(channels.image).all() and np.isfinite(channels.variance).all()
    less = {"isr.flat": FlatConfig(lowest=0.005)}
    divided = run(frame(), masters=Masters(names=NAMES, flat=flat), configs=less)["channels"]
    assert divided.image[1, 5, 5] > 50 * channels.image[1, 5, 5]


def test_metrics_are_there_for_every_channel(frame, run) -> None:
    sdqa = run(frame())["sdqa"]
    for name in NAMES:
        assert sdqa.get("isr.sky.level", channel=name, snap=0) == pytest.approx(200.0, abs=3.0)
        assert sdqa.get("isr.masked.SAT", channel=name, snap=0) == 0
        assert sdqa.get("isr.read_noise", channel=name, snap=0) == pytest.approx(10.0, rel=0.06)


def test_the_same_bits_every_time(frame, run) -> None:
    one, two = run(frame())["channels"], run(frame())["channels"]
    assert one.image.tobytes() == two.image.tobytes()
    assert one.variance.tobytes() == two.variance.tobytes()
