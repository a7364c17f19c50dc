"""PSF files: every kind comes back to the bit; damage is told, never read as a PSF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from mpipipe.data.aperture_correction import ApertureCorrection
from mpipipe.data.ccd_polynomial import CcdPolynomial
from mpipipe.data.errors import BadDataError
from mpipipe.data.guess_psf import GuessPsf
from mpipipe.data.piff_psf import PiffPsf
from mpipipe.data.pixel_psf import PixelPsf
from mpipipe.data.psf import KINDS, Psf
from mpipipe.data.raw import FrameInfo
from mpipipe.data.shapelet_psf import ShapeletPsf
from mpipipe.store.psf import read_aperture_correction, read_psf, write_psf

INFO = FrameInfo("cam", 2**40 - 1, 0, "R22_S11", 94, "science", "r", 30.0, 31.0, 60000.25)
PROVENANCE = {"input calexp.fits": "0" * 64, "version numpy": "2"}
SHAPE = (300, 401)
RANDOM = np.random.default_rng(1)

MODELS: dict[str, Psf] = {
    "guess": GuessPsf(2.5, 2.2, 0.1, 25, 11.3, SHAPE),
    "pixel": PixelPsf(RANDOM.random((6, 25, 25)), 3.6, 11.3, SHAPE, 41),
    "shapelet": ShapeletPsf(
        RANDOM.random((1, 34)), np.array([1.1, 2.2]), np.array([6, 2]), SHAPE, 11.3, 3.6, 7
    ),
    "piff": PiffPsf(RANDOM.random((11, 11, 3)), 1.2, 7, 25, SHAPE, 11.3, 3.6, 40),
}

CORRECTION = ApertureCorrection(
    CcdPolynomial(np.array([1.02, 0.003, -0.001]), np.diag([1e-6, 2e-6, 3e-6]), SHAPE), 30, False
)


def test_every_kind_is_tried() -> None:
    assert set(MODELS) == set(KINDS)


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_comes_back_to_the_bit(kind: str, tmp_path: Path) -> None:
    psf = MODELS[kind]
    first = write_psf(tmp_path / "a" / "psf.fits", psf, CORRECTION, INFO, provenance=PROVENANCE)
    back = read_psf(tmp_path / "a" / "psf.fits")
    assert type(back) is type(psf) and back.shape == psf.shape
    for name, array in psf.arrays().items():
        got = back.arrays()[name]
        assert got.shape == array.shape and got.tobytes() == array.tobytes()
    if kind != "piff":
        np.testing.assert_array_equal(back.image(30.3, 40.8), psf.image(30.3, 40.8))
    second = write_psf(tmp_path / "b.fits", back, CORRECTION, INFO, provenance=PROVENANCE)
    assert first == second


def test_the_aperture_correction_lies_beside(tmp_path: Path) -> None:
    write_psf(tmp_path / "psf.fits", MODELS["guess"], CORRECTION, INFO, provenance=PROVENANCE)
    back = read_aperture_correction(tmp_path / "psf.fits").arrays()
    for name, array in CORRECTION.arrays().items():
        assert back[name].tobytes() == array.tobytes()


def test_headers_tell_what_it_is(tmp_path: Path) -> None:
    write_psf(tmp_path / "psf.fits", MODELS["pixel"], CORRECTION, INFO, provenance=PROVENANCE)
    with fits.open(tmp_path / "psf.fits") as hdus:
        header = hdus[0].header
        assert [header[key] for key in ("KIND", "FWHM", "RADIUS", "NSTARS", "GUESS")] == [
            "pixel", 3.6, 11.3, 41, False,
        ]  # fmt: skip
        assert [header[key] for key in ("IMGNX", "IMGNY", "VISIT", "CCD", "FILTER")] == [
            401, 300, 2**40 - 1, "R22_S11", "r",
        ]  # fmt: skip
        assert dict(hdus["PROVENANCE"].data.tolist()) == PROVENANCE


@settings(max_examples=30)
@given(data=st.data())
def test_damaged_files_are_told(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Cut short anywhere, or with a header byte changed: a PSF as written, or BadDataError."""
    path = tmp_path_factory.mktemp("damage") / "psf.fits"
    write_psf(path, MODELS["shapelet"], CORRECTION, INFO, provenance=PROVENANCE)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 14401)) :]
    else:
        content[data.draw(st.integers(0, 8000))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        assert isinstance(read_psf(path), Psf)
    except BadDataError as error:
        assert "psf.fits" in str(error)


def test_a_column_without_its_format_is_told(tmp_path: Path) -> None:
    """What astropy meets with an error of its own code."""
    path = tmp_path / "psf.fits"
    write_psf(path, MODELS["shapelet"], CORRECTION, INFO, provenance=PROVENANCE)
    content = path.read_bytes()
    assert b"TFORM1  =" in content
    path.write_bytes(content.replace(b"TFORM1  =", b"TFORN1  =", 1))
    with pytest.raises(BadDataError, match="psf.fits"):
        read_psf(path)


def test_what_is_no_psf_is_told(tmp_path: Path) -> None:
    path = tmp_path / "psf.fits"
    with pytest.raises(BadDataError, match="can not be read"):
        read_psf(path)
    fits.PrimaryHDU(np.zeros((3, 3))).writeto(path)
    with pytest.raises(BadDataError, match="is no PSF of mpipipe"):
        read_psf(path)
    write_psf(path, MODELS["pixel"], CORRECTION, INFO, provenance=PROVENANCE)
    with fits.open(path, mode="update") as hdus:
        hdus[0].header["KIND"] = "os.system"
    with pytest.raises(BadDataError, match="kind 'os.system'; known are guess, "):
        read_psf(path)
    with fits.open(path, mode="update") as hdus:
        hdus[0].header["KIND"] = "shapelet"
    with pytest.raises(BadDataError, match="holds no sound PSF"):
        read_psf(path)
