"""TAN-SIP as a value: exact both ways, and the same to astropy."""

from __future__ import annotations

import numpy as np
import pytest

from mpipipe.data.tan_sip import TanSip, approximate, gnomonic, inverse_gnomonic, polynomial

SHAPE = (4000, 4072)
CENTRE, UNIT = (2035.5, 1999.5), 2036.0
ROUNDING = 2e-9
"""Pixels of 0.2 arcsec that a rounding of 360 degrees makes."""


def solution(order: int, ra: float = 150.1, dec: float = 2.2, size: float = 0.5) -> TanSip:
    """A solution with random terms of `size` arcsec, its tangent point off the centre."""
    rng = np.random.default_rng(order)
    p, q = np.indices((order + 1, order + 1))
    xi, eta = np.where((p + q > 1) & (p + q <= order), rng.normal(0, size / 3600, (2, *p.shape)), 0)
    xi[1, 0], eta[0, 1] = np.array([-0.2, 0.2]) * UNIT / 3600.0
    xi[0, 1] = eta[1, 0] = 0.01
    xi[0, 0], eta[0, 0] = 0.01, -0.02
    return TanSip.from_polynomial((ra, dec), CENTRE, UNIT, xi, eta, SHAPE)


X, Y = np.random.default_rng(1).uniform(-50.0, 4100.0, (2, 500))


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize(("ra", "dec"), [(150.1, 2.2), (359.99, -45.0), (0.01, 89.0)])
def test_astropy_agrees_both_ways(order: int, ra: float, dec: float) -> None:
    wcs = solution(order, ra, dec)
    peer = wcs.to_astropy()
    mine, theirs = wcs.pixel_to_sky(X, Y), peer.all_pix2world(X, Y, 0)
    apart = np.hypot(*gnomonic(*mine, ra, dec) - np.stack(gnomonic(*theirs, ra, dec)))
    assert apart.max() * 3600.0 / 0.2 < ROUNDING
    x, y = wcs.sky_to_pixel(*theirs)
    assert np.abs(x - X).max() < ROUNDING and np.abs(y - Y).max() < ROUNDING


@pytest.mark.parametrize("order", [2, 3, 5])
def test_the_header_that_astropy_writes_says_the_same(order: int) -> None:
    from astropy.wcs import WCS

    wcs = solution(order)
    header = wcs.to_astropy().to_header(relax=True)
    assert header["CTYPE1"] == "RA---TAN-SIP"
    ra, dec = WCS(header).all_pix2world(X, Y, 0)
    x, y = wcs.sky_to_pixel(ra, dec)
    assert np.abs(x - X).max() < 1e-8 and np.abs(y - Y).max() < 1e-8


@pytest.mark.parametrize("order", [2, 3, 5])
def test_the_inverse_polynomials_hold_over_the_ccd(order: int) -> None:
    """What DS9 uses from sky to pixel."""
    wcs = solution(order, size=0.2)
    x, y = np.random.default_rng(2).uniform(0.0, 4000.0, (2, 500))
    u, v = x - wcs.x, y - wcs.y
    f, g = u + polynomial(wcs.a, u, v), v + polynomial(wcs.b, u, v)
    assert np.abs(f + polynomial(wcs.ap, f, g) - u).max() < 1e-3
    assert np.abs(g + polynomial(wcs.bp, f, g) - v).max() < 1e-3
    assert wcs.cards()["AP_ORDER"] == order + 2


def test_without_distortion_it_is_a_plain_tan() -> None:
    cards = solution(1).cards()
    assert cards["CTYPE1"] == "RA---TAN" and "A_ORDER" not in cards


def test_the_jacobian_is_the_slope_of_the_map() -> None:
    wcs = solution(4)
    step = 0.5

    def plane(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.stack(gnomonic(*wcs.pixel_to_sky(x, y), wcs.ra, wcs.dec), axis=-1) * 3600.0

    along_x = (plane(X + step, Y) - plane(X - step, Y)) / (2.0 * step)
    along_y = (plane(X, Y + step) - plane(X, Y - step)) / (2.0 * step)
    np.testing.assert_allclose(wcs.jacobian(X, Y), np.stack([along_x, along_y], -1), atol=1e-8)


def test_where_the_distortion_folds_there_is_no_pixel() -> None:
    wcs = solution(3, size=60.0)
    x, y = wcs.sky_to_pixel(np.array([150.1, 330.1]), np.array([2.2, -2.2]))
    assert np.isfinite(x[0]) and np.isnan(x[1]) and np.isnan(y[1])
    far = wcs.sky_to_pixel(np.linspace(140.0, 160.0, 50), np.full(50, 2.2))
    back = wcs.pixel_to_sky(*far)[0]
    found = np.isfinite(far[0])
    assert not found.all()
    np.testing.assert_allclose(back[found], np.linspace(140.0, 160.0, 50)[found], atol=1e-9)


def test_the_tangent_plane_there_and_back_near_the_pole() -> None:
    ra, dec = np.array([0.5, 90.0, 200.0, 359.9]), np.array([89.9, 89.99, 89.5, 89.0])
    back = inverse_gnomonic(*gnomonic(ra, dec, 10.0, 89.5), 10.0, 89.5)
    np.testing.assert_allclose(back[0] % 360.0, ra, atol=1e-9)
    np.testing.assert_allclose(back[1], dec, atol=1e-12)


def test_any_map_can_be_taken_over() -> None:
    """A solution about another tangent point is the same map to a fraction of a mas."""
    wcs = solution(3)
    other = approximate(wcs.pixel_to_sky, SHAPE, 4)
    x, y = np.random.default_rng(3).uniform(0.0, 4000.0, (2, 500))
    again = other.sky_to_pixel(*wcs.pixel_to_sky(x, y))
    assert np.abs(again[0] - x).max() < 1e-3 and np.abs(again[1] - y).max() < 1e-3


def test_a_singular_map_is_refused() -> None:
    flat = np.zeros((2, 2))
    flat[1, 0] = 0.1
    with pytest.raises(ValueError, match="singular"):
        TanSip.from_polynomial((0.0, 0.0), CENTRE, UNIT, flat, flat, SHAPE)


def test_parity_and_rotation() -> None:
    turn = np.radians(30.0)
    cd = np.array([[-np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * 0.2 / 3600.0
    wcs = TanSip.make((10.0, 20.0), CENTRE, cd, None, SHAPE)
    assert wcs.parity == 1 and wcs.pixel_scale == pytest.approx(0.2)
    assert wcs.rotation == pytest.approx(30.0)
    assert TanSip.make((10.0, 20.0), CENTRE, cd * [-1, 1], None, SHAPE).parity == -1
