"""Matched filter, peaks, footprints and seeing, against brute force and against truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, signal

from mpipipe.data.background import Background
from mpipipe.sim.toyfield import ToyOptions, add_moffat, toy_field
from mpipipe.stages.footprints import grow_footprints
from mpipipe.stages.matched_filter import (
    filter_again,
    find_peaks,
    gaussian_taps,
    lower_width,
    matched_filter,
    robust_width,
)
from mpipipe.stages.near import brightest_near, planes_near
from mpipipe.stages.seeing import DIRECTIONS, adaptive_moments, default_seeing, measure_seeing


@settings(max_examples=20)
@given(ny=st.integers(3, 60), nx=st.integers(3, 60), fwhm=st.floats(1.0, 9.0))
def test_filter_is_the_convolution(ny: int, nx: int, fwhm: float) -> None:
    rng = np.random.default_rng([ny, nx])
    image = rng.normal(0, 30, (ny, nx)).astype(np.float32)
    variance = rng.uniform(500, 1500, (ny, nx)).astype(np.float32)
    exclude = rng.random((ny, nx)) < 0.05
    image[exclude] = np.nan  # must not spread
    taps = gaussian_taps(fwhm).astype(float)
    profile = np.outer(taps, taps)
    data = np.where(exclude, 0, image / variance)
    inverse = np.where(exclude, 0, 1 / variance)
    result = matched_filter(image, variance, exclude, fwhm)
    whole = signal.convolve(np.pad(data, 40), profile, "same")[40:-40, 40:-40]
    np.testing.assert_allclose(result.numerator, whole, atol=2e-6 * np.abs(whole).max() + 1e-9)
    whole = signal.convolve(np.pad(inverse, 40), profile**2, "same")[40:-40, 40:-40]
    np.testing.assert_allclose(result.weight, whole, rtol=3e-5)
    assert np.isfinite(result.significance()).all()


def test_filter_gives_flux_and_unit_noise() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(0, 30, (300, 310)).astype(np.float32)
    y, x = np.mgrid[:300, :310]
    star = np.exp(-0.5 * ((y - 150) ** 2 + (x - 140) ** 2) / (4.0 / 2.3548) ** 2)
    image += (1e5 * star / star.sum()).astype(np.float32)
    variance = np.full(image.shape, 900, np.float32)
    result = matched_filter(image, variance, np.zeros(image.shape, bool), 4.0)
    assert robust_width(result.significance().ravel()) == pytest.approx(1, abs=0.02)
    assert lower_width(result.significance().ravel()) == pytest.approx(1, abs=0.02)
    flux = result.numerator[150, 140] / result.weight[150, 140]
    assert flux == pytest.approx(1e5, rel=0.01)


def test_a_surface_can_be_taken_off_afterwards() -> None:
    """With its photons as noise: as if the image had never had it, but for its noise."""
    rng = np.random.default_rng(0)
    image = rng.normal(50, 30, (200, 210)).astype(np.float32)
    variance = np.full(image.shape, 900, np.float32)
    none = np.zeros(image.shape, bool)
    surface = Background(rng.normal(50, 3, (3, 3)), np.ones((3, 3)), image.shape).image()
    map_ = matched_filter(image, variance, none, 4.0).significance_above(surface, variance)
    bare = matched_filter(image - surface, variance + surface, none, 4.0).significance()
    inside = (slice(10, -10), slice(10, -10))
    assert np.abs((map_ - bare)[inside]).max() < 0.02


def test_another_image_is_filtered_with_the_same_weights() -> None:
    rng = np.random.default_rng(3)
    image, other = rng.normal(0, 30, (2, 120, 110)).astype(np.float32)
    variance = rng.uniform(800, 1000, image.shape).astype(np.float32)
    exclude = rng.random(image.shape) < 0.02
    again = filter_again(matched_filter(image, variance, exclude, 4.0), other, variance, exclude, 4)
    anew = matched_filter(other, variance, exclude, 4.0)
    np.testing.assert_array_equal(again.significance(), anew.significance())


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), half=st.integers(1, 4))
def test_peaks_are_the_local_maxima(seed: int, half: int) -> None:
    rng = np.random.default_rng(seed)
    map_ = rng.integers(0, 12, (25, 31)).astype(np.float32)  # with many ties
    y, x = find_peaks(map_, 6.5, half)
    highest = ndimage.maximum_filter(map_, 2 * half + 1, mode="constant", cval=-1)
    assert (map_[y, x] == highest[y, x]).all() and (map_[y, x] > 6.5).all()
    alone = map_ + 1e-4 * np.arange(map_.size)[::-1].reshape(map_.shape).astype(np.float32)
    expected = (alone == ndimage.maximum_filter(alone, 2 * half + 1)) & (map_ > 6.5)
    np.testing.assert_array_equal(np.transpose([y, x]), np.argwhere(expected))


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_footprints_are_the_connected_regions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    map_ = ndimage.gaussian_filter(rng.normal(0, 1, (40, 50)), 1.5).astype(np.float32)
    y, x = find_peaks(map_, 0.2, 1)
    labels, of_peak, footprints = grow_footprints(map_, 0.2, y, x)
    expected, n = ndimage.label(map_ > 0.2, np.ones((3, 3)))
    assert len(footprints) == n == labels.max(initial=0)
    for k in range(n):
        inside = labels == k + 1
        assert len(np.unique(expected[inside])) == 1
        assert footprints["n_pixels"][k] == inside.sum() == (expected == expected[inside][0]).sum()
        assert footprints["n_peaks"][k] == (of_peak == k).sum()


def test_the_length_of_a_bar_is_its_length() -> None:
    map_ = np.zeros((60, 80), np.float32)
    map_[30:33, 10:70] = 9
    map_[31, 40] = 10
    _, _, footprints = grow_footprints(map_, 5, np.array([31]), np.array([40]))
    assert footprints["length"][0] == pytest.approx(60, rel=0.01)
    assert footprints["elongation"][0] == pytest.approx(20, rel=0.02)


def test_widths_know_sources_from_noise() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(3, 2, 200_000)
    assert robust_width(noise) == pytest.approx(2, rel=0.01)
    dirty = noise + np.where(rng.random(noise.size) < 0.03, rng.exponential(40, noise.size), 0)
    assert lower_width(dirty) == pytest.approx(2, rel=0.03)
    assert np.isnan(robust_width(np.array([1.0, np.nan]))) and np.isnan(lower_width(np.empty(0)))


@pytest.mark.parametrize("fwhm", [2.3, 4.0, 7.0])
def test_seeing_and_its_sharpest_ratios(fwhm: float) -> None:
    field = toy_field(ToyOptions(shape=(700, 720), fwhm=fwhm, galaxies=400.0), seed=3)
    snap = field.exposures[0]
    image = snap.image - np.float32(field.sky)
    seeing = measure_seeing(image, snap.variance, snap.mask != 0, default_seeing(2.0))
    star = np.zeros((61, 61))
    add_moffat(star, 30, 30, 1e6, fwhm)
    none = np.zeros(star.shape, bool)
    truth = adaptive_moments(star.astype(np.float32), none, np.array([30.0]), np.array([30.0]), 1.5)
    assert seeing.measured
    assert seeing.fwhm == pytest.approx(2.3548 * np.sqrt(truth["ixx"][0]), rel=0.03)
    for (dy, dx), ratio in zip(DIRECTIONS, seeing.ratios, strict=True):
        sharpest = 0.5 * (star[30 + dy, 30 + dx] + star[30 - dy, 30 - dx]) / star[30, 30]
        assert 0.85 * sharpest < ratio < 1.05 * sharpest


def test_seeing_of_few_stars_among_many_rays() -> None:
    options = ToyOptions(stars=8.0, galaxies=0.0, faintest=2e4, cosmic_rays=1000.0)
    field = toy_field(options, seed=2)
    snap = field.exposures[0]
    image = snap.image - np.float32(field.sky)
    seeing = measure_seeing(image, snap.variance, snap.mask != 0, default_seeing(2.0))
    assert 1 <= seeing.n_stars <= 8
    assert seeing.fwhm == pytest.approx(4.5, rel=0.08)  # a Gaussian is wider than this Moffat


def test_no_stars_gives_the_default() -> None:
    image = np.zeros((100, 100), np.float32)
    variance = np.ones_like(image)
    default = default_seeing(2.5)
    assert measure_seeing(image, variance, image > 1, default) is default


def test_near_looks_as_far_as_asked() -> None:
    mask = np.zeros((20, 20), np.int32)
    mask[5, 5], mask[9, 5] = 1, 4
    at = np.array([5.0, 7.0, 19.0]), np.array([5.0, 5.0, 19.0])
    np.testing.assert_array_equal(planes_near(mask, *at, 2), [1, 5, 0])
    np.testing.assert_array_equal(brightest_near(mask.astype("f4"), *at, 2), [1, 4, 0])
