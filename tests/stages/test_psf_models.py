"""Images of the PSF are kept, and drawn anew only where a source has moved."""

from __future__ import annotations

import numpy as np
import pytest

from mpipipe.data.guess_psf import GuessPsf
from mpipipe.stages import psf_models
from mpipipe.stages.psf_models import PsfModels

PSF = GuessPsf(3.0, 2.6, 0.3, 27, 12.0, (100, 100))
X, Y = np.array([10.2, 40.0, 30.7, 60.4]), np.array([20.0, 21.3, 50.5, 60.1])


def test_images_are_those_of_where_sources_are_now() -> None:
    models, numbers = PsfModels(PSF, 4), np.arange(4)
    np.testing.assert_array_equal(models.at(numbers, X, Y), PSF.images(X, Y, np.float32))
    moved = X + np.array([0.0, 0.1, 0.0, -0.3])
    some = np.array([3, 1])
    expected = PSF.images(moved, Y, np.float32)
    np.testing.assert_array_equal(models.at(some, moved[some], Y[some]), expected[some])
    np.testing.assert_array_equal(models.at(numbers, moved, Y), expected)


def test_more_sources_than_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psf_models, "_MOST_PIXELS", 2 * PSF.size**2)
    models, numbers = PsfModels(PSF, 4), np.arange(4)
    for _ in range(2):
        np.testing.assert_array_equal(models.at(numbers, X, Y), PSF.images(X, Y, np.float32))
    np.testing.assert_array_equal(
        models.at(numbers[:2], X[:2], Y[:2]), PSF.images(X, Y)[:2].astype(np.float32)
    )


def test_image_is_kept_while_its_source_hardly_moves_and_says_where_it_was_drawn() -> None:
    models, numbers = PsfModels(PSF, 4), np.arange(4)
    before = models.drawn(numbers, X, Y)
    first = before.images[before.which].copy()
    moved = X + np.array([0.002, 0.004, 0.0, -0.002])
    after = models.drawn(numbers, moved, Y)
    np.testing.assert_array_equal(after.x, [X[0], moved[1], X[2], X[3]])
    still = [0, 2, 3]
    np.testing.assert_array_equal(after.images[after.which][still], first[still])
    assert (after.images[after.which][1] != first[1]).any()


def test_bright_sources_leave_no_more_of_their_noise_than_others() -> None:
    """A move that is nothing at SNR 300 would leave several sigma of a star of SNR 10,000."""
    models, numbers = PsfModels(PSF, 4), np.arange(4)
    before = models.drawn(numbers, X, Y)
    models.know_snr(np.array([1e4, 1e3, 300.0, np.nan]))
    moved = X + np.array([2e-4, 5e-4, 0.002, 0.002])
    after = models.drawn(numbers, moved, Y)
    np.testing.assert_array_equal(after.x, [moved[0], *before.x[1:]])
    flux = 1e8  # so bright that photons are the noise
    image = PSF.images(X[:1] + 0.0029, Y[:1])[0]
    left = flux * (image - models.at(numbers, X + 0.0029, Y)[0]) / np.sqrt(flux * image + 100)
    assert np.abs(left).max() < 0.1


def test_array_of_images_has_middles_where_sources_are_now() -> None:
    models, one = PsfModels(PSF, 1), np.arange(1)
    y = np.array([20.0])
    models.at(one, np.array([10.499]), y)
    image = models.at(one, np.array([10.501]), y)
    np.testing.assert_array_equal(image, PSF.images(np.array([10.501]), y, np.float32))
