"""Galaxy models against profiles summed directly, and the spread statistic."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import fftconvolve

from mpipipe.stages.sfm.galaxy_fit import Modes, combine, fit_galaxies, starts, transform
from mpipipe.stages.sfm.galaxy_profiles import (
    STEP,
    Profile,
    de_vaucouleurs,
    disc_with_bulge,
    exponential,
)
from mpipipe.stages.sfm.spread import Mixture, fit_mixture, spread_statistics

HALF, FINE = 37, 5
FWHM = 4.0
SIGMA = FWHM / 2.3548


def fine_grid(half: int = HALF) -> tuple[np.ndarray, np.ndarray]:
    axis = (np.arange((2 * half + 1) * FINE) + 0.5) / FINE - half - 0.5
    return axis[None, :], axis[:, None]


def pixels(fine: np.ndarray) -> np.ndarray:
    n = len(fine) // FINE
    return fine.reshape(n, FINE, n, FINE).sum(axis=(1, 3))


def psf_fine(half: int = HALF) -> np.ndarray:
    x, y = fine_grid(half)
    light = np.exp(-0.5 * (x**2 + y**2) / SIGMA**2)
    return light / light.sum()


def _surface(n: float, r: np.ndarray) -> np.ndarray:
    if n == 1:
        return np.exp(-1.67835 * r)
    cut = np.clip((8 - r) / 2, 0, 1)
    return cut * cut * (3 - 2 * cut) * np.exp(-7.66925 * (r**0.25 - 1))


def galaxy(n: float, half_light: float, q: float, flux: float) -> np.ndarray:
    """Sersic profile of n = 1 or 4 (cut as usual), convolved on a fine grid; major axis along x."""
    x, y = fine_grid()
    # Sixteen samples a cell of the fine grid, none at the cusp.
    steps = (np.arange(4) - 1.5) / (4 * FINE)
    light = sum(_surface(n, np.hypot((x + a) * np.sqrt(q), (y + b) / np.sqrt(q)) / half_light)
                for a in steps for b in steps)  # fmt: skip
    light = fftconvolve(light, psf_fine(), mode="same")
    return pixels(flux * light / light.sum())


def modes_of(light: np.ndarray, variance: float = 4.0) -> Modes:
    images = np.atleast_3d(light.T).T if light.ndim == 2 else light
    images = images.astype(np.float32)
    model = pixels(psf_fine(14))
    return transform(
        images, np.full_like(images, variance), np.ones(images.shape, bool),
        np.tile(model, (len(images), 1, 1)),
    )  # fmt: skip


def start(n: int = 1, flux: float = 1e4) -> np.ndarray:
    moments, psf = np.tile([6.0, 5.0, 0.0], (n, 1)), np.tile([2.9, 2.9, 0.0], (n, 1))
    return starts(moments, psf, np.full(n, flux), FWHM)


@pytest.mark.parametrize("half_light, q", [(2.0, 1.0), (3.0, 0.5), (5.0, 0.8)])
def test_an_exponential_disc_comes_back(half_light: float, q: float) -> None:
    row = fit_galaxies(modes_of(galaxy(1, half_light, q, 3e4)), exponential(), start(), FWHM)[0]
    assert row["converged"]
    assert row["flux"] == pytest.approx(3e4, rel=0.01)
    assert row["radius"] == pytest.approx(half_light, rel=0.02)
    assert row["eta1"] == pytest.approx(-np.log(q), abs=0.03)
    assert row["eta2"] == pytest.approx(0, abs=0.01)


def test_what_a_profile_is_tells_chi2_and_the_sum_of_both() -> None:
    rng = np.random.default_rng(2)
    for n, share in ((1, 0.0), (4, 1.0)):
        noisy = galaxy(n, 3.0, 0.8, 2e5) + rng.normal(0, 2, (2 * HALF + 1,) * 2)
        modes = modes_of(noisy)
        pair = (exponential(), de_vaucouleurs())
        fits = tuple(fit_galaxies(modes, profile, start(), FWHM) for profile in pair)
        chi2 = [fit["chi2"][0] for fit in fits]
        assert (chi2[0] < chi2[1]) == (n == 1)
        both = combine(modes, pair, (fits[0], fits[1]))[0]
        assert both["bulge_share"] == pytest.approx(share, abs=0.12)
        assert both["flux"] == pytest.approx(2e5, rel=0.06)


def test_errors_of_fluxes_are_true() -> None:
    rng = np.random.default_rng(4)
    n, light = 200, galaxy(1, 2.5, 0.7, 4000)
    noisy = light + rng.normal(0, 3, (n, *light.shape))
    rows = fit_galaxies(modes_of(noisy, 9.0), exponential(), start(n, 4000.0), FWHM)
    assert rows["converged"].mean() > 0.97
    assert rows["flux"].std() == pytest.approx(np.median(rows["sky_error"]), rel=0.15)
    assert rows["flux"].mean() == pytest.approx(4000, rel=0.02)
    assert np.median(rows["chi2"]) < 1.1  # photons are counted that the data do not have


def test_what_can_not_be_fitted_is_nan() -> None:
    nothing = modes_of(np.zeros((2 * HALF + 1,) * 2))
    for flux in (np.nan, 0.0, -5.0):
        row = fit_galaxies(nothing, exponential(), start(1, flux), FWHM)[0]
        assert not row["converged"] and np.isnan(row["flux"]) and np.isnan(row["radius"])
    empty = modes_of(np.zeros((0, 75, 75)))
    assert len(fit_galaxies(empty, exponential(), start(0), FWHM)) == 0


@pytest.mark.parametrize("profile", [exponential(), de_vaucouleurs(), disc_with_bulge()])
def test_slopes_of_profiles_are_their_derivatives(profile: Profile) -> None:
    assert profile.value[0] == pytest.approx(1, abs=1e-6)
    q = np.arange(len(profile.value)) * STEP
    for at in (40, 150, 700, 2000):
        numeric = (profile.value[at + 1] - profile.value[at - 1]) / (
            q[at + 1] ** 2 - q[at - 1] ** 2
        )
        assert profile.slope[at] == pytest.approx(numeric, rel=0.02)


def test_half_of_the_light_is_inside_the_half_light_radius() -> None:
    from scipy.special import j1

    # Light inside r = 1 is the integral of G(q) J1(q) dq.
    q = np.arange(len(exponential().value)) * STEP
    taper = np.cos(0.5 * np.pi * q / q[-1]) ** 2
    for profile, tolerance in ((exponential(), 0.01), (de_vaucouleurs(), 0.06)):
        inside = np.trapezoid(profile.value * j1(q) * taper, q)
        assert inside == pytest.approx(0.5, abs=tolerance)


def test_spread_is_zero_for_stars_and_positive_for_galaxies_with_true_errors() -> None:
    rng = np.random.default_rng(6)
    n, flux, sky = 300, 3000.0, 30.0
    star = pixels(psf_fine(14))
    models = np.tile(star, (n, 1, 1))
    noisy = rng.poisson(flux * star + sky, (n, *star.shape)) - sky
    known, variance = np.ones(noisy.shape, bool), np.full(noisy.shape, sky, np.float32)
    spread, error = spread_statistics(
        noisy.astype(np.float32), variance, known, models, np.full(n, flux), FWHM
    )
    assert abs(np.mean(spread / error)) < 0.25
    assert np.std(spread / error) == pytest.approx(1, rel=0.12)
    light = galaxy(1, 2.0, 0.8, flux)[None, HALF - 14 : HALF + 15, HALF - 14 : HALF + 15]
    wide, one = spread_statistics(
        light.astype(np.float32), variance[:1], known[:1], models[:1], np.full(1, flux), FWHM
    )
    assert wide[0] > 5 * one[0]
    lost, _ = spread_statistics(
        light.astype(np.float32), variance[:1], ~known[:1], models[:1], np.full(1, flux), FWHM
    )
    assert np.isnan(lost[0])


def test_probabilities_are_right_as_often_as_they_say() -> None:
    rng = np.random.default_rng(8)
    n = 6000
    is_galaxy = rng.uniform(size=n) < 0.4
    error = 10 ** rng.uniform(-2.5, -1.3, n)
    spread = np.where(is_galaxy, rng.normal(0.07, 0.03, n), 0) + rng.normal(0, error)
    mixture = fit_mixture(spread, error)
    assert mixture.mean == pytest.approx(0.07, abs=0.015)
    p = mixture.probability(spread, error)
    for low, high in ((0, 0.2), (0.3, 0.7), (0.8, 1.01)):
        some = (p >= low) & (p < high)
        assert is_galaxy[some].mean() == pytest.approx(p[some].mean(), abs=0.12)
    assert fit_mixture(spread[:5], error[:5]) == Mixture()
    assert np.isnan(mixture.probability(np.array([np.nan]), np.array([np.nan])))[0]
