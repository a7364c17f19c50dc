"""ca puts every pixel where it belongs: exactly, on real frames and on made ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpipipe.data.camera import Corrections, Linearity, Need
from mpipipe.data.errors import BadDataError, MissingInputError
from mpipipe.data.exposure import Exposure, Masters
from mpipipe.data.mask import bits, is_set
from mpipipe.data.raw import FrameInfo, RawChannel, RawFrame
from mpipipe.data.sdqa import Sdqa
from mpipipe.data.sections import Section
from mpipipe.stages import ca
from mpipipe.stages.isr.initialize import cut_channels
from mpipipe.stages.stage import run_chain


def assemble(raw: RawFrame, **given_values: Any) -> dict[str, Any]:
    clipboard = {
        "raw": raw,
        "channels": cut_channels(raw),
        "masters": Masters(),
        "corrections": Corrections(),
        "sdqa": Sdqa(),
        "warnings": [],
    }
    return run_chain(ca.PIPELINE, {}, clipboard | given_values)


def frame(
    image: np.ndarray, sections: list[Section], *, flip_y: bool = False, data_flip: bool = False
) -> RawFrame:
    """Read `image` out through channels that land on `sections`."""
    shown = image[::-1] if flip_y else image
    channels = []
    for k, section in enumerate(sections):
        data = section.cut(shown)
        datasec = Section(0, data.shape[1], 0, data.shape[0])
        if data_flip:
            data, datasec = data[:, ::-1], replace(datasec, flip_x=True)
        channels.append(
            RawChannel(
                f"A{k}", data.copy(), datasec, None, None, section, 1.0, 5.0, 65535.0, Linearity()
            )
        )
    info = FrameInfo("made", 1, 0, "ccd", 0, "science", "r", 1.0, 1.0, 6e4, files=("made",))
    return RawFrame(info, tuple(channels), image.shape, flip_y_after_assembly=flip_y)


@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(2, 9),
    st.integers(2, 9),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_any_tiling_and_flips_give_the_image_back(n_x, n_y, width, height, random) -> None:
    image = np.arange(1.0, n_x * width * n_y * height + 1, dtype=np.float32)
    image = image.reshape(n_y * height, n_x * width)
    sections = [
        Section(
            i * width,
            (i + 1) * width,
            j * height,
            (j + 1) * height,
            flip_x=random.random() < 0.5,
            flip_y=random.random() < 0.5,
        )
        for i in range(n_x)
        for j in range(n_y)
    ]
    random.shuffle(sections)
    raw = frame(image, sections, flip_y=random.random() < 0.5, data_flip=random.random() < 0.5)
    exposure = assemble(raw)["exposure"]
    assert np.array_equal(exposure.image, image)
    for name, section in exposure.channel_sections.items():
        member = raw.channels[int(name[1:])].pixels
        assert np.array_equal(np.sort(image[section.slices], None), np.sort(member, None))


@pytest.mark.parametrize("sensor", ["e2v", "itl"])
def test_lsstcam_frames_equal_the_official_images_in_every_pixel(
    realdata: Path, sensor: str
) -> None:
    from astropy.io import fits

    from mpipipe.store.cameras import load_camera
    from mpipipe.store.raw import read_frame
    from mpipipe.store.scan import scan

    folder = realdata / "lsstcam-16amp"
    inventory = scan([folder / f"{sensor}_spot.fits.gz"], load_camera("lsstcam"))
    [visit] = inventory.science
    raw = read_frame(visit.snaps[0], inventory.camera)
    exposure = assemble(raw)["exposure"]
    with fits.open(folder / f"{sensor}_expected_assembled.fits.gz") as hdus:
        expected = hdus[0].data
    assert exposure.image.shape == expected.shape
    assert np.array_equal(exposure.image, expected)
    assert len(exposure.channel_sections) == 16
    assert not is_set(exposure.mask, "NO_DATA").any()


def test_gaps_have_no_data() -> None:
    image = np.arange(80, dtype=np.float32).reshape(8, 10)
    sections = [Section(0, 4, 0, 8), Section(6, 10, 0, 8)]
    exposure = assemble(frame(image, sections))["exposure"]
    gap = is_set(exposure.mask, "NO_DATA")
    assert gap[:, 4:6].all() and gap.sum() == 16
    assert (exposure.image[gap] == 0).all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (Section(3, 8, 0, 8), "overlaps"),
        (Section(7, 12, 0, 8), "leaves the CCD"),
        (Section(5, 9, 0, 8), "has not the 5 x 8 pixels"),
    ],
)
def test_absurd_places_are_bad_data(change: Section, reason: str) -> None:
    image = np.arange(80, dtype=np.float32).reshape(8, 10)
    raw = frame(image, [Section(0, 5, 0, 8), Section(5, 10, 0, 8)])
    wrong = replace(raw.channels[1], detsec=change)
    with pytest.raises(BadDataError, match=reason):
        assemble(replace(raw, channels=(raw.channels[0], wrong)))


def test_defects_keep_their_mask_and_are_bridged() -> None:
    rng = np.random.default_rng(1)
    image = rng.normal(100.0, 1.0, (8, 40)).astype(np.float32)
    clean = image.copy()
    image[3, 10:12], image[5, 38:] = 9e4, -5e3
    sections = [Section(0, 20, 0, 8, flip_x=True), Section(20, 40, 0, 8)]
    for flip_y in (False, True):
        raw = frame(image, sections, flip_y=flip_y)
        on_ccd = np.zeros((8, 40), np.int32)
        on_ccd[3, 10:12], on_ccd[5, 38:] = bits("BAD"), bits("BAD")
        shown = on_ccd[::-1] if flip_y else on_ccd
        defects = np.stack([section.cut(shown) for section in sections])
        masters = Masters(names=("A0", "A1"), defects=defects)
        result = assemble(raw, masters=masters)
        exposure: Exposure = result["exposure"]
        assert np.array_equal(is_set(exposure.mask, "BAD"), on_ccd > 0)
        assert np.array_equal(is_set(exposure.mask, "INTRP"), on_ccd > 0)
        assert np.abs(exposure.image - 100.0).max() < 6.0
        assert np.array_equal(exposure.image[on_ccd == 0], clean[on_ccd == 0])
        assert result["sdqa"].get("ca.interpolated", snap=0) == 4


def test_a_long_run_is_masked_but_not_invented() -> None:
    image = np.full((4, 40), 7.0, np.float32)
    image[0, 0] = 8.0
    defects = np.zeros((1, 4, 40), np.int32)
    defects[0, 2, 5:20] = bits("BAD")
    masters = Masters(names=("A0",), defects=defects)
    exposure = assemble(frame(image, [Section(0, 40, 0, 4)]), masters=masters)["exposure"]
    assert is_set(exposure.mask, "BAD").sum() == 15
    assert not is_set(exposure.mask, "INTRP").any()


def test_required_defects_that_do_not_exist() -> None:
    image = np.arange(80, dtype=np.float32).reshape(8, 10)
    raw = frame(image, [Section(0, 10, 0, 8)])
    with pytest.raises(MissingInputError, match="defects"):
        assemble(raw, corrections=Corrections(defects=Need.REQUIRE))


def test_a_ccd_without_a_usable_pixel_is_bad_data() -> None:
    image = np.arange(80, dtype=np.float32).reshape(8, 10)
    masters = Masters(names=("A0",), defects=np.full((1, 8, 10), bits("BAD"), np.int32))
    with pytest.raises(BadDataError, match="no pixel"):
        assemble(frame(image, [Section(0, 10, 0, 8)]), masters=masters)


def test_amp_offset_is_found_and_a_gradient_is_none() -> None:
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:200, :400]
    image = rng.normal(1000.0 + 0.2 * x, 10.0).astype(np.float32)
    sections = [Section(0, 200, 0, 200), Section(200, 400, 0, 200)]
    smooth = assemble(frame(image, sections))["sdqa"].get("ca.amp_offset.max", snap=0)
    image[:, 200:] *= 1.02
    stepped = assemble(frame(image, sections))["sdqa"]
    assert smooth < 0.3
    assert stepped.get("ca.amp_offset.A1", channel="A0", snap=0) == pytest.approx(2.0, abs=0.3)


def test_wcs_of_the_header_or_a_warning() -> None:
    image = np.arange(80, dtype=np.float32).reshape(8, 10)
    raw = frame(image, [Section(0, 10, 0, 8)])
    cards = {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CRVAL1": 150.0,
        "CRVAL2": 2.0,
        "CRPIX1": 5.0,
        "CRPIX2": 4.0,
        "CD1_1": -5e-5,
        "CD1_2": 0.0,
        "CD2_1": 0.0,
        "CD2_2": 5e-5,
    }
    good = assemble(replace(raw, wcs_header=cards))
    ra, dec = good["exposure"].wcs.all_pix2world(4.0, 3.0, 0)
    assert (float(ra), float(dec)) == pytest.approx((150.0, 2.0))
    for bad in ({"CTYPE1": "LINEAR", "CTYPE2": "LINEAR"}, {**cards, "CD1_1": 0.0, "CD2_2": 0.0}):
        result = assemble(replace(raw, wcs_header=bad))
        assert result["exposure"].wcs is None
        assert any("WCS" in warning for warning in result["warnings"])
    assert assemble(raw)["exposure"].wcs is None
