"""Exposure files: what is read is what was written, to the stated quantisation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from mpipipe.data import mask as planes
from mpipipe.data.background import Background
from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import Exposure
from mpipipe.data.raw import FrameInfo
from mpipipe.data.sections import Section
from mpipipe.store.images import read_background, read_exposure, write_background, write_exposure

SIGMA = 20.0
PROVENANCE = {"input a.fits": "0" * 64, "version numpy": "2"}


@pytest.fixture
def exposure() -> Exposure:
    rng = np.random.default_rng(4)
    shape = (120, 200)
    image = rng.normal(0, SIGMA, shape).astype(np.float32)
    mask = np.zeros(shape, np.int32)
    mask[10:20, 30] = planes.bits("BAD", "INTRP")
    mask[50] = planes.bits("SNAP_DIFF")
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [10.0, -30.0], [100.0, 60.0], [-5e-5, 5e-5]
    info = FrameInfo("cam", 2**40 - 1, 0, "R22_S11", 94, "science", "r", 30.0, 31.0, 60000.25)
    return Exposure(
        image,
        mask,
        np.full(shape, SIGMA**2, np.float32),
        info,
        channel_sections={"C00": Section(0, 100, 0, 120), "C01": Section(100, 200, 0, 120)},
        gain={"C00": 1.7, "C01": 1.6},
        read_noise={"C00": 7.0, "C01": 8.0},
        wcs=wcs,
        n_snaps=2,
        applied={"bias": "master", "flat": "master r"},
    )


def test_plain_storage_gives_back_every_bit(exposure: Exposure, tmp_path: Path) -> None:
    path = tmp_path / "calexp" / "e.fits"
    write_exposure(path, exposure, provenance=PROVENANCE, compression="none")
    back = read_exposure(path)
    np.testing.assert_array_equal(back.image, exposure.image)
    np.testing.assert_array_equal(back.mask, exposure.mask)
    np.testing.assert_array_equal(back.variance, exposure.variance)


def test_quantised_storage_stays_far_below_the_noise(exposure: Exposure, tmp_path: Path) -> None:
    path = tmp_path / "e.fits"
    write_exposure(path, exposure, provenance=PROVENANCE, quantize_level=16.0)
    back = read_exposure(path)
    error = back.image - exposure.image
    assert abs(error.mean()) < 0.002 * SIGMA
    assert error.std() < 0.02 * SIGMA
    np.testing.assert_array_equal(back.mask, exposure.mask)
    np.testing.assert_allclose(back.variance, exposure.variance, rtol=2e-3)
    assert fits.getheader(path)["QLEVEL"] == 16.0


def test_pixels_without_a_value_stay_so(exposure: Exposure, tmp_path: Path) -> None:
    exposure.image[3:5] = np.nan
    exposure.variance[3:5] = np.inf
    path = tmp_path / "e.fits"
    write_exposure(path, exposure, provenance=PROVENANCE)
    back = read_exposure(path)
    assert np.isnan(back.image[3:5]).all() and np.isnan(back.variance[3:5]).all()
    assert np.isfinite(back.image[5:]).all()


def test_what_is_known_about_an_exposure_survives(exposure: Exposure, tmp_path: Path) -> None:
    path = tmp_path / "e.fits"
    write_exposure(path, exposure, provenance=PROVENANCE)
    back = read_exposure(path)
    for name in ("visit", "detector", "detector_number", "band", "exposure_time", "mjd_start"):
        assert getattr(back.info, name) == getattr(exposure.info, name), name
    assert back.n_snaps == 2
    assert back.channel_sections == exposure.channel_sections
    assert back.gain == exposure.gain and back.read_noise == exposure.read_noise
    assert back.applied == exposure.applied
    assert back.wcs is not None and exposure.wcs is not None
    np.testing.assert_allclose(
        back.wcs.all_pix2world(12.0, 34.0, 0), exposure.wcs.all_pix2world(12.0, 34.0, 0), rtol=1e-13
    )
    with fits.open(path) as hdus:
        assert hdus["MASK"].header["MP_SAT"] == planes.BIT["SAT"]
        rows = {row["name"]: row["value"] for row in hdus["PROVENANCE"].data}
    assert rows == PROVENANCE


def test_the_same_exposure_gives_the_same_bytes(exposure: Exposure, tmp_path: Path) -> None:
    digests = {
        write_exposure(tmp_path / name, exposure, provenance=PROVENANCE) for name in ("a", "b")
    }
    assert len(digests) == 1
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_another_fits_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.fits"
    fits.PrimaryHDU(np.zeros((3, 3))).writeto(path)
    with pytest.raises(BadDataError, match="is no exposure"):
        read_exposure(path)


def test_backgrounds_come_back(exposure: Exposure, tmp_path: Path) -> None:
    background = Background(np.arange(6.0).reshape(2, 3), np.full((2, 3), np.nan), (120, 200))
    path = tmp_path / "b.fits"
    write_background(path, background, exposure.info, provenance=PROVENANCE)
    back = read_background(path)
    np.testing.assert_array_equal(back.image(), background.image())
