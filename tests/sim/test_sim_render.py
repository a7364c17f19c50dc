"""Rendering: the right flux at the right place with the right shape, by independent sums."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mpipipe.data.moments import adaptive_moments
from mpipipe.sim.astrometry import focal_plane
from mpipipe.sim.instrument import make_instrument
from mpipipe.sim.optics import Psf, enclosed_fraction, make_psf
from mpipipe.sim.profiles import EXPONENTIAL_RADIUS, bulge_profile, bulge_table
from mpipipe.sim.render import add_galaxies, add_stars, add_streak
from mpipipe.sim.survey import preset
from mpipipe.sim.visits import plan_visit

N = 96
AT = (np.array([47.3]), np.array([48.8]))
ONE = np.array([1.0])


def psf_at(seeing: float, **changes: float) -> Psf:
    survey = preset("tiny", seeing_min=seeing, seeing_max=seeing, **changes)
    instrument = make_instrument(survey)
    detector = instrument.detectors[0]
    place = focal_plane(instrument.camera, detector, instrument.detectors, survey)
    return make_psf(survey, instrument.camera, detector, place, plan_visit(survey, 0, 2), 0)


def profile(psf: Psf, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The PSF's surface brightness at offsets, written out once more."""
    value = np.zeros(np.broadcast(x, y).shape)
    for (w, dx, dy, m11, m12, m22), twice in zip(
        psf.components(*AT)[0], psf.twice_beta, strict=True
    ):
        a, b = m11 * (x - dx) + m12 * (y - dy), m12 * (x - dx) + m22 * (y - dy)
        beta = twice / 2
        value += w * (beta - 1) / np.pi * (m11 * m22 - m12**2) * (1 + a * a + b * b) ** -beta
    return value


