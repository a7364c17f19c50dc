"""Later passes of redetection fit again only what stands near new sources."""

from __future__ import annotations

import numpy as np

from mpipipe.data.guess_psf import GuessPsf
from mpipipe.stages.psf_photometry import Pixels, subtract_sources
from mpipipe.stages.sfm.redetection import take_off, take_off_more

SHAPE = (160, 200)
PSF = GuessPsf(4.0, 2.6, 0.3, 31, 12.0, SHAPE)
X = np.array([30.2, 37.0, 80.4, 150.1, 156.7])
Y = np.array([30.1, 33.3, 120.0, 60.2, 64.9])
FLUX = np.array([5e4, 8e3, 3e4, 6e4, 9e3])


def test_the_same_as_all_at_once_and_lone_fits_are_kept() -> None:
    nothing = np.zeros(SHAPE, np.float32)
    noise = np.random.default_rng(1).normal(0, 10.0, SHAPE).astype(np.float32)
    image = subtract_sources(nothing, PSF, X, Y, -FLUX) + noise
    pixels = Pixels(image, np.full(SHAPE, 100.0, np.float32), np.zeros(SHAPE, bool))
    y, x = np.round(Y).astype(np.int64), np.round(X).astype(np.int64)
    early = np.array([0, 2, 3])
    rest = take_off(pixels, PSF, y[early], x[early])
    order = np.append(early, [1, 4])
    more = take_off_more(pixels, PSF, rest, y[order], x[order])
    once = take_off(pixels, PSF, y, x)
    assert more.fits[1] == rest.fits[1]
    error = once.fits["flux_error"][order]
    np.testing.assert_allclose(
        more.fits["flux"] / error, once.fits["flux"][order] / error, atol=0.3
    )
    np.testing.assert_allclose(more.image, once.image, atol=5.0)
