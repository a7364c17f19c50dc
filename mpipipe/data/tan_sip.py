"""A WCS as a value: gnomonic projection with polynomial distortion (TAN-SIP).

The convention is that of Shupe et al. (2005, ASPC 347, 491). Pixels are zero based with pixel
centres at integers; only `TanSip.cards` counts from one, as FITS does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from astropy.wcs import WCS

INVERSE_EXTRA = 2
"""Orders by which the inverse polynomials exceed the forward ones: its error falls to 1e-4 px."""

_MAX_ORDER = 9
"""Of the convention."""
_MARGIN = 0.02
"""By which the inverse polynomials hold beyond the edges, in sides of the CCD."""
_GRID = 24
_ROUNDS = 30
_CONVERGED = 1e-11
"""Newton steps below this, in pixels per pixel of distance, end the inversion."""
_ASTROPY_TOO_FAR = 90.0


def gnomonic(
    ra: np.ndarray, dec: np.ndarray, ra0: float, dec0: float
) -> tuple[np.ndarray, np.ndarray]:
    """Tangent-plane coordinates of sky positions, all in degrees.

    Written with half angles, which keep all digits near the tangent point.

    Returns
    -------
    tuple of numpy.ndarray
        xi to the east and eta to the north; NaN on the other half of the sky.
    """
    a = np.radians((np.asarray(ra, float) - ra0 + 180.0) % 360.0 - 180.0)
    d, d0 = np.radians(np.asarray(dec, float)), np.radians(dec0)
    difference = np.radians(np.asarray(dec, float) - dec0)
    cos_d, half = np.cos(d), np.sin(0.5 * a)
    turn = 2.0 * half**2
    cosine = np.cos(difference) - np.cos(d0) * cos_d * turn
    cosine = np.where(cosine > 0.0, cosine, np.nan)
    xi = 2.0 * cos_d * half * np.cos(0.5 * a) / cosine
    eta = (np.sin(difference) + np.sin(d0) * cos_d * turn) / cosine
    return np.degrees(xi), np.degrees(eta)


def inverse_gnomonic(
    xi: np.ndarray, eta: np.ndarray, ra0: float, dec0: float
) -> tuple[np.ndarray, np.ndarray]:
    """Right ascension (0 to 360) and declination of tangent-plane coordinates, all in degrees."""
    x, y, d0 = np.radians(xi), np.radians(eta), np.radians(dec0)
    inwards = np.cos(d0) - y * np.sin(d0)
    ra = ra0 + np.degrees(np.arctan2(x, inwards))
    dec = np.degrees(np.arctan2(np.sin(d0) + y * np.cos(d0), np.hypot(x, inwards)))
    return ra % 360.0, dec


@dataclass(frozen=True, eq=False)
class TanSip:
    """A TAN projection with SIP distortion.

    Attributes
    ----------
    ra, dec
        Tangent point (CRVAL), degrees (ICRS).
    x, y
        Its zero-based pixel (CRPIX - 1).
    cd
        (2, 2) degrees per pixel.
    a, b
        (order + 1, order + 1): coefficients of u^p v^q at [p, q] in pixels, where (u, v) is the
        pixel minus that of the tangent point. Zero where p + q < 2.
    ap, bp
        Those of the inverse, p + q >= 0.
    """

    ra: float
    dec: float
    x: float
    y: float
    cd: np.ndarray
    a: np.ndarray
    b: np.ndarray
    ap: np.ndarray
    bp: np.ndarray

    @classmethod
    def make(
        cls,
        sky: tuple[float, float],
        pixel: tuple[float, float],
        cd: np.ndarray,
        distortion: tuple[np.ndarray, np.ndarray] | None,
        shape: tuple[int, int],
    ) -> TanSip:
        """The solution with inverse polynomials that hold over a CCD.

        Parameters
        ----------
        sky, pixel
            The tangent point (deg) and its zero-based pixel.
        cd
            (2, 2) degrees per pixel.
        distortion
            The polynomials `a` and `b`; None for none.
        shape
            (ny, nx) of the CCD.
        """
        a, b = (np.zeros((2, 2)),) * 2 if distortion is None else distortion
        ap, bp = _inverse(a, b, pixel, shape)
        ra, dec, x, y = map(float, (*sky, *pixel))
        return cls(ra, dec, x, y, np.array(cd, float), a, b, ap, bp)

    @classmethod
    def from_polynomial(
        cls,
        sky: tuple[float, float],
        centre: tuple[float, float],
        unit: float,
        xi: np.ndarray,
        eta: np.ndarray,
        shape: tuple[int, int],
    ) -> TanSip:
        """The solution whose tangent plane is a polynomial of the pixels.

        Parameters
        ----------
        sky
            Tangent point, degrees.
        centre, unit
            The polynomials' variables are (x - centre[0]) / unit and (y - centre[1]) / unit.
        xi, eta
            (order + 1, order + 1) coefficients, degrees.
        shape
            (ny, nx) of the CCD.

        Raises
        ------
        ValueError
            If no pixel near the CCD is the tangent point, or the linear part is singular.
        """
        at = _root(xi, eta)
        xi, eta = _shifted(xi, *at), _shifted(eta, *at)
        order = len(xi) - 1
        p, q = np.indices(xi.shape)
        per_pixel = np.stack([xi, eta]) * np.where(
            p + q <= order, unit ** -(p + q).astype(float), 0
        )
        cd = np.array([[c[1, 0], c[0, 1]] for c in per_pixel])
        distortion = None
        if order > 1:
            a, b = np.einsum("ij,jpq->ipq", np.linalg.inv(cd), per_pixel)
            distortion = np.where(p + q >= 2, a, 0.0), np.where(p + q >= 2, b, 0.0)
        pixel = centre[0] + unit * at[0], centre[1] + unit * at[1]
        return cls.make(sky, pixel, cd, distortion, shape)

    @property
    def order(self) -> int:
        """Degree of the distortion; 1 without."""
        return len(self.a) - 1 if self.has_distortion else 1

    @property
    def has_distortion(self) -> bool:
        """Whether it is more than a plain TAN."""
        return bool(np.any(self.a) or np.any(self.b))

    @property
    def pixel_scale(self) -> float:
        """Arcsec per pixel at the tangent point."""
        return float(np.sqrt(abs(np.linalg.det(self.cd))) * 3600.0)

    @property
    def parity(self) -> int:
        """+1 if the image shows the sky as drawn on paper (east left when north is up), else -1."""
        return 1 if np.linalg.det(self.cd) < 0.0 else -1

    @property
    def rotation(self) -> float:
        """Position angle of the image's y axis, degrees from north over east, -180 to 180."""
        return float(np.degrees(np.arctan2(self.cd[0, 1], self.cd[1, 1])))

    def pixel_to_sky(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Right ascension and declination of pixels, degrees."""
        u, v = np.asarray(x, float) - self.x, np.asarray(y, float) - self.y
        f, g = u + polynomial(self.a, u, v), v + polynomial(self.b, u, v)
        xi, eta = self.cd[0, 0] * f + self.cd[0, 1] * g, self.cd[1, 0] * f + self.cd[1, 1] * g
        return inverse_gnomonic(xi, eta, self.ra, self.dec)

    def sky_to_pixel(self, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Zero-based pixels of sky positions, by Newton's method to rounding.

        NaN where there is none: on the other half of the sky, or far outside the CCD where the
        distortion folds.
        """
        xi, eta = gnomonic(ra, dec, self.ra, self.dec)
        inverse = np.linalg.inv(self.cd)
        f = inverse[0, 0] * xi + inverse[0, 1] * eta
        g = inverse[1, 0] * xi + inverse[1, 1] * eta
        u, v = f, g
        if self.has_distortion:
            with np.errstate(all="ignore"):
                u, v = self._undistorted(f, g)
        return self.x + u, self.y + v

    def jacobian(self, x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
        """Derivatives of (xi, eta) by (x, y) at n pixels, (n, 2, 2) arcsec per pixel.

        In the tangent plane of the tangent point, whose own scale differs by 1e-5 over a CCD.
        """
        u, v = np.broadcast_arrays(np.asarray(x, float) - self.x, np.asarray(y, float) - self.y)
        sip = np.empty((*u.shape, 2, 2))
        _sip_slopes(self.a, self.b, u.ravel(), v.ravel(), sip.reshape(-1, 2, 2))
        return np.asarray(3600.0 * self.cd @ sip)

    def _undistorted(self, f: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(u, v) with u + a(u, v) = f and v + b(u, v) = g; NaN where Newton does not get there."""
        u, v = np.empty(np.shape(f)), np.empty(np.shape(g))
        _undistort(self.a, self.b, np.ravel(f), np.ravel(g), u.reshape(-1), v.reshape(-1))
        return u, v

    def cards(self) -> dict[str, object]:
        """FITS header cards that astropy, DS9 and SCAMP's kin read."""
        sip = self.has_distortion
        cards: dict[str, object] = {
            "WCSAXES": 2,
            "CTYPE1": "RA---TAN-SIP" if sip else "RA---TAN",
            "CTYPE2": "DEC--TAN-SIP" if sip else "DEC--TAN",
            "CUNIT1": "deg",
            "CUNIT2": "deg",
            "RADESYS": "ICRS",
            "CRVAL1": self.ra,
            "CRVAL2": self.dec,
            "CRPIX1": self.x + 1.0,
            "CRPIX2": self.y + 1.0,
            **{f"CD{i + 1}_{j + 1}": float(self.cd[i, j]) for i in (0, 1) for j in (0, 1)},
        }
        if not sip:
            return cards
        for name, table, least in (
            ("A", self.a, 2),
            ("B", self.b, 2),
            ("AP", self.ap, 0),
            ("BP", self.bp, 0),
        ):
            order = len(table) - 1
            cards[f"{name}_ORDER"] = order
            for p, q in _terms(order):
                if p + q >= least:
                    cards[f"{name}_{p}_{q}"] = float(table[p, q])
        return cards

    def to_astropy(self) -> WCS:
        """The same as an astropy WCS (zero-based pixels by the origin 0)."""
        from astropy.io.fits import Header
        from astropy.wcs import WCS

        return WCS(Header(self.cards()), fix=False)


def approximate(
    pixel_to_sky: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    shape: tuple[int, int],
    order: int,
) -> TanSip:
    """The TAN-SIP solution nearest to any map from pixels to sky over a CCD.

    Parameters
    ----------
    pixel_to_sky
        Takes zero-based x and y, gives ra and dec in degrees.
    shape
        (ny, nx) of the CCD.
    order
        Degree of the polynomials; 1 gives a plain TAN.

    Raises
    ------
    ValueError
        If the map gives no finite positions or is singular.
    """
    x, y = _grid_over(shape, 0.0)
    centre, unit = middle(shape)
    ra0, dec0 = (float(np.ravel(c)[0]) for c in pixel_to_sky(*np.array(centre).reshape(2, 1)))
    plane = np.stack(gnomonic(*pixel_to_sky(x, y), ra0, dec0), axis=1)
    if not np.isfinite(plane).all():
        raise ValueError("the WCS gives no positions on the whole CCD")
    design = design_matrix((x - centre[0]) / unit, (y - centre[1]) / unit, order)
    solution = np.linalg.lstsq(design, plane, rcond=None)[0]
    xi, eta = (coefficient_table(column, order) for column in solution.T)
    return TanSip.from_polynomial((ra0, dec0), centre, unit, xi, eta, shape)


def middle(shape: tuple[int, int]) -> tuple[tuple[float, float], float]:
    """Central pixel (x, y) of a CCD of (ny, nx), and half its longer side."""
    ny, nx = shape
    return ((nx - 1) / 2.0, (ny - 1) / 2.0), max(nx, ny) / 2.0


def design_matrix(u: np.ndarray, v: np.ndarray, order: int) -> np.ndarray:
    """Monomials u^p v^q of p + q <= order as columns, sorted by p + q, then p falling."""
    powers_u, powers_v = _powers(u, order), _powers(v, order)
    return np.stack([powers_u[p] * powers_v[q] for p, q in _terms(order)], axis=1)


def _powers(values: np.ndarray, order: int) -> np.ndarray:
    """Powers from 0 to `order`, (order + 1, n), by multiplication, far quicker than pow()."""
    powers = np.ones((order + 1, *np.shape(values)))
    for k in range(order):
        powers[k + 1] = powers[k] * values
    return powers


def coefficient_table(values: np.ndarray, order: int) -> np.ndarray:
    """Coefficients in the order of `design_matrix` as a (order + 1, order + 1) table [p, q]."""
    table = np.zeros((order + 1, order + 1))
    for (p, q), value in zip(_terms(order), values, strict=True):
        table[p, q] = value
    return table


def polynomial(table: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Sum of table[p, q] u^p v^q over p + q <= order, by Horner's rule."""
    u, v = np.broadcast_arrays(np.asarray(u, float), np.asarray(v, float))
    total = np.empty(u.shape)
    _horner(np.ascontiguousarray(table, float), u.ravel(), v.ravel(), total.reshape(-1))
    return total


@njit(cache=True)
def _horner(table: np.ndarray, u: np.ndarray, v: np.ndarray, out: np.ndarray) -> None:
    n = len(table)
    for k in range(len(out)):
        total = 0.0
        for p in range(n - 1, -1, -1):
            inner = 0.0
            for q in range(n - 1 - p, -1, -1):
                inner = inner * v[k] + table[p, q]
            total = total * u[k] + inner
        out[k] = total


@njit(cache=True, error_model="numpy")
def _undistort(
    a: np.ndarray, b: np.ndarray, f: np.ndarray, g: np.ndarray, out_u: np.ndarray, out_v: np.ndarray
) -> None:
    """Newton's method for `TanSip._undistorted`, point by point."""
    for k in range(len(f)):
        u, v = f[k], g[k]
        tolerance = _CONVERGED * (1.0 + np.hypot(u, v))
        out_u[k] = out_v[k] = np.nan
        for _ in range(_ROUNDS):
            au, a_u, a_v = _with_slopes(a, u, v)
            bv, b_u, b_v = _with_slopes(b, u, v)
            rest_u, rest_v = f[k] - u - au, g[k] - v - bv
            determinant = (1.0 + a_u) * (1.0 + b_v) - a_v * b_u
            step_u = ((1.0 + b_v) * rest_u - a_v * rest_v) / determinant
            step_v = ((1.0 + a_u) * rest_v - b_u * rest_u) / determinant
            u, v = u + step_u, v + step_v
            if not np.isfinite(u + v):
                break
            if np.hypot(step_u, step_v) <= tolerance and determinant > 0.0:
                out_u[k], out_v[k] = u, v
                break


@njit(cache=True)
def _sip_slopes(
    a: np.ndarray, b: np.ndarray, u: np.ndarray, v: np.ndarray, out: np.ndarray
) -> None:
    """Derivatives of u + a and v + b (lines) by u and v (columns), (n, 2, 2)."""
    for k in range(len(u)):
        _, a_u, a_v = _with_slopes(a, u[k], v[k])
        _, b_u, b_v = _with_slopes(b, u[k], v[k])
        out[k, 0, 0], out[k, 0, 1] = 1.0 + a_u, a_v
        out[k, 1, 0], out[k, 1, 1] = b_u, 1.0 + b_v


@njit(cache=True)
def _with_slopes(table: np.ndarray, u: float, v: float) -> tuple[float, float, float]:
    """A polynomial as `polynomial` has it, and its derivatives by u and v."""
    n = len(table)
    total = by_u = by_v = 0.0
    for p in range(n - 1, -1, -1):
        inner = slope = 0.0
        for q in range(n - 1 - p, -1, -1):
            slope = slope * v + inner
            inner = inner * v + table[p, q]
        by_u = by_u * u + total
        total = total * u + inner
        by_v = by_v * u + slope
    return total, by_u, by_v


def _terms(order: int) -> list[tuple[int, int]]:
    return [(p, degree - p) for degree in range(order + 1) for p in range(degree, -1, -1)]


def _root(xi: np.ndarray, eta: np.ndarray) -> tuple[float, float]:
    """Where both polynomials vanish, by Newton's method from the centre."""
    at = np.zeros(2)
    tables = [np.ascontiguousarray(c, float) for c in (xi, eta)]
    for _ in range(_ROUNDS):
        found = np.array([_with_slopes(table, at[0], at[1]) for table in tables])
        value, slope = found[:, 0], found[:, 1:]
        if not np.isfinite(slope).all() or np.linalg.det(slope) == 0.0:
            raise ValueError("the WCS is singular")
        step = np.linalg.solve(slope, value)
        at = at - step
        if np.hypot(*step) < 1e-14:
            break
    if np.hypot(*at) > 4.0:
        raise ValueError("the tangent point lies far outside the CCD")
    return float(at[0]), float(at[1])


def _shifted(table: np.ndarray, u0: float, v0: float) -> np.ndarray:
    """Coefficients of the same polynomial in u - u0 and v - v0."""
    order = len(table) - 1
    out = np.zeros_like(table)
    for i, j in _terms(order):
        for p in range(i + 1):
            for q in range(j + 1):
                weight = comb(i, p) * comb(j, q) * u0 ** (i - p) * v0 ** (j - q)
                out[p, q] += table[i, j] * weight
    return out


def _grid_over(shape: tuple[int, int], margin: float) -> tuple[np.ndarray, np.ndarray]:
    ny, nx = shape
    x = np.linspace(-0.5 - margin * nx, nx - 0.5 + margin * nx, _GRID)
    y = np.linspace(-0.5 - margin * ny, ny - 0.5 + margin * ny, _GRID)
    grid_x, grid_y = np.meshgrid(x, y)
    return grid_x.ravel(), grid_y.ravel()


def _inverse(
    a: np.ndarray, b: np.ndarray, pixel: tuple[float, float], shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Polynomials from distorted to undistorted pixel offsets, fitted over the CCD."""
    if not (np.any(a) or np.any(b)):
        return np.zeros((2, 2)), np.zeros((2, 2))
    order = min(len(a) - 1 + INVERSE_EXTRA, _MAX_ORDER)
    x, y = _grid_over(shape, _MARGIN)
    u, v = x - pixel[0], y - pixel[1]
    du, dv = polynomial(a, u, v), polynomial(b, u, v)
    unit = float(np.abs([u, v]).max())
    design = design_matrix((u + du) / unit, (v + dv) / unit, order)
    solution = np.linalg.lstsq(design, -np.stack([du, dv], axis=1), rcond=None)[0]
    p, q = np.indices((order + 1, order + 1))
    scale = unit ** -(p + q).astype(float)
    ap, bp = (coefficient_table(column, order) * scale for column in solution.T)
    return ap, bp