def oversampled(psf: Psf, order: int = 10) -> np.ndarray:
    """A star of unit flux, each pixel by a quadrature of high order everywhere."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    at = np.add.outer(np.arange(N), nodes / 2).ravel()
    fine = profile(psf, at[None, :] - AT[0][0], at[:, None] - AT[1][0])
    fine = fine.reshape(N, order, N, order)
    return np.einsum("yaxb,a,b->yx", fine, weights / 2, weights / 2)


@pytest.mark.parametrize("seeing", [0.5, 0.8, 1.5])
def test_star_equals_the_oversampled_sum(seeing: float) -> None:
    psf = psf_at(seeing)
    image = np.zeros((N, N), dtype=np.float32)
    add_stars(image, psf, *AT, 1e6 * ONE)
    wanted = 1e6 * oversampled(psf)
    y, x = np.indices(image.shape)
    inside = np.hypot(x - AT[0], y - AT[1]) < 30
    assert np.abs(image - wanted)[inside].max() < 1e-5 * wanted.max()
    mine, theirs = adaptive_moments(np.stack([image * inside, wanted * inside]).astype(float))
    assert np.allclose(mine[:3], theirs[:3], rtol=1e-3, atol=1e-3 * theirs[0])
    assert np.allclose(mine[3:], theirs[3:], atol=1e-4)


def test_position_is_the_centroid_of_the_light() -> None:
    """Coma must not move a star away from where truth says it is."""
    psf = psf_at(0.8, coma_fraction=0.3, coma_shift=0.5, wing_fraction=0.0)
    image = np.zeros((N, N), dtype=np.float32)
    add_stars(image, psf, *AT, 1e8 * ONE)
    y, x = np.indices(image.shape)
    total = image.sum(dtype=float)
    assert (image * x).sum(dtype=float) / total == pytest.approx(AT[0][0], abs=2e-3)
    assert (image * y).sum(dtype=float) / total == pytest.approx(AT[1][0], abs=2e-3)


@pytest.mark.parametrize("seeing", [0.5, 0.8, 1.5])
def test_fourier_and_pixel_space_agree_on_a_point(seeing: float) -> None:
    """A galaxy without extent is a star, although it takes the other way; aliasing included."""
    psf = psf_at(seeing)
    star, galaxy = np.zeros((2, N, N), dtype=np.float32)
    add_stars(star, psf, *AT, 1e6 * ONE)
    tiny = 1e-6 * ONE
    shape = np.eye(2)[None]
    for x0 in (0.0, 1.0):
        add_galaxies(
            galaxy,
            psf,
            AT[0],
            AT[1],
            0.5e6 * ONE,
            bulge=x0 * ONE,
            disk_radius=tiny,
            bulge_radius=tiny,
            shape=shape,
        )
    core = slice(30, 66)
    assert np.abs(star - galaxy)[core, core].max() < 1e-5 * star.max()


@pytest.mark.parametrize("bulge", [0.0, 1.0])
def test_galaxy_equals_a_sum_of_many_points(bulge: float) -> None:
    """Convolution with PSF and pixel, ellipse and angle, against stars strewn over the profile."""
    psf = psf_at(0.8, coma_fraction=0.0)
    radius, ratio, angle = 3.0, 0.5, 0.7
    n = 40_000
    # Radii by inversion of the cumulative light, angles evenly.
    r = np.linspace(0.0, 60.0, 60_001)[1:]
    light = (np.exp(-r * EXPONENTIAL_RADIUS) if bulge == 0 else bulge_profile(r)) * r
    cumulative = np.cumsum(light)
    radii = radius * np.interp((np.arange(n) + 0.5) / n, cumulative / cumulative[-1], r)
    # Steps of the golden angle fill the disk evenly.
    phi = np.arange(n) * (np.pi * (3.0 - np.sqrt(5.0)))
    c, s = np.cos(angle), np.sin(angle)
    shape = np.array([[c, -s * ratio], [s, c * ratio]])
    dx, dy = shape @ np.stack([radii * np.cos(phi), radii * np.sin(phi)])
    points = np.zeros((N, N), dtype=np.float32)
    add_stars(points, psf, AT[0] + dx, AT[1] + dy, np.full(n, 2e5 / n))
    galaxy = np.zeros_like(points)
    add_galaxies(
        galaxy,
        psf,
        *AT,
        2e5 * ONE,
        bulge=bulge * ONE,
        disk_radius=radius * ONE,
        bulge_radius=radius * ONE,
        shape=shape[None],
    )
    mine, theirs = adaptive_moments(np.stack([galaxy, points]).astype(float))
    assert np.allclose(mine[:3], theirs[:3], rtol=2e-3)
    assert np.allclose(mine[3:], theirs[3:], atol=2e-3)
    y, x = np.indices(points.shape)
    inside = np.hypot(x - AT[0], y - AT[1]) < 12
    assert galaxy[inside].sum() == pytest.approx(points[inside].sum(), rel=3e-3)


def test_half_of_a_bulge_lies_within_its_radius() -> None:
    r = np.linspace(1e-4, 8.0, 400_000)
    light = bulge_profile(r) * r
    # The soft cut takes 6 % of the ideal light, all from outside.
    assert light[r < 1].sum() / light.sum() == pytest.approx(0.5 / 0.955, abs=0.02)
    assert bulge_table()[0] == pytest.approx(1.0)
    assert (np.diff(bulge_table()[:4000]) <= 1e-6).all()


def test_light_is_where_the_enclosed_fraction_says() -> None:
    psf = psf_at(0.8)
    fine = oversampled(psf)
    y, x = np.indices(fine.shape)
    r = np.hypot(x - AT[0], y - AT[1])
    for radius in (5.0, 12.0, 30.0):
        wanted = enclosed_fraction(psf, radius, AT[0][0], AT[1][0])
        assert fine[r < radius].sum() == pytest.approx(wanted, abs=3e-3)
    assert enclosed_fraction(psf, 2000.0, 48.0, 48.0) == pytest.approx(1.0, abs=1e-4)


def test_stars_outside_shine_in_and_far_ones_do_no_harm() -> None:
    psf = psf_at(0.8)
    image = np.zeros((N, N), dtype=np.float32)
    x, y = np.array([-3.0, 5000.0, -4000.0]), np.array([50.0, 50.0, -4000.0])
    add_stars(image, psf, x, y, np.array([1e5, 1e5, 1e5]))
    whole = np.zeros((N, N + 20), dtype=np.float32)
    moved = dataclasses.replace(
        psf,
        place=dataclasses.replace(
            psf.place, centre=(psf.place.centre[0] + 20, psf.place.centre[1])
        ),
    )
    add_stars(whole, moved, x[:1] + 20, y[:1], np.array([1e5]))
    assert image.max() > 100
    assert np.allclose(image, whole[:, 20:], atol=1e-3)


def test_streak_has_its_light_per_length() -> None:
    psf = psf_at(0.8)
    image = np.zeros((400, 400), dtype=np.float32)
    add_streak(image, psf, 200.0, 200.0, 0.0, 1000.0)
    assert image[:, 100].sum() == pytest.approx(1000.0, rel=2e-3)
    slanted = np.zeros_like(image)
    add_streak(slanted, psf, 200.0, 200.0, 0.6, 1000.0)
    assert slanted[:, 200].sum() == pytest.approx(1000.0 / np.cos(0.6), rel=5e-3)
