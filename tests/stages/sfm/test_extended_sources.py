"""Stamps, moments and curves in ellipses against profiles whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import gammainc

from mpipipe.stages.sfm.ellipse_curves import (
    CUT,
    NO_CROSSING,
    NOT_POSITIVE,
    OK,
    annulus_edges,
    ellipse_curves,
    kron_radii,
    petrosian_radii,
)
from mpipipe.stages.sfm.stamp_moments import (
    CONVERGED,
    DIVERGED,
    gaussian_flux_variance,
    moment_errors,
    stamp_moments,
)
from mpipipe.stages.sfm.stamp_moments import CUT as MOMENTS_CUT

HALF = 40
OVERSAMPLING = 9


def elliptical_radius(
    x: float, y: float, q: float, angle: float, half: int = HALF
) -> tuple[np.ndarray, np.ndarray]:
    """sqrt(a b) radii of subpixels, and the moments (for r^2 = 1) of that shape."""
    step = 1 / OVERSAMPLING
    axis = np.arange(-half - 0.5 + step / 2, half + 0.5, step)
    dx, dy = axis[None, :] - x, axis[:, None] - y
    c, s = np.cos(angle), np.sin(angle)
    u, v = (c * dx + s * dy) * np.sqrt(q), (c * dy - s * dx) / np.sqrt(q)
    major, minor = 1 / q, q
    shape = np.array([c * c * major + s * s * minor, s * s * major + c * c * minor,
                      c * s * (major - minor)])  # fmt: skip
    return np.hypot(u, v), shape


def binned(surface: np.ndarray) -> np.ndarray:
    """Light of whole pixels."""
    n = len(surface) // OVERSAMPLING
    return surface.reshape(n, OVERSAMPLING, n, OVERSAMPLING).mean(axis=(1, 3))


def stamp(light: np.ndarray, variance: float = 1.0) -> tuple[np.ndarray, ...]:
    one = light[None].astype(np.float32)
    return one, np.full_like(one, variance), np.ones(one.shape, bool)


def gaussian(sigma: float, flux: float, q: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    r, shape = elliptical_radius(0.3, -0.2, q, 0.7)
    light = flux / (2 * np.pi * sigma**2) * np.exp(-0.5 * (r / sigma) ** 2)
    return binned(light), shape * sigma**2


X, Y = np.array([0.3]), np.array([-0.2])


@pytest.mark.parametrize("q", [1.0, 0.6, 0.4])
def test_moments_and_flux_of_a_gaussian(q: float) -> None:
    light, true = gaussian(3.0, 1e4, q)
    row = stamp_moments(*stamp(light), X, Y, np.array([[4.0, 4.0, 0.0]]))[0]
    assert row["state"] == CONVERGED
    # A pixel widens by 1/12.
    expected = true + np.array([1, 1, 0]) / 12
    np.testing.assert_allclose([row["ixx"], row["iyy"], row["ixy"]], expected, rtol=4e-3, atol=0.01)
    assert row["flux"] == pytest.approx(1e4, rel=2e-3)


def test_moment_and_flux_errors_are_true() -> None:
    light, _ = gaussian(2.5, 3000.0)
    rng = np.random.default_rng(3)
    n, sky = 400, 25.0
    noisy = rng.poisson(np.maximum(light, 0) + sky, (n, *light.shape)) - sky
    known = np.ones(noisy.shape, bool)
    variance = np.full(noisy.shape, sky, np.float32)
    zero = np.zeros(n)
    rows = stamp_moments(
        noisy.astype(np.float32), variance, known, zero + X, zero + Y,
        np.tile([6.0, 6.0, 0.0], (n, 1)),
    )  # fmt: skip
    assert (rows["state"] == CONVERGED).all()
    one = np.ones(n)
    quoted = np.median(np.sqrt(gaussian_flux_variance(rows, one)))
    assert rows["flux"].std() == pytest.approx(quoted, rel=0.12)
    errors = np.median(moment_errors(rows, one), axis=0)
    for name, error in zip(("ixx", "iyy", "ixy"), errors, strict=True):
        assert rows[name].std() == pytest.approx(error, rel=0.2), name


def test_moments_say_why_they_fail() -> None:
    light, _ = gaussian(3.0, 1e4)
    start = np.array([[4.0, 4.0, 0.0]])
    negative = stamp_moments(*stamp(-light), X, Y, start)[0]
    assert negative["state"] == DIVERGED
    assert (negative["ixx"], negative["ixy"]) == (4.0, 0.0)
    values, variance, known = stamp(light)
    known[:, :, HALF:] = False
    assert stamp_moments(values, variance, known, X, Y, start)[0]["state"] == MOMENTS_CUT
    known[:] = False
    nothing = stamp_moments(values, variance, known, X, Y, start)[0]
    assert nothing["state"] == MOMENTS_CUT
    assert np.isnan(nothing["flux"])


def sersic(n: float, half_light: float, flux: float, q: float) -> tuple[np.ndarray, np.ndarray]:
    """n = 1 or 4, with the b of Ciotti & Bertin (1999), exact to 1e-4."""
    b = 2 * n - 1 / 3 + 4 / (405 * n) + 46 / (25515 * n**2)
    r, shape = elliptical_radius(0.3, -0.2, q, 0.7, half=80)
    light = np.exp(-b * (r / half_light) ** (1 / n))
    return binned(light * flux / (light.sum() / OVERSAMPLING**2)), shape


def exponential_truth(h: float) -> tuple[float, float, float]:
    """r_P, R50 and R90 of an exponential disc, from its incomplete gamma function."""

    def inside(r: float) -> float:
        return float(gammainc(2, r / h))

    def excess(r: float) -> float:
        ring = (inside(1.25 * r) - inside(0.8 * r)) / (1.25**2 - 0.8**2)
        return ring / inside(r) - 0.2

    radius = brentq(excess, h, 10 * h)
    total = inside(2 * radius)
    half = brentq(lambda r: inside(r) - 0.5 * total, 0.01, 20 * h)
    most = brentq(lambda r: inside(r) - 0.9 * total, 0.01, 20 * h)
    return radius, half, most


@pytest.mark.parametrize("q", [1.0, 0.5])
def test_petrosian_radii_of_an_exponential_disc(q: float) -> None:
    half_light = 6.0
    light, shape = sersic(1.0, half_light, 1e5, q)
    curves = ellipse_curves(*stamp(light), X, Y, shape[None])
    row = petrosian_radii(curves, 4.0, 1.0)[0]
    radius, r50, r90 = exponential_truth(half_light / 1.67835)
    assert row["state"] == OK
    assert row["radius"] == pytest.approx(radius, rel=0.01)
    assert row["r50"] == pytest.approx(r50, rel=0.01)
    assert row["r90"] == pytest.approx(r90, rel=0.01)
    flux, _ = curves.inside(np.array([2 * row["radius"]]))
    assert flux[0] == pytest.approx(1e5 * gammainc(2, 2 * radius * 1.67835 / half_light), rel=3e-3)


def test_petrosian_radius_errors_are_true() -> None:
    light, shape = sersic(1.0, 5.0, 2e5, 0.7)
    light = light[40:-40, 40:-40]
    rng = np.random.default_rng(5)
    n, sky = 150, 100.0
    noisy = (rng.poisson(light + sky, (n, *light.shape)) - sky).astype(np.float32)
    curves = ellipse_curves(
        noisy, np.full_like(noisy, sky), np.ones(noisy.shape, bool), np.full(n, 0.3),
        np.full(n, -0.2), np.tile(shape, (n, 1)),
    )  # fmt: skip
    rows = petrosian_radii(curves, 4.0, 1.0)
    assert rows["radius"].std() == pytest.approx(np.median(rows["radius_error"]), rel=0.35)
    flux, variance = curves.inside(np.full(n, 20.0))
    assert flux.std() == pytest.approx(np.sqrt(np.median(variance) + np.median(flux)), rel=0.15)


def test_kron_radius_of_a_gaussian() -> None:
    sigma = 3.0
    light, moments = gaussian(sigma, 1e4)
    curves = ellipse_curves(*stamp(light), X, Y, moments[None])
    row = kron_radii(curves, np.array([sigma]), 3.5)[0]
    assert row["state"] == OK
    assert row["radius"] == pytest.approx(np.hypot(sigma, 12**-0.5) * np.sqrt(np.pi / 2), rel=0.01)
    flux, _ = curves.inside(np.array([row["aperture"]]))
    assert flux[0] == pytest.approx(
        1e4 * (1 - np.exp(-0.5 * (row["aperture"] / sigma) ** 2)), rel=2e-3
    )


def test_partly_masked_annuli_are_scaled_up_and_dark_ones_end_the_curve() -> None:
    light, moments = gaussian(3.0, 1e4)
    values, variance, known = stamp(light)
    known[0, : HALF - 4] = False  # below the source, less than half of the outer annuli
    curves = ellipse_curves(values * known, variance, known, X, Y, moments[None])
    flux, _ = curves.inside(np.array([12.0]))
    assert flux[0] == pytest.approx(1e4, rel=0.02)
    known[:] = False
    known[0, HALF - 6 : HALF + 7, HALF - 6 : HALF + 7] = True
    curves = ellipse_curves(values * known, variance, known, X, Y, moments[None])
    assert 4 < curves.edges[curves.last[0]] < 13
    assert np.isnan(curves.inside(np.array([20.0]))[0][0])
    assert petrosian_radii(curves, 4.0, 1.0)[0]["state"] in (CUT, NO_CROSSING)
    assert kron_radii(curves, np.array([3.0]), 3.5)[0]["state"] == CUT


def test_what_has_no_light_has_no_radius() -> None:
    values, variance, known = stamp(np.zeros((2 * HALF + 1, 2 * HALF + 1)))
    round_ = np.array([[3.0, 3.0, 0.0]])
    for sign in (0, -1):
        curves = ellipse_curves(values + np.float32(sign), variance, known, X, Y, round_)
        assert petrosian_radii(curves, 4.0, 1.0)[0]["state"] == NOT_POSITIVE
        assert kron_radii(curves, np.array([1.7]), 3.5)[0]["state"] == NOT_POSITIVE
    lost = ellipse_curves(values, variance, ~known, X, Y, round_)
    assert lost.last[0] == 0
    assert petrosian_radii(lost, 4.0, 1.0)[0]["state"] == NOT_POSITIVE
    bad_shape = ellipse_curves(values, variance, known, X, Y, np.full((1, 3), np.nan))
    assert bad_shape.last[0] == 0


def test_no_sources() -> None:
    none, nothing = np.zeros((0, 9, 9), np.float32), np.zeros((0, 9, 9), bool)
    empty = np.zeros(0)
    assert len(stamp_moments(none, none, nothing, empty, empty, np.zeros((0, 3)))) == 0
    curves = ellipse_curves(none, none, nothing, empty, empty, np.zeros((0, 3)))
    assert len(petrosian_radii(curves, 4.0, 1.0)) == len(kron_radii(curves, empty, 3.5)) == 0


def test_edges_of_annuli_fall_on_the_table() -> None:
    edges = annulus_edges(61.0)
    assert edges[0] == 0 and edges[-1] >= 61.0
    np.testing.assert_array_equal(edges * 4, np.round(edges * 4))
    assert (np.diff(edges) >= 0.5).all()
