"""Masters of a simulated CCD against truth, and of a real night."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpipipe.data.camera import Corrections, Need
from mpipipe.data.errors import BadDataError, MissingInputError
from mpipipe.data.exposure import Masters
from mpipipe.data.mask import is_set
from mpipipe.data.masters import MasterFrame, with_master
from mpipipe.data.raw import RawFrame
from mpipipe.data.sdqa import Sdqa
from mpipipe.sim import raw_frames
from mpipipe.sim.detector import DEAD, HOT, bias_pattern, defect_map, response
from mpipipe.sim.instrument import make_chip, make_instrument
from mpipipe.sim.survey import Survey, preset
from mpipipe.stages import calibs
from mpipipe.stages.calibs.reduce import row_blocks

CORRECTIONS = Corrections()


@pytest.fixture(scope="module")
def survey() -> Survey:
    return preset("tiny", n_ccds=1, n_bias=6, n_dark=5, seed=3)


@pytest.fixture(scope="module")
def ccd(survey: Survey) -> str:
    return make_instrument(survey).detectors[0].name


@pytest.fixture(scope="module")
def biases(survey: Survey, ccd: str) -> list[RawFrame]:
    return raw_frames.bias_frames(survey, ccd)


@pytest.fixture(scope="module")
def flats(survey: Survey, ccd: str) -> list[RawFrame]:
    return raw_frames.flat_frames(survey, ccd, "r")


@pytest.fixture(scope="module")
def bias(biases: list[RawFrame]) -> MasterFrame:
    return calibs.build_bias(biases, CORRECTIONS, Sdqa(), [])


@pytest.fixture(scope="module")
def gain(biases, flats, bias) -> MasterFrame:
    masters = with_master(Masters(), bias)
    return calibs.photon_transfer(flats, biases, masters, CORRECTIONS, Sdqa(), [])


@pytest.fixture(scope="module")
def masters(bias, gain) -> Masters:
    return with_master(with_master(Masters(), bias), gain)


@pytest.fixture(scope="module")
def dark(survey: Survey, ccd: str, masters: Masters) -> MasterFrame:
    frames = raw_frames.dark_frames(survey, ccd)
    return calibs.build_dark(frames, masters, CORRECTIONS, Sdqa(), [])


@pytest.fixture(scope="module")
def flat(flats, masters, dark) -> MasterFrame:
    return calibs.build_flat(flats, with_master(masters, dark), CORRECTIONS, Sdqa(), [])


def in_read_out_order(survey: Survey, ccd: str, image: np.ndarray) -> np.ndarray:
    kind = make_chip(survey, ccd).kind
    return np.stack([channel.detsec.cut(image) for channel in kind.channels])


def test_bias_is_the_pattern_and_better_than_the_mean(survey, ccd, bias, biases) -> None:
    truth = np.stack(bias_pattern(survey, ccd))
    noise = bias.read_noise / bias.gain
    left = np.std(bias.image - truth, axis=(1, 2))
    assert (left < 0.5 * noise / np.sqrt(len(biases))).all()
    assert np.abs((bias.image - truth).mean(axis=(1, 2))).max() < 0.1


def test_gain_and_read_noise_within_two_per_cent(survey, ccd, gain) -> None:
    """Channels of a tiny CCD have 16,000 pixels: six pairs of flats know the gain to 0.5 %."""
    chip = make_chip(survey, ccd)
    assert gain.gain == pytest.approx(chip.gain, rel=0.02)
    assert gain.read_noise == pytest.approx(chip.read_noise, rel=0.02)


def test_dark_has_its_hot_pixels_and_no_cosmic_rays(survey, ccd, dark) -> None:
    hot = in_read_out_order(survey, ccd, (defect_map(survey, ccd) & HOT) != 0)
    assert np.median(dark.image) == pytest.approx(survey.dark_current, abs=0.005)
    assert np.median(dark.image[hot]) > 20 * survey.dark_current
    # A cosmic ray of 1000 electrons in one of five frames would leave 0.7 e/s.
    assert (dark.image[~hot] > 0.5).sum() <= 2


def test_flat_is_the_response(survey, ccd, flat) -> None:
    truth = in_read_out_order(survey, ccd, response(survey, ccd, "r"))
    alive = truth > 0.7
    # The gains that were used stay in the flat: they come off again in science frames.
    ratio = flat.image / np.where(alive, truth, 1.0)
    ratio /= np.array([np.median(r[a]) for r, a in zip(ratio, alive, strict=True)])[:, None, None]
    pull = (ratio - 1.0)[alive] / np.sqrt(flat.variance[alive])
    assert np.std(pull) == pytest.approx(1.0, abs=0.05)
    assert flat.level > 0 and flat.factor == 1.0 and flat.band == "r"


def test_defects_find_hot_dead_and_dim_pixels(survey, ccd, bias, dark, flat) -> None:
    found = calibs.find_defects(bias, dark, [flat], Sdqa(), [])
    bad = is_set(found.image, "BAD")
    truth = in_read_out_order(survey, ccd, defect_map(survey, ccd))
    assert bad[(truth & HOT) != 0].mean() > 0.9
    assert bad[(truth & DEAD) != 0].all()
    # A column that is dead over a part is masked whole; little else is.
    column = ((truth & DEAD) != 0).any(axis=1)[:, None, :]
    assert (bad & (truth == 0) & ~column).sum() < 1e-4 * bad.size
    assert not is_set(found.image, "VIGNETTED").any()


def test_frames_that_do_not_suffice_are_named(biases, bias, masters) -> None:
    with pytest.raises(MissingInputError, match="2 bias frames, 3 are needed"):
        calibs.build_bias(biases[:2], CORRECTIONS, Sdqa(), [])
    three: list[str] = []
    master = calibs.build_bias(biases[:3], CORRECTIONS, Sdqa(), three)
    assert master.n_frames == 3 and any("5 or more" in text for text in three)
    with pytest.raises(MissingInputError, match="required"):
        calibs.build_dark(
            biases, Masters(), Corrections(bias=Need.REQUIRE), Sdqa(), [], min_frames=3
        )
    with pytest.raises(MissingInputError, match="there is none"):
        calibs.find_defects(bias, None, [], Sdqa(), [])
    with pytest.raises(MissingInputError, match="neither flats nor bias"):
        calibs.photon_transfer([], [], masters, CORRECTIONS, Sdqa(), [])


def test_unusable_flats_are_left_out(flats, masters) -> None:
    warnings: list[str] = []
    channels = tuple(replace(c, pixels=np.full_like(c.pixels, 65535)) for c in flats[0].channels)
    burnt = replace(flats[0], channels=channels)
    master = calibs.build_flat([burnt, *flats], masters, CORRECTIONS, Sdqa(), warnings)
    assert master.n_frames == len(flats)
    assert any("saturated" in text for text in warnings)
    with pytest.raises(BadDataError, match="usable"):
        calibs.build_flat([burnt, burnt, *flats[:2]], masters, CORRECTIONS, Sdqa(), [])


def test_frames_of_another_window_are_refused(biases) -> None:
    channels = tuple(
        replace(c, datasec=replace(c.datasec, y1=c.datasec.y1 - 1)) for c in biases[0].channels
    )
    with pytest.raises(BadDataError, match="differ"):
        calibs.build_bias([replace(biases[0], channels=channels), *biases], CORRECTIONS, Sdqa(), [])


def test_without_flats_the_camera_gives_the_gain(biases, masters) -> None:
    warnings: list[str] = []
    found = calibs.photon_transfer([], biases, masters, CORRECTIONS, Sdqa(), warnings)
    assert np.isnan(found.gain).all()
    nominal = np.array([c.read_noise for c in biases[0].channels])
    assert found.read_noise == pytest.approx(nominal, rel=0.1)
    assert any("gain not measured" in text for text in warnings)


def test_the_order_of_frames_does_not_change_a_bias(biases, bias) -> None:
    """Pairs for the noise differ, so only the image can be the same."""
    other = calibs.build_bias(biases[::-1], CORRECTIONS, Sdqa(), [])
    assert np.abs(other.image - bias.image).max() < 1.0
    again = calibs.build_bias(biases, CORRECTIONS, Sdqa(), [])
    assert again.image.tobytes() == bias.image.tobytes()
    assert again.variance.tobytes() == bias.variance.tobytes()


def test_blocks_of_rows_are_a_partition_in_bounded_memory() -> None:
    for n_frames in (3, 10, 60):
        blocks = list(row_blocks(n_frames, 16, (2000, 509)))
        assert [b.start for b in blocks[1:]] == [b.stop for b in blocks[:-1]]
        assert (blocks[0].start, blocks[-1].stop) == (0, 2000)
        assert max(b.stop - b.start for b in blocks) * n_frames * 16 * 509 * 4 <= 64e6


def test_flats_of_a_camera_keep_the_relative_response_of_its_ccds(flat) -> None:
    factors = calibs.camera_factors({"a": 90.0, "b": 100.0, "c": 120.0, "d": float("nan")})
    assert factors == pytest.approx({"a": 0.9, "b": 1.0, "c": 1.2, "d": 1.0})
    assert calibs.camera_factors({"a": 77.0}) == {"a": 1.0}
    once = calibs.scale_flat(flat, 1.2)
    twice = calibs.scale_flat(once, 1.2)
    assert np.array_equal(once.image, twice.image) and once.factor == 1.2
    assert once.image.mean() == pytest.approx(1.2 * flat.image.mean(), rel=1e-5)
    assert once.variance.mean() == pytest.approx(1.44 * flat.variance.mean(), rel=1e-5)


def test_arcsat_night(realdata: Path) -> None:
    """A real CCD without overscan, gain or read noise in its headers."""
    from mpipipe.store.cameras import load_camera
    from mpipipe.store.raw import read_frame
    from mpipipe.store.scan import scan

    camera = load_camera("arcsat")
    folder = realdata / "arcsat-xo1b"
    inventory = scan([*folder.glob("Bias*"), *folder.glob("Dark*"), *folder.glob("dome*")], camera)
    frames = {s.kind: [read_frame(f, camera) for f in s.frames] for s in inventory.calibs}
    assert [len(frames[kind]) for kind in ("bias", "dark", "flat")] == [5, 5, 5]
    sdqa, warnings = Sdqa(), list[str]()
    corrections = camera.corrections
    bias = calibs.build_bias(frames["bias"], corrections, sdqa, warnings)
    masters = with_master(Masters(), bias)
    gain = calibs.photon_transfer(
        frames["flat"], frames["bias"], masters, corrections, sdqa, warnings
    )
    assert gain.gain[0] == pytest.approx(1.34, rel=0.02)
    assert gain.read_noise[0] == pytest.approx(16.2, rel=0.02)
    masters = with_master(masters, gain)
    dark = calibs.build_dark(frames["dark"], masters, corrections, sdqa, warnings)
    masters = with_master(masters, dark)
    flat = calibs.build_flat(frames["flat"], masters, corrections, sdqa, warnings)
    assert flat.image.mean() == pytest.approx(1.0, abs=0.01)
    defects = calibs.find_defects(bias, dark, [flat], sdqa, warnings)
    assert 2000 < is_set(defects.image, "BAD").sum() < 10000
    # The bias has a ramp of 10 ADU along rows, real, and no noise of its five frames.
    rows = np.median(bias.image[0], axis=1)
    assert np.ptp(rows) > 8.0
    assert np.std(np.diff(bias.image[0][100])) < 0.5 * 12.1 * np.sqrt(2 / 5)
