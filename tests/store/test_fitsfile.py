"""Reading images: the same pixels as astropy, and every damaged file ends as bad data."""

from __future__ import annotations

import gzip
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpipipe.data.errors import BadDataError
from mpipipe.store.fitsfile import FitsFile, select_cards

SETTINGS = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def read_all(path: Path) -> list[np.ndarray]:
    with FitsFile(path) as file:
        pixels = [file.data(hdu) for hdu in file.hdus if hdu.shape]
        file.finish()
    return pixels


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [
        rng.integers(0, 65536, (21, 33)).astype(np.uint16),
        rng.integers(-30000, 30000, (40, 7)).astype(np.int16),
        rng.integers(0, 2**32, (9, 9)).astype(np.uint32),
        rng.integers(-(2**31), 2**31, (9, 9)).astype(np.int32),
        rng.normal(size=(5, 6)).astype(np.float32),
        rng.normal(size=(5, 6)),
    ]


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz"])
def test_all_pixel_types(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    made = images()
    fits.HDUList([fits.PrimaryHDU(), *(fits.ImageHDU(image) for image in made)]).writeto(path)
    for expected, found in zip(made, read_all(path), strict=True):
        assert found.dtype == expected.dtype and found.dtype.isnative
        np.testing.assert_array_equal(found, expected)


def test_tile_compressed(tmp_path: Path) -> None:
    path = tmp_path / "a.fits.fz"
    made = images()[:2]
    hdus = [fits.CompImageHDU(image, compression_type="RICE_1") for image in made]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    for expected, found in zip(made, read_all(path), strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_scaling_and_blank(tmp_path: Path) -> None:
    hdu = fits.PrimaryHDU(np.array([[1, 2], [3, -7]], dtype=np.int16))
    path = tmp_path / "a.fits"
    hdu.writeto(path)
    content = path.read_bytes()
    cards = b"BSCALE  = 0.5".ljust(80) + b"BZERO   = 10.".ljust(80) + b"BLANK   = -7".ljust(80)
    end = content.index(b"END     ")
    path.write_bytes(content[:end] + cards + content[end : 2880 - len(cards)] + content[2880:])
    np.testing.assert_array_equal(read_all(path)[0], np.array([[10.5, 11.0], [11.5, np.nan]]))


def test_several_gzip_members(tmp_path: Path) -> None:
    """Files gzipped in pieces, as parallel tools write them."""
    path = tmp_path / "a.fits"
    fits.PrimaryHDU(images()[0]).writeto(path)
    content = path.read_bytes()
    path.write_bytes(gzip.compress(content[:1000]) + gzip.compress(content[1000:]))
    np.testing.assert_array_equal(read_all(path)[0], images()[0])


def test_nothing_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    fits.PrimaryHDU(images()[0]).writeto(path)
    before = os.listdir("/proc/self/fd")
    for _ in range(10):
        read_all(path)
    path.write_bytes(path.read_bytes()[:3000])
    for _ in range(10):
        with pytest.raises(BadDataError):
            read_all(path)
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"hello" * 1000, "no FITS file"),
        (b"SIMPLE  = " + b"x" * 100_000, "no END"),
        (b"\x1f\x8b\x08\x00 broken", "corrupt gzip|truncated gzip"),
        (gzip.compress(b"hello" * 1000), "no FITS file"),
    ],
)
def test_other_files_are_bad_data(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.fits"
    path.write_bytes(content)
    with pytest.raises(BadDataError, match=rf"a\.fits.*({reason})"):
        read_all(path)


def test_no_file_no_permission_no_regular_file(tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match="No such file"):
        read_all(tmp_path / "none.fits")
    with pytest.raises(BadDataError, match="is no file"):
        read_all(tmp_path)
    os.mkfifo(tmp_path / "pipe.fits")
    with pytest.raises(BadDataError, match="is no file"):
        read_all(tmp_path / "pipe.fits")


@pytest.mark.parametrize("bitpix", [8, 32, 12])
def test_wrong_bitpix_is_noticed(tmp_path: Path, bitpix: int) -> None:
    """Pixels of another size than the header says, too long or too short."""
    path = tmp_path / "a.fits"
    fits.PrimaryHDU(np.full((100, 100), 500, np.int16)).writeto(path)
    content = path.read_bytes().replace(b"                  16", f"{bitpix:>20}".encode(), 1)
    path.write_bytes(content)
    with pytest.raises(BadDataError, match="truncated|behind its last|no pixel type"):
        read_all(path)


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same pixels in a plain, a gzipped and a compressed file."""
    folder = tmp_path_factory.mktemp("whole")
    pixels = np.random.default_rng(2).integers(900, 1100, (120, 90)).astype(np.uint16)
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(pixels), fits.ImageHDU(pixels)]).writeto(
        folder / "a.fits"
    )
    packed = fits.CompImageHDU(pixels, compression_type="RICE_1")
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(folder / "a.fits.fz")
    (folder / "a.fits.gz").write_bytes(gzip.compress((folder / "a.fits").read_bytes()))
    return folder


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz", ".fits.fz"])
@given(part=st.floats(0.0, 0.999))
@SETTINGS
def test_truncated_anywhere(tmp_path: Path, whole_files: Path, suffix: str, part: float) -> None:
    """Cut short anywhere, a file is bad data or (without padding alone) whole; never a crash."""
    content = (whole_files / f"a{suffix}").read_bytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(content[: int(part * len(content))])
    try:
        pixels = read_all(path)
    except BadDataError as error:
        assert error.file == str(path) and error.reason
    else:
        # Cut exactly between two HDUs, or within the padding behind the last pixels.
        assert all(image.shape == (120, 90) for image in pixels)
        assert suffix != ".fits.gz"


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz", ".fits.fz"])
@given(where=st.floats(0.0, 0.999), byte=st.integers(0, 255))
@SETTINGS
def test_damaged_anywhere(
    tmp_path: Path, whole_files: Path, suffix: str, where: float, byte: int
) -> None:
    """One wrong byte anywhere gives pixels or bad data, and no other exception."""
    content = bytearray((whole_files / f"a{suffix}").read_bytes())
    content[int(where * len(content))] = byte
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read_all(path)
        except BadDataError as error:
            assert error.file == str(path)


def test_selected_cards(tmp_path: Path) -> None:
    primary, extension = fits.PrimaryHDU(), fits.ImageHDU(np.zeros((2, 2)), name="SCI")
    primary.header["GAIN"], extension.header["GAIN"] = 0.0, 6.4
    extension.header["FILTER"] = "r"
    path = tmp_path / "a.fits"
    fits.HDUList([primary, extension]).writeto(path)
    with FitsFile(path, headers_only=True) as file:
        found = select_cards(file.hdus, ["GAIN", "SCI:GAIN", "1:GAIN", "FILTER", "NONE"])
    assert found == {"GAIN": 0.0, "SCI:GAIN": 6.4, "1:GAIN": 6.4, "FILTER": "r"}
