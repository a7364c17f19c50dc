"""Windowed centroids in whole windows are those of windows with a masked pixel far out."""

from __future__ import annotations

import numpy as np

from mpipipe.data.guess_psf import GuessPsf
from mpipipe.stages.centroids import windowed_centroids

FWHM = 4.0
PSF = GuessPsf(FWHM, 2.6, 0.3, 31, 12.0, (60, 60))
X, Y = 30.3, 29.6


def _measured(masked: bool) -> np.ndarray:
    rng = np.random.default_rng(4)
    image = rng.normal(0, 10.0, (60, 60)).astype(np.float32)
    image[15:46, 15:46] += 3e4 * PSF.image(X, Y).astype(np.float32)
    unusable = np.zeros(image.shape, bool)
    unusable[36, 36] = masked  # inside the window, where its weight is small
    variance = np.full(image.shape, 100.0, np.float32)
    return windowed_centroids(image, variance, unusable, np.array([30]), np.array([30]), FWHM)[0]


def test_loops_on_vectors_and_pixel_by_pixel_agree() -> None:
    whole, holed = _measured(False), _measured(True)
    assert not whole["failed"] and not holed["failed"]
    np.testing.assert_allclose([whole["x"], whole["y"]], [X, Y], atol=0.02)
    for name, by in (("x", 2e-3), ("y", 2e-3)):
        np.testing.assert_allclose(whole[name], holed[name], atol=by)
    for name in ("xx", "yy"):
        np.testing.assert_allclose(whole[name], holed[name], rtol=0.02)
