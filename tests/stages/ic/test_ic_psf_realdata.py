"""Kinds of PSF on real Rubin stars, each star predicted by a model that has not seen it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from mpipipe.data.moments import adaptive_moments
from mpipipe.stages.ic.psf_determination import FITS
from mpipipe.stages.ic.psf_stars import PsfOptions, PsfStars
from mpipipe.stages.psf_photometry import Pixels, psf_photometry
from mpipipe.stages.seeing import FWHM_OF_SIGMA

SHAPE = (4000, 4072)
BRIGHT = 2e5
CORE = 8
"""Half width of the part that is compared, pixels: 2.2 FWHM."""

PIFF = 0.027
"""Median residual of the bright stars by Piff 1.7 (PixelGrid with Lanczos-7, order 0 or 1)."""


@pytest.fixture(scope="module")
def stars(realdata: Path) -> PsfStars:
    path = realdata / "piff-rubin-stars" / "testStarsRubin.fits"
    if not path.is_file():
        pytest.skip("piff-rubin-stars is not among the real frames")
    with fits.open(path) as hdus:
        row = hdus[1].data[0]
        image, weight = row["IMAGE"].astype(float), row["WEIGHT"].astype(float)
        x, y = row["X"].astype(float), row["Y"].astype(float)
        middle_x, middle_y = row["XMIN"].astype(np.int64) + 12, row["YMIN"].astype(np.int64) + 12
    rim = np.ones((25, 25), dtype=bool)
    rim[2:-2, 2:-2] = False
    for k in range(len(image)):
        image[k] -= np.median(image[k][rim & (weight[k] > 0)])
    ixx, iyy, ixy = adaptive_moments(image)[:, :3].T
    fwhm = FWHM_OF_SIGMA * float(np.nanmedian((ixx * iyy - ixy**2) ** 0.25))
    bad = weight == 0
    offset = np.arange(-12, 13)
    inside = np.hypot(offset[:, None], offset) < 3 * fwhm
    return PsfStars(
        stamps=np.where(bad, 0.0, image),
        variance=np.where(bad, 1e30, 1.0 / np.where(bad, 1.0, weight)),
        bad=bad,
        x=x,
        y=y,
        flux=np.maximum((image * inside).sum(axis=(1, 2)), 1.0),
        middle_x=middle_x,
        middle_y=middle_y,
        shape=SHAPE,
        radius=3 * fwhm,
        fwhm=fwhm,
    )


def held_out_residuals(stars: PsfStars, kind: str) -> np.ndarray:
    """Of each star: rms of (star - model) over rms of the model, the model made without it."""
    pixels = _exposure(stars)
    fold = np.arange(len(stars)) % 5
    residuals = np.empty(len(stars))
    for number in range(5):
        psf = FITS[kind](stars.take(fold != number), PsfOptions((0, 1), 1)).psf
        out = np.flatnonzero(fold == number)
        found = psf_photometry(pixels, psf, stars.x[out], stars.y[out], 2 * stars.fwhm)
        middle = slice(psf.size // 2 - CORE, psf.size // 2 + CORE + 1)
        models = psf.images(found["x"], found["y"])[:, middle, middle]
        for k, x, y, flux, model in zip(
            out, found["x"], found["y"], found["flux"], models, strict=True
        ):
            i, j = round(x), round(y)
            place = np.s_[j - CORE : j + CORE + 1, i - CORE : i + CORE + 1]
            good = ~pixels.unusable[place]
            rest = (pixels.image[place] - flux * model)[good]
            residuals[k] = np.sqrt((rest**2).sum() / ((flux * model[good]) ** 2).sum())
    return residuals


def _exposure(stars: PsfStars) -> Pixels:
    """The stamps where they were on their CCD; all other pixels are unusable."""
    image, variance = np.zeros(SHAPE, np.float32), np.ones(SHAPE, np.float32)
    unusable = np.ones(SHAPE, dtype=bool)
    for k in range(len(stars)):
        rows = slice(stars.middle_y[k] - stars.half, stars.middle_y[k] + stars.half + 1)
        columns = slice(stars.middle_x[k] - stars.half, stars.middle_x[k] + stars.half + 1)
        image[rows, columns], variance[rows, columns] = stars.stamps[k], stars.variance[k]
        unusable[rows, columns] = stars.bad[k]
    return Pixels(image, variance, unusable)


@pytest.mark.parametrize("kind", ["shapelet", "pixel"])
def test_fast_kinds_predict_stars_about_as_well_as_piff(stars: PsfStars, kind: str) -> None:
    residuals = held_out_residuals(stars, kind)
    assert np.median(residuals[stars.flux > BRIGHT]) < 1.5 * PIFF
    # Of the faint, noise is the most part, whatever the model.
    assert np.median(residuals) < 0.14


@pytest.mark.slow
def test_piff_is_as_good_as_it_is_said_to_be(stars: PsfStars) -> None:
    pytest.importorskip("piff", reason="Piff is not installed (pip install mpipipe[piff])")
    residuals = held_out_residuals(stars, "piff")
    assert np.median(residuals[stars.flux > BRIGHT]) == pytest.approx(PIFF, rel=0.1)
