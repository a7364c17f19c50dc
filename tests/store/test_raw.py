"""Readers of raw frames: every layout gives the pixels where they belong; every fault a reason."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from mpipipe.data.camera import Camera
from mpipipe.data.errors import BadDataError, MissingInputError
from mpipipe.data.inventory import FrameFiles
from mpipipe.data.raw import RawFrame
from mpipipe.store.cameras import load_camera
from mpipipe.store.raw import read_frame

FirstFrame = Callable[..., FrameFiles]


def placed(frame: RawFrame) -> np.ndarray:
    """The data of all channels put where they belong, by nothing but the sections."""
    image = np.full(frame.shape, np.nan)
    for channel in frame.channels:
        data = channel.datasec.cut(channel.pixels)
        place = channel.detsec
        image[place.slices] = data[:: -1 if place.flip_y else 1, :: -1 if place.flip_x else 1]
    return image[::-1] if frame.flip_y_after_assembly else image


# -- one file per channel --------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz", ".fits.fz"])
def test_channel_files(
    tmp_path: Path, make_visit: Any, first_frame: FirstFrame, tiny: Camera, suffix: str
) -> None:
    make_visit(suffix=suffix, snaps=(0,))
    frame = read_frame(first_frame(tmp_path), tiny)
    np.testing.assert_array_equal(placed(frame), make_visit.assembled)
    assert [channel.name for channel in frame.channels] == [
        channel.name for channel in tiny.types["ccd"].channels
    ]
    for channel in frame.channels:
        assert channel.pixels.dtype == np.uint16 and channel.biassec is not None
        assert (channel.biassec.cut(channel.pixels) == 990).all()
        assert channel.gain and channel.read_noise and channel.saturation > 50_000
    assert frame.crosstalk is not None and frame.crosstalk.shape == (16, 16)
    info = frame.info
    assert (info.visit, info.snap, info.detector, info.detector_number) == (1, 0, "R22_S11", 4)
    assert (info.kind, info.band, info.exposure_time) == ("science", "r", 15.0)
    assert len(info.files) == 16 and not frame.warnings
    assert "OBSID" in {key for key, _, _ in info.header}


@pytest.fixture
def one_snap(
    tmp_path: Path, make_visit: Any, first_frame: FirstFrame
) -> tuple[FrameFiles, list[Path]]:
    paths = make_visit(snaps=(0,))
    return first_frame(tmp_path), paths


def test_missing_channel(one_snap: tuple[FrameFiles, list[Path]], tiny: Camera) -> None:
    files, _ = one_snap
    short = replace(files, paths=files.paths[1:], channels=files.channels[1:])
    with pytest.raises(MissingInputError, match=r"visit 1.*no file of channel C10"):
        read_frame(short, tiny)


def test_channel_file_that_has_gone(one_snap: tuple[FrameFiles, list[Path]], tiny: Camera) -> None:
    files, paths = one_snap
    paths[3].unlink()
    with pytest.raises(BadDataError, match=r"C13_E000\.fits.*No such file"):
        read_frame(files, tiny)


def test_two_files_for_one_channel(one_snap: tuple[FrameFiles, list[Path]], tiny: Camera) -> None:
    files, paths = one_snap
    double = replace(
        files, paths=(*files.paths, str(paths[0])), channels=(*files.channels, files.channels[0])
    )
    with pytest.raises(BadDataError, match="second file of channel 'C10'"):
        read_frame(double, tiny)


def rewrite(path: Path, pixels: np.ndarray | None = None, **cards: Any) -> None:
    """Change pixels or cards of a channel file."""
    with fits.open(path, memmap=False) as hdus:
        header, old = hdus[0].header, hdus[0].data
    hdu = fits.PrimaryHDU(old if pixels is None else pixels)
    for key in ("OBSID", "SNAP", "CHIPID", "AMPID", "FILTER", "EXPTIME", "IMGTYPE", "MJD-OBS"):
        if key in header:
            hdu.header[key] = header[key]
    for key, value in cards.items():
        if value is None:
            hdu.header.remove(key, ignore_missing=True)
        else:
            hdu.header[key] = value
    hdu.writeto(path, overwrite=True)


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.zeros((10, 10), np.uint16), "10 x 10 pixels, not 138 x 266"),
        (np.zeros((2, 266, 138), np.uint16), "no image|holds"),
        (np.zeros((266, 138), np.uint8), "8-bit"),
        (np.full((266, 138), np.nan, np.float32), "36708 pixels that are NaN"),
    ],
)
def test_wrong_pixels(
    one_snap: tuple[FrameFiles, list[Path]], tiny: Camera, pixels: np.ndarray, reason: str
) -> None:
    files, paths = one_snap
    rewrite(paths[5], pixels)
    with pytest.raises(BadDataError, match=rf"C15_E000\.fits.*({reason})"):
        read_frame(files, tiny)


def test_one_nan_is_enough(one_snap: tuple[FrameFiles, list[Path]], tiny: Camera) -> None:
    files, paths = one_snap
    pixels = np.full((266, 138), 1000.0, np.float32)
    pixels[17, 3] = np.inf
    rewrite(paths[0], pixels)
    with pytest.raises(BadDataError, match="has 1 pixels that are NaN"):
        read_frame(files, tiny)


@pytest.mark.parametrize("value", [0, 65535])
def test_ccd_without_signal(
    tmp_path: Path, make_visit: Any, first_frame: FirstFrame, tiny: Camera, value: int
) -> None:
    for path in make_visit(snaps=(0,)):
        rewrite(path, np.full((266, 138), value, np.uint16))
    with pytest.raises(BadDataError, match=rf"every pixel is ({value}|zero), on the whole CCD"):
        read_frame(first_frame(tmp_path), tiny)


def test_ccd_saturated_all_over(
    tmp_path: Path, make_visit: Any, first_frame: FirstFrame, tiny: Camera
) -> None:
    """Full wells scatter, and dead pixels stay dark: all the same there is no data."""
    rng = np.random.default_rng(1)
    for path in make_visit(snaps=(0,)):
        pixels = rng.integers(60_000, 65_000, (266, 138)).astype(np.uint16)
        pixels[::50, ::50] = 1000
        rewrite(path, pixels)
    with pytest.raises(BadDataError, match="saturated all over"):
        read_frame(first_frame(tmp_path), tiny)


def test_one_dead_channel_does_not_lose_the_ccd(
    one_snap: tuple[FrameFiles, list[Path]], tiny: Camera
) -> None:
    files, paths = one_snap
    rewrite(paths[2], np.zeros((266, 138), np.uint16))
    frame = read_frame(files, tiny)
    assert [bool(channel.dead) for channel in frame.channels].count(True) == 1
    assert frame.channels[2].dead == "every pixel is zero"
    assert len(frame.warnings) == 1 and "C12" in frame.warnings[0]


@pytest.mark.parametrize(
    ("cards", "key"),
    [
        ({"EXPTIME": None}, "EXPTIME"),
        ({"EXPTIME": -3.0}, "EXPTIME"),
        ({"EXPTIME": "soon"}, "EXPTIME"),
        ({"FILTER": None}, "FILTER"),
        ({"CHIPID": "R22_S00"}, "CHIPID"),
        ({"CCDSUM": "0 1"}, "CCDSUM"),
    ],
)
def test_wrong_header_keys(
    one_snap: tuple[FrameFiles, list[Path]], tiny: Camera, cards: dict[str, Any], key: str
) -> None:
    files, paths = one_snap
    rewrite(paths[0], **cards)
    with pytest.raises(BadDataError) as caught:
        read_frame(files, tiny)
    assert caught.value.key == key and caught.value.file == str(paths[0])


def test_file_of_another_visit(one_snap: tuple[FrameFiles, list[Path]], tiny: Camera) -> None:
    files, paths = one_snap
    rewrite(paths[1], FILTER="g")
    with pytest.raises(BadDataError, match=r"C11_E000.*band is 'g', not 'r'"):
        read_frame(files, tiny)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.97])
def test_truncated_gzip(
    tmp_path: Path, make_visit: Any, first_frame: FirstFrame, tiny: Camera, part: float
) -> None:
    paths = make_visit(snaps=(0,), suffix=".fits.gz")
    files = first_frame(tmp_path)
    content = paths[7].read_bytes()
    paths[7].write_bytes(content[: int(part * len(content))])
    with pytest.raises(BadDataError, match=r"C17_E000\.fits\.gz.*gzip"):
        read_frame(files, tiny)


def test_corrupt_gzip(
    tmp_path: Path, make_visit: Any, first_frame: FirstFrame, tiny: Camera
) -> None:
    """A flipped bit in the pixels shows in the checksum at the end."""
    paths = make_visit(snaps=(0,), suffix=".fits.gz")
    files = first_frame(tmp_path)
    content = bytearray(gzip.compress(gzip.decompress(paths[0].read_bytes()), 0))
    content[len(content) // 2] ^= 4
    paths[0].write_bytes(content)
    with pytest.raises(BadDataError, match="corrupt gzip"):
        read_frame(files, tiny)


# -- multi-extension files, binned and windowed ----------------------------------------------------


def write_sinistro(path: Path, binning: int = 2, **changes: str) -> np.ndarray:
    """A quadrant camera: window 33:96 of 128 unbinned pixels, read to four corners."""
    half = 32 // binning
    rng = np.random.default_rng(3)
    image = rng.integers(1000, 2000, (2 * half, 2 * half)).astype(np.uint16)
    primary = fits.PrimaryHDU()
    primary.header.update(
        INSTRUME="fa05", OBSTYPE="EXPOSE", FILTER="rp", EXPTIME=10.0, GAIN=0.0, RDNOISE=7.0,
        SATURATE=40000.0, CCDSUM=f"{binning} {binning}",
    )  # fmt: skip
    primary.header["DATE-OBS"] = "2021-10-08T01:55:17.144"
    hdus = [primary]
    corners = {1: ("33:64", "96:65"), 2: ("33:64", "33:64"), 3: ("96:65", "33:64"),
               4: ("96:65", "96:65")}  # fmt: skip
    for number, (xs, ys) in corners.items():
        raw = np.full((half + 3, half + 9), 500 + number, np.uint16)
        flip_x, flip_y = xs.startswith("96"), ys.startswith("96")
        part = image[half if flip_y else 0 :, half if flip_x else 0 :][:half, :half]
        raw[:half, :half] = part[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
        hdu = fits.ImageHDU(raw, name="SCI", ver=number)
        hdu.header.update(
            DATASEC=f"[1:{half},1:{half}]", BIASSEC=f"[{half + 2}:{half + 9},1:{half}]",
            DETSEC=f"[{xs},{ys}]", GAIN=1.0 + number,
        )  # fmt: skip
        if number == 3:
            for key, value in changes.items():
                if value:
                    hdu.header[key] = value
                else:
                    del hdu.header[key]
        hdus.append(hdu)
    fits.HDUList(hdus).writeto(path)
    return image


@pytest.mark.parametrize("binning", [1, 2, 4])
def test_binned_window(tmp_path: Path, first_frame: FirstFrame, binning: int) -> None:
    camera = load_camera("lco-sinistro")
    image = write_sinistro(tmp_path / "a.fits", binning)
    frame = read_frame(first_frame(tmp_path, camera), camera)
    np.testing.assert_array_equal(placed(frame), image)
    assert frame.info.binning == (binning, binning)
    for number, channel in enumerate(frame.channels, start=1):
        assert (channel.gain, channel.read_noise, channel.saturation) == (1.0 + number, 7.0, 40000)
        assert channel.biassec is not None
        assert (channel.biassec.cut(channel.pixels) == 500 + number).all()


@pytest.mark.parametrize(
    ("changes", "key", "reason"),
    [
        ({"DATASEC": "[1:5000,1:16]"}, "DATASEC", "leaves the image"),
        ({"DATASEC": "[1:8,1:16]"}, "DETSEC", "differ in size"),
        ({"DATASEC": "nonsense"}, "DATASEC", "no image section"),
        ({"DATASEC": ""}, "DATASEC", "no data section"),
        ({"BIASSEC": "[10:20,1:16]"}, "BIASSEC", "overlaps"),
        ({"BIASSEC": "[18:99,1:16]"}, "BIASSEC", "leaves the image"),
        ({"DETSEC": ""}, "DETSEC", "nothing tells where"),
        ({"DETSEC": "[33:64,33:64]"}, "DETSEC", "two channels claim"),
    ],
)
def test_absurd_sections(
    tmp_path: Path, first_frame: FirstFrame, changes: dict[str, str], key: str, reason: str
) -> None:
    camera = load_camera("lco-sinistro")
    write_sinistro(tmp_path / "a.fits", **changes)
    with pytest.raises(BadDataError, match=reason) as caught:
        read_frame(first_frame(tmp_path, camera), camera)
    assert caught.value.key == key and caught.value.file == str(tmp_path / "a.fits")
    assert caught.value.way_out


def test_unknown_biassec_means_no_overscan(tmp_path: Path, first_frame: FirstFrame) -> None:
    camera = load_camera("lco-sinistro")
    write_sinistro(tmp_path / "a.fits", BIASSEC="UNKNOWN")
    frame = read_frame(first_frame(tmp_path, camera), camera)
    assert frame.channels[2].biassec is None and frame.channels[1].biassec is not None


def test_missing_extension(tmp_path: Path, first_frame: FirstFrame) -> None:
    camera = load_camera("lco-sinistro")
    write_sinistro(tmp_path / "a.fits")
    files = first_frame(tmp_path, camera)
    with fits.open(tmp_path / "a.fits", memmap=False) as hdus:
        fits.HDUList([hdu.copy() for hdu in hdus[:4]]).writeto(tmp_path / "a.fits", overwrite=True)
    with pytest.raises(MissingInputError, match="has no HDU 4"):
        read_frame(files, camera)


# -- two amplifiers in an HDU ----------------------------------------------------------------------


def write_decam(path: Path, ccds: tuple[str, ...]) -> dict[str, np.ndarray]:
    """A mosaic file in the layout of DECam, shrunk: 56 + 2 x 1024 + 56 becomes 8 + 2 x 32 + 8.

    On northern CCDs A is on the left, on southern ones on the right; DETSEC counts the pixels of
    the whole mosaic.
    """
    rng = np.random.default_rng(4)
    primary = fits.PrimaryHDU()
    primary.header.update(
        INSTRUME="DECam", OBSTYPE="object", FILTER="r DECam SDSS c0002 6415.0 1480.0",
        EXPTIME=90.0, EXPNUM=411420,
    )  # fmt: skip
    primary.header["DATE-OBS"] = "2015-02-17T03:00:00.5"
    hdus = [primary]
    images = {}
    for index, name in enumerate(ccds):
        image = rng.integers(1000, 2000, (40, 64)).astype(np.int32)
        raw = np.zeros((50, 80), np.int32)
        raw[5:45, 8:72] = image
        raw[:, :8], raw[:, 72:] = 611, 722
        left, right = ("A", "B") if name.startswith("N") else ("B", "A")
        hdu = fits.ImageHDU(raw, name=name)
        x = 100 * index
        hdu.header.update({
            f"DATASEC{left}": "[9:40,6:45]", f"DATASEC{right}": "[41:72,6:45]",
            f"BIASSEC{left}": "[1:8,6:45]", f"BIASSEC{right}": "[73:80,6:45]",
            f"DETSEC{left}": f"[{x + 1}:{x + 32},201:240]",
            f"DETSEC{right}": f"[{x + 33}:{x + 64},201:240]",
            "GAINA": 4.1, "GAINB": 4.3, "RDNOISEA": 6.0, "RDNOISEB": 6.5,
            "SATURATA": 41000.0, "SATURATB": 42000.0,
        })  # fmt: skip
        hdu.header.update(
            CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CRVAL1=150.0, CRVAL2=2.0, CRPIX1=9.0,
            CRPIX2=6.0, CD1_1=0.0, CD1_2=7e-5, CD2_1=-7e-5, CD2_2=0.0,
        )  # fmt: skip
        hdus.append(hdu)
        images[name] = image
    fits.HDUList(hdus).writeto(path)
    return images


def test_two_amplifiers_in_an_hdu(tmp_path: Path) -> None:
    from mpipipe.store.scan import scan

    camera = load_camera("decam")
    images = write_decam(tmp_path / "a.fits", ("N4", "S4", "N31"))
    inventory = scan(tmp_path)
    assert inventory.camera == camera and not inventory.problems
    assert [visit.detector for visit in inventory.science] == ["S4", "N4", "N31"]
    for visit in inventory.science:
        assert visit.visit == 411420 and visit.band == "r"
        frame = read_frame(visit.snaps[0], camera)
        np.testing.assert_array_equal(placed(frame), images[visit.detector])
        a, b = frame.channels
        assert (a.name, a.gain, a.read_noise, a.saturation) == ("A", 4.1, 6.0, 41000.0)
        assert (b.name, b.gain, b.read_noise, b.saturation) == ("B", 4.3, 6.5, 42000.0)
        level = {"A": 611, "B": 722} if visit.detector[0] == "N" else {"A": 722, "B": 611}
        for channel in frame.channels:
            assert channel.biassec is not None
            assert (channel.biassec.cut(channel.pixels) == level[channel.name]).all()
        # The reference pixel is the first data pixel, which is the first of the image.
        assert (frame.wcs_header["CRPIX1"], frame.wcs_header["CRPIX2"]) == (1.0, 1.0)


def test_mosaic_file_cut_short_fails_each_ccd(tmp_path: Path) -> None:
    from mpipipe.store.scan import scan

    camera = load_camera("decam")
    write_decam(tmp_path / "a.fits", ("N4", "S4", "N31"))
    content = (tmp_path / "a.fits").read_bytes()
    (tmp_path / "a.fits").write_bytes(content[: len(content) - 20_000])
    inventory = scan(tmp_path)
    assert [problem.kind for problem in inventory.problems] == ["unreadable"]
    assert {"N4", "S4", "N31"} <= {visit.detector for visit in inventory.science}
    for visit in inventory.science[:3]:
        with pytest.raises(BadDataError, match="truncated"):
            read_frame(visit.snaps[0], camera)


# -- one image -------------------------------------------------------------------------------------


def write_single(path: Path, pixels: np.ndarray, **cards: Any) -> None:
    hdu = fits.PrimaryHDU(pixels)
    hdu.header.update(OBJECT="x", IMAGETYP="object", FILTER="V", EXPTIME=5.0)
    hdu.header["DATE-OBS"] = "2024-01-02T03:04:05"
    for key, value in cards.items():
        hdu.header[key] = value
    hdu.writeto(path)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.float32, np.float64])
def test_single_image_keeps_its_type(
    tmp_path: Path, first_frame: FirstFrame, dtype: type[np.generic]
) -> None:
    camera = load_camera("generic")
    pixels = np.random.default_rng(5).integers(0, 30000, (40, 60)).astype(dtype)
    write_single(tmp_path / "a.fits", pixels)
    frame = read_frame(first_frame(tmp_path, camera), camera)
    assert frame.channels[0].pixels.dtype == dtype
    np.testing.assert_array_equal(frame.channels[0].pixels, pixels)
    assert frame.shape == (40, 60) and frame.channels[0].biassec is None
    assert (frame.channels[0].gain, frame.channels[0].saturation) == (None, 65535.0)


def test_trimsec_tells_the_data_where_datasec_does_not(
    tmp_path: Path, first_frame: FirstFrame
) -> None:
    camera = load_camera("generic")
    pixels = np.random.default_rng(5).integers(0, 30000, (40, 60)).astype(np.uint16)
    write_single(
        tmp_path / "a.fits", pixels,
        DATASEC="[1:60,1:40]", TRIMSEC="[5:60,2:40]", BIASSEC="[1:4,1:40]", PSCANP=4294967300,
    )  # fmt: skip
    frame = read_frame(first_frame(tmp_path, camera), camera)
    assert str(frame.channels[0].datasec) == "[5:60,2:40]"
    np.testing.assert_array_equal(placed(frame), pixels[1:, 4:])


@pytest.mark.parametrize("gain", [0.0, -1.0, "unknown", "NaN"])
def test_gain_that_makes_no_sense_is_unknown(
    tmp_path: Path, first_frame: FirstFrame, gain: object
) -> None:
    camera = load_camera("generic")
    pixels = np.random.default_rng(5).integers(0, 30000, (4, 6)).astype(np.uint16)
    write_single(tmp_path / "a.fits", pixels, GAIN=gain)
    assert read_frame(first_frame(tmp_path, camera), camera).channels[0].gain is None


def test_two_files_for_one_ccd(tmp_path: Path, first_frame: FirstFrame) -> None:
    camera = load_camera("generic")
    pixels = np.arange(24, dtype=np.uint16).reshape(4, 6)
    write_single(tmp_path / "a.fits", pixels)
    write_single(tmp_path / "b.fits", pixels)
    with pytest.raises(BadDataError, match=r"b\.fits.*second file of CCD ccd0.*a\.fits"):
        read_frame(first_frame(tmp_path, camera), camera)
