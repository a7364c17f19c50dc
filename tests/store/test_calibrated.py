"""Frames reduced elsewhere: their variance predicts their noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from mpipipe.data import mask
from mpipipe.data.camera import Camera
from mpipipe.data.errors import BadDataError
from mpipipe.store.calibrated import read_calibrated
from mpipipe.store.cameras import load_camera


def camera(**constants: Any) -> Camera:
    content = load_camera("calibrated-generic").model_dump()
    content["header"]["constants"] |= constants
    return Camera.model_validate(content)


def write(path: Path, pixels: np.ndarray, **cards: Any) -> Path:
    hdu = fits.PrimaryHDU(pixels.astype(np.float32))
    hdu.header.update(EXPTIME=30.0, FILTER="V", GAIN=2.0, RDNOISE=6.0)
    hdu.header["DATE-OBS"] = "2024-01-02T03:04:05"
    for key, value in cards.items():
        if value is None:
            del hdu.header[key]
        else:
            hdu.header[key] = value
    hdu.writeto(path, overwrite=True)
    return path


def noisy(sky: float, gain: float = 2.0, read_noise: float = 6.0) -> np.ndarray:
    """ADU of a blank sky of `sky` electrons."""
    rng = np.random.default_rng(1)
    shape = (400, 400)
    return np.asarray(
        (rng.poisson(sky, shape) + rng.normal(0, read_noise, shape)) / gain, dtype=np.float64
    )


@pytest.mark.parametrize("subtracted", [False, True])
@pytest.mark.parametrize("sky", [30.0, 5000.0])
def test_variance_predicts_the_noise(tmp_path: Path, sky: float, subtracted: bool) -> None:
    pixels = noisy(sky)
    if subtracted:
        pixels -= sky / 2.0
    exposure = read_calibrated(write(tmp_path / "a.fits", pixels), camera())
    pull = (exposure.image - np.median(exposure.image)) / np.sqrt(exposure.variance)
    assert pull.std() == pytest.approx(1.0, abs=0.03)
    assert exposure.info.exposure_time == 30.0 and exposure.info.band == "V"
    assert (exposure.variance > 0).all()


def test_pixels_that_are_no_numbers_are_masked(tmp_path: Path) -> None:
    pixels = noisy(1000.0)
    pixels[3, 4], pixels[5, 6] = np.nan, np.inf
    exposure = read_calibrated(write(tmp_path / "a.fits", pixels), camera())
    assert np.isfinite(exposure.image).all() and np.isfinite(exposure.variance).all()
    assert mask.is_set(exposure.mask, "NO_DATA").sum() == 2
    assert exposure.mask[3, 4] == exposure.mask[5, 6] == mask.bits("NO_DATA", "BAD")


def test_constants_of_the_camera_fill_in(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", noisy(1000.0), EXPTIME=None, FILTER=None, GAIN=None)
    with pytest.raises(BadDataError) as caught:
        read_calibrated(path, camera(exposure_time=12.0, filter="R"))
    assert caught.value.key == "GAIN" and "header.constants.gain" in str(caught.value)
    exposure = read_calibrated(path, camera(exposure_time=12.0, filter="R", gain=2.0))
    assert (exposure.info.exposure_time, exposure.info.band) == (12.0, "R")
    assert list(exposure.gain.values()) == [2.0]


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.full((10, 10), np.nan), "no finite pixel"),
        (np.zeros((10, 10)), "every pixel is 0"),
        (np.zeros(10), "no image of two axes"),
    ],
)
def test_frames_without_data(tmp_path: Path, pixels: np.ndarray, reason: str) -> None:
    with pytest.raises(BadDataError, match=reason):
        read_calibrated(write(tmp_path / "a.fits", pixels), camera())


def test_saturation_is_masked(tmp_path: Path) -> None:
    pixels = noisy(1000.0)
    pixels[10:12, 20] = 60000.0
    exposure = read_calibrated(write(tmp_path / "a.fits", pixels, SATURATE=50000.0), camera())
    assert mask.is_set(exposure.mask, "SAT").sum() == 2
