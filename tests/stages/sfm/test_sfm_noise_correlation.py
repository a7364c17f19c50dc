"""Noise is told from the light of undetected sources: thresholds in true SNR depend on it."""

import numpy as np
import pytest
from scipy import ndimage

from mpipipe.stages.matched_filter import gaussian_taps
from mpipipe.stages.sfm.noise_correlation import noise_correlation

FWHM = 4.5
SHAPE = (1600, 1100)


def white(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def faint_sources(seed=1):
    """A sky of one source in 50 pixels, each of 0.5 to 3 sigma, blurred by the seeing."""
    rng = np.random.default_rng(seed)
    light = np.zeros(SHAPE)
    n = light.size // 50
    place = rng.integers(0, SHAPE[0], n), rng.integers(0, SHAPE[1], n)
    taps = gaussian_taps(FWHM).astype(float)
    norm = np.sqrt(np.square(taps).sum() ** 2)
    np.add.at(light, place, rng.uniform(0.5, 3, n) / norm)
    for axis in (0, 1):
        light = np.apply_along_axis(np.convolve, axis, light, taps, "same")
    return (light - light.mean()).astype(np.float32)


def matched_width(noise):
    """What noise of this variance 1 makes of the filter's map."""
    taps = gaussian_taps(FWHM).astype(float)
    filtered = noise.astype(float)
    for axis in (0, 1):
        filtered = np.apply_along_axis(np.convolve, axis, filtered, taps, "same")
    return filtered[20:-20, 20:-20].std() / np.square(taps).sum()


def width(image, variance=1.0, blank=None, fwhm=FWHM):
    blank = np.ones(image.shape, bool) if blank is None else blank
    return noise_correlation(image, np.full(image.shape, variance, np.float32), blank, fwhm)


def test_white_noise_has_its_own_width():
    assert width(white()) == pytest.approx(1, abs=0.02)
    assert width(3 * white(), 9.0) == pytest.approx(1, abs=0.02)
    assert width(2 * white()) == pytest.approx(2, abs=0.03)


def test_the_light_of_undetected_sources_is_no_noise():
    light = faint_sources()
    assert light.std() > 0.05
    assert width(white() + light) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("light", [0.0, 1.0])
def test_correlated_noise_is_as_wide_as_the_filter_finds_it(light):
    noise = white(3)
    for axis in (0, 1):
        noise = (noise + np.roll(noise, 1, axis)) / np.sqrt(np.float32(2))
    true = matched_width(noise)
    assert true > 1.8
    assert width(noise + light * faint_sources()) == pytest.approx(true, rel=0.02)


@pytest.mark.parametrize("light", [0.0, 1.0])
def test_noise_that_correlates_over_more_pixels_shows(light):
    """By falling more steeply with the lag than any light."""
    noise = ndimage.gaussian_filter(white(3), 0.9)
    noise /= noise.std()
    true = matched_width(noise)
    assert true > 2.5
    assert width(noise + light * faint_sources()) == pytest.approx(true, rel=0.03)


def test_what_is_not_blank_does_not_count():
    image, blank = white(), np.random.default_rng(5).random(SHAPE) > 0.2
    image[~blank] = np.nan
    assert width(image, blank=blank) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("image", "blank", "fwhm"),
    [
        (white(shape=(8, 900)), None, FWHM),
        (white(shape=(100, 100)), None, FWHM),
        (white(), np.zeros(SHAPE, bool), FWHM),
        (white(), None, 2.0),
        (white(), None, float("nan")),
    ],
    ids=["narrow", "small", "nothing blank", "too sharp", "no seeing"],
)
def test_what_can_not_be_told_is_not_told(image, blank, fwhm):
    assert np.isnan(width(image, blank=blank, fwhm=fwhm))


def test_pixels_without_variance_do_not_count():
    image = white()
    variance = np.ones(SHAPE, np.float32)
    variance[:300] = 0
    variance[300:320] = -1
    assert noise_correlation(image, variance, np.ones(SHAPE, bool), FWHM) == pytest.approx(
        1, abs=0.02
    )
