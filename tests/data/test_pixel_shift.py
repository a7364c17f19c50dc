"""The kernel that moves images: whole pixels move exactly, and no shift fails."""

from __future__ import annotations

import numpy as np
import pytest

from mpipipe.data.pixel_draw import draw_images
from mpipipe.data.pixel_shift import N_TAPS, REACH, fill_taps


@pytest.mark.parametrize("shift", [-1, 0, 1])
def test_a_whole_pixel_is_one_tap(shift: int) -> None:
    """Fits limit the shift of a star that walks away to just this."""
    taps = np.empty(N_TAPS)
    fill_taps(float(shift), taps)
    np.testing.assert_allclose(taps, np.eye(N_TAPS)[REACH - shift], atol=1e-12)


def test_an_image_moves_by_a_whole_pixel() -> None:
    image = np.zeros((1, 25, 25))
    image[0, 12, 12] = 1.0
    drawn = np.empty_like(image)
    draw_images(image, np.ones((1, 1)), np.array([1.0]), np.array([-1.0]), drawn)
    np.testing.assert_allclose(drawn, np.roll(image, (-1, 1), axis=(1, 2)), atol=1e-12)
