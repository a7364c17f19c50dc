"""Readers on real frames of five observatories (skipped where these are absent)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.stats import sigma_clip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpipipe.data.errors import BadDataError, MissingInputError
from mpipipe.data.inventory import FrameFiles
from mpipipe.data.raw import RawFrame
from mpipipe.store.calibrated import read_calibrated
from mpipipe.store.cameras import load_camera
from mpipipe.store.fitsfile import FitsFile
from mpipipe.store.raw import read_frame
from mpipipe.store.scan import scan


def placed(frame: RawFrame) -> np.ndarray:
    """The data of all channels put where they belong, by nothing but the sections."""
    image = np.full(frame.shape, np.nan)
    for channel in frame.channels:
        data, place = channel.datasec.cut(channel.pixels), channel.detsec
        image[place.slices] = data[:: -1 if place.flip_y else 1, :: -1 if place.flip_x else 1]
    return image[::-1] if frame.flip_y_after_assembly else image


def folder_of(realdata: Path, name: str) -> Path:
    folder = realdata / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not among the real frames")
    return folder


@pytest.mark.parametrize(("kind", "detector"), [("e2v", "R22_S11"), ("itl", "R02_S02")])
def test_lsstcam_sections(realdata: Path, kind: str, detector: str) -> None:
    """Put by DATASEC and DETSEC and flipped in y: the official image, in every pixel."""
    folder = folder_of(realdata, "lsstcam-16amp")
    inventory = scan([folder / f"{kind}_spot.fits.gz"])
    assert inventory.camera.name == "lsstcam" and not inventory.problems
    (visit,) = inventory.science
    assert visit.detector == detector
    frame = read_frame(visit.snaps[0], inventory.camera)
    with FitsFile(folder / f"{kind}_expected_assembled.fits.gz") as file:
        expected = file.data(file.hdus[0])
    np.testing.assert_array_equal(placed(frame), expected)
    for channel in frame.channels:
        assert channel.biassec is not None and channel.parallel_biassec is not None


def test_sinistro_window(realdata: Path) -> None:
    """Binned 2 x 2 and windowed: the known overscan levels, read noise and size."""
    folder = folder_of(realdata, "lco-sinistro-raw")
    inventory = scan(folder)
    assert inventory.camera.name == "lco-sinistro" and not inventory.problems
    frame = read_frame(inventory.science[0].snaps[0], inventory.camera)
    assert frame.shape == (1024, 1024) and frame.info.binning == (2, 2)
    assert np.isfinite(placed(frame)).all()
    levels, noises, gains = [], [], []
    for channel in frame.channels:
        assert channel.biassec is not None and channel.gain is not None
        overscan = sigma_clip(channel.biassec.cut(channel.pixels)[:, frame.overscan_skip :], 4)
        levels.append(np.ma.mean(overscan))
        noises.append(np.ma.std(overscan) * channel.gain)
        gains.append(channel.gain)
    np.testing.assert_allclose(levels, [2522, 2560, 2553, 2582], atol=1.0)
    np.testing.assert_allclose(gains, [6.42, 6.23, 6.27, 6.26])
    assert min(noises) > 7.4 * 0.95 and max(noises) < 7.9 * 1.05
    sky = [
        np.median(c.datasec.cut(c.pixels) - level) * c.gain
        for c, level in zip(frame.channels, levels, strict=True)
        if c.gain is not None
    ]
    assert max(sky) / min(sky) < 1.02
    assert frame.wcs_header["CRPIX1"] == 512.0


def test_phosim_segments(realdata: Path) -> None:
    """One file per channel, prescans, garbage in PSCANP; a lone channel is no whole CCD."""
    folder = folder_of(realdata, "phosim-segments")
    inventory = scan(folder)
    camera = inventory.camera
    assert camera.name == "lsst-sim"
    assert [(v.visit, v.detector, v.band) for v in inventory.science] == [
        (85471048, "R03_S01", "y"),
        (85751839, "R23_S11", "r"),
    ]
    assert {p.kind for p in inventory.problems} == {"missing channel", "missing snap"}
    for visit in inventory.science:
        with pytest.raises(MissingInputError, match="no file of channel"):
            read_frame(visit.snaps[0], camera)
    # The same camera with that channel alone reads it.
    for visit, name, level, gain in zip(
        inventory.science, ("C10", "C00"), (1015, 998), (1.68866, 1.71186), strict=True
    ):
        kind = camera.types["ccd"]
        alone = kind.model_copy(
            update={"channels": tuple(c for c in kind.channels if c.name == name),
                    "crosstalk": None}
        )  # fmt: skip
        frame = read_frame(visit.snaps[0], camera.model_copy(update={"types": {"ccd": alone}}))
        (channel,) = frame.channels
        assert frame.shape == (2000, 509) and channel.gain == pytest.approx(gain)
        assert channel.biassec is not None
        assert channel.biassec.cut(channel.pixels).mean() == pytest.approx(level, abs=0.1)
        # No prescan pixel is left among the data.
        assert channel.datasec.cut(channel.pixels).min() > level - 10
        data = channel.datasec.cut(channel.pixels)
        assert np.median(data[:, 0]) > level + 100 and np.median(data[0]) > level + 100
        assert frame.info.mjd_start < 50_000 and frame.wcs_header["CTYPE1"] == "RA---TAN"


def test_phosim_orientation(realdata: Path) -> None:
    """Carried to the assembled CCD, the WCS of a lower and an upper channel have one parity, and
    the CCD lies where the camera description puts it."""
    folder = folder_of(realdata, "phosim-segments")
    camera = load_camera("lsst-sim")
    for visit, name in zip(scan(folder).science, ("C10", "C00"), strict=True):
        kind = camera.types["ccd"]
        alone = kind.model_copy(
            update={"channels": tuple(c for c in kind.channels if c.name == name)}
        )
        frame = read_frame(visit.snaps[0], camera.model_copy(update={"types": {"ccd": alone}}))
        cards = frame.wcs_header
        determinant = float(str(cards["CD1_1"])) * float(str(cards["CD2_2"])) - float(
            str(cards["CD1_2"])
        ) * float(str(cards["CD2_1"]))
        assert determinant > 0
        channel = alone.channels[0]
        assert channel.detsec is not None
        detector = camera.detector(visit.detector)
        # The reference pixel is the boresight; the CCD's centre seen from there, in mm.
        centre = [
            (kind.size[axis] / 2 - origin - (float(str(cards[f"CRPIX{axis + 1}"])) - 0.5)) * 0.01
            for axis, origin in enumerate((channel.detsec.x0, channel.detsec.y0))
        ]
        assert centre == pytest.approx([detector.x_mm, detector.y_mm], abs=0.3)


def test_arcsat_night(realdata: Path) -> None:
    """The whole night is sorted by headers alone, and each frame is read."""
    inventory = scan(folder_of(realdata, "arcsat-xo1b"))
    assert inventory.camera.name == "arcsat" and not inventory.problems
    assert len(inventory.science) == 27
    assert [(c.kind, c.band, len(c.frames)) for c in inventory.calibs] == [
        ("bias", "", 5),
        ("dark", "", 5),
        ("flat", "z", 5),
    ]
    visits = [visit.visit for visit in inventory.science]
    assert visits == sorted(visits) and visits[0] == 20250602041014
    n_wcs = 0
    for visit in inventory.science:
        frame = read_frame(visit.snaps[0], inventory.camera)
        (channel,) = frame.channels
        assert frame.shape == (1024, 1024) and channel.pixels.dtype == np.uint16
        assert channel.gain is None and channel.read_noise is None and channel.biassec is None
        n_wcs += bool(frame.wcs_header)
    assert n_wcs == 19


def test_saao_series(realdata: Path) -> None:
    """Reduced frames, whose BIASSEC and TRIMSEC are leftovers of the untrimmed ones."""
    camera = load_camera("saao-ste3-reduced")
    inventory = scan(folder_of(realdata, "saao-series"), camera)
    assert len(inventory.science) == 29 and not inventory.problems
    exposure = read_calibrated(inventory.science[0].snaps[0], camera)
    assert exposure.shape == (512, 512) and exposure.info.band == "I" and exposure.wcs is None
    assert list(exposure.gain.values()) == [1.9] and list(exposure.read_noise.values()) == [5.0]
    assert np.isfinite(exposure.variance).all() and exposure.variance.min() >= 25.0


def test_lco_calibrated(realdata: Path) -> None:
    """No EXPTIME, GAIN or FILTER in the header: the camera's constants take their place."""
    folder = folder_of(realdata, "lco-gaia")
    exposure = read_calibrated(folder / "template_1.fits.fz", load_camera("lco-sinistro-reduced"))
    assert exposure.shape == (2212, 2212) and exposure.wcs is not None
    ra, dec = exposure.wcs.all_pix2world(1105.5, 1105.5, 0)
    assert (float(ra), float(dec)) == pytest.approx((17.3945969832, 15.0099117989), abs=1e-6)
    with pytest.raises(BadDataError, match=r"filter"):
        read_calibrated(folder / "template_1.fits.fz", load_camera("calibrated-generic"))


REAL = [
    "arcsat-xo1b/Bias_BIN1_20250602_032138.fits.fz",
    "lco-sinistro-raw/mef_raw_test_frame.fits",
    "saao-series/AKB13475I0001.fits",
    "phosim-segments/imsim_85471048_R03_S01_C10_E000.fits.gz",
]


@pytest.mark.parametrize("name", REAL)
@given(part=st.floats(0.0, 0.99))
@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_real_files_cut_anywhere(realdata: Path, tmp_path: Path, name: str, part: float) -> None:
    """Cut short anywhere, a real file is bad data that names it, and no crash."""
    folder_of(realdata, name.partition("/")[0])
    content = (realdata / name).read_bytes()
    path = tmp_path / Path(name).name
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(BadDataError) as caught, FitsFile(path) as file:
        for hdu in file.hdus:
            if hdu.shape:
                file.data(hdu)
        file.finish()
        if len(file.hdus) < 5:  # cut between two HDUs: what is missing shows by its absence
            raise BadDataError("HDUs are missing", file=path)
    assert caught.value.file == str(path)


def test_frame_of_another_camera(realdata: Path) -> None:
    """A frame of one camera read as another's ends with a reason, not with nonsense."""
    path = folder_of(realdata, "lco-sinistro-raw") / "mef_raw_test_frame.fits"
    for name, detector in (("arcsat", "ccd0"), ("lsstcam", "R22_S11"), ("decam", "N4")):
        files = FrameFiles(1, 0, detector, "science", "w", (str(path),), ("",))
        with pytest.raises(BadDataError) as caught:
            read_frame(files, load_camera(name))
        assert caught.value.reason
