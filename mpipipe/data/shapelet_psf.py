"""Kind `shapelet` of PSF: Gauss-Hermite series of a few widths, integrated over pixels.

A series is a sum of ``psi_n(dx / s) psi_m(dy / s)`` with ``n + m`` up to its order, where psi_n
are the orthonormal Hermite functions (Refregier 2003, MNRAS 338, 35) and s is its width. One width
follows either the core of a PSF or its wings; the sum of a few follows both. Every coefficient is
a polynomial of position. Pixels hold the integral of the functions over their area, which has a
closed form, so a star is drawn where it stands, without interpolation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numba import njit

from mpipipe.data import ccd_polynomial
from mpipipe.data.circle import sum_inside
from mpipipe.data.psf import Psf, register

_PSI_0 = math.pi**-0.25
"""Hermite function 0 at 0."""

_HIGHEST_ORDER = 40
_LARGEST_RADIUS = 1000.0
"""Limits of what a file may ask for."""


def n_functions(orders: np.ndarray) -> int:
    """How many functions series of these orders consist of."""
    return int(np.sum((orders + 1) * (orders + 2) // 2))


@register
@dataclass(frozen=True, eq=False)
class ShapeletPsf(Psf):
    """A sum of Gauss-Hermite series.

    Attributes
    ----------
    coefficients
        (n_terms, n_functions) float64: of each of `ccd_polynomial.terms`, for each function.
        Functions go by series, then by the order along y, then by the order along x.
    widths
        (n_series,) float64, pixels.
    orders
        (n_series,) int64: highest total order of each series.
    shape, radius, fwhm, n_stars
        See `Psf`.
    """

    coefficients: np.ndarray
    widths: np.ndarray
    orders: np.ndarray
    shape: tuple[int, int]
    radius: float
    fwhm: float
    n_stars: int

    kind: ClassVar[str] = "shapelet"

    @property
    def order(self) -> int:
        """Order of the polynomials of position."""
        return (math.isqrt(8 * len(self.coefficients) + 1) - 3) // 2

    @property
    def size(self) -> int:
        """Side of the images, pixels: they hold the calibration circle of any star."""
        return 2 * math.ceil(self.radius + 0.5) + 1

    def images(
        self, x: np.ndarray, y: np.ndarray, dtype: type[np.floating] = np.float64
    ) -> np.ndarray:
        """Images of stars at these positions; see `Psf.images`."""
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        terms = ccd_polynomial.terms(x, y, self.shape, self.order)
        drawn = np.empty((len(x), self.size, self.size))
        _draw(
            terms @ self.coefficients, x - np.round(x), y - np.round(y),
            self.widths, self.orders, self.radius, drawn,
        )  # fmt: skip
        return drawn.astype(dtype, copy=False)

    def arrays(self) -> dict[str, np.ndarray]:
        """All that the model consists of."""
        return {
            "coefficients": self.coefficients,
            "widths": self.widths,
            "orders": self.orders,
            "shape": np.array(self.shape, dtype=np.int64),
            "radius": np.array([self.radius]),
            "fwhm": np.array([self.fwhm]),
            "n_stars": np.array([self.n_stars], dtype=np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ShapeletPsf:
        """The model that gave these `arrays`; see `Psf.from_arrays`."""
        try:
            coefficients = np.ascontiguousarray(arrays["coefficients"], dtype=np.float64)
            widths = np.ascontiguousarray(arrays["widths"], dtype=np.float64)
            orders = np.ascontiguousarray(arrays["orders"], dtype=np.int64)
            ny, nx = (int(n) for n in arrays["shape"])
            (radius,), (fwhm,), (n_stars,) = (arrays[key] for key in ("radius", "fwhm", "n_stars"))
        except KeyError as error:
            raise ValueError(f"has no {error}") from error
        sound = (
            coefficients.ndim == 2
            and len(coefficients) in [ccd_polynomial.n_terms(n) for n in range(_HIGHEST_ORDER)]
            and widths.ndim == 1
            and orders.shape == widths.shape
            and len(widths) > 0
            and bool(np.all((orders >= 0) & (orders <= _HIGHEST_ORDER) & (widths > 0)))
            and coefficients.shape[1] == n_functions(orders)
            and bool(np.isfinite(coefficients).all() and np.isfinite(widths).all())
            and min(ny, nx) > 0
            and 0 < radius < _LARGEST_RADIUS
            and 0 < fwhm < _LARGEST_RADIUS
            and n_stars >= 0
        )
        if not sound:
            raise ValueError("its arrays make no shapelet PSF")
        return cls(coefficients, widths, orders, (ny, nx), float(radius), float(fwhm), int(n_stars))


@njit(cache=True)
def axis_integrals(
    offset: float, widths: np.ndarray, orders: np.ndarray, values: np.ndarray, slopes: np.ndarray
) -> None:
    """Pixel integrals of all Hermite functions along one axis, and their slopes.

    Parameters
    ----------
    offset
        Position of the star relative to the middle pixel, pixels.
    values, slopes
        (n_series, highest order + 1, size), filled: the integral of ``psi_n((t - offset) / s) /
        sqrt(s)`` over each pixel, and its derivative by `offset`.
    """
    size = values.shape[2]
    for series in range(len(widths)):
        width, order = widths[series], orders[series]
        scale = math.sqrt(width)
        for i in range(size):
            low = (i - size // 2 - 0.5 - offset) / width
            high = low + 1.0 / width
            # psi_n and psi_{n-1} at both ends, by their recurrence.
            a, b = _PSI_0 * math.exp(-0.5 * low**2), _PSI_0 * math.exp(-0.5 * high**2)
            a_before = b_before = 0.0
            share = math.erf(high * math.sqrt(0.5)) - math.erf(low * math.sqrt(0.5))
            values[series, 0, i] = scale * math.sqrt(0.5) / _PSI_0 * share
            slopes[series, 0, i] = (a - b) / scale
            for n in range(order):
                # From psi_n' = sqrt(n / 2) psi_{n-1} - sqrt((n + 1) / 2) psi_{n+1}.
                root, back = math.sqrt(2 / (n + 1)), math.sqrt(n / (n + 1))
                before = values[series, n - 1, i] if n > 0 else 0.0
                values[series, n + 1, i] = back * before + scale * root * (a - b)
                a, a_before = root * low * a - back * a_before, a
                b, b_before = root * high * b - back * b_before, b
                slopes[series, n + 1, i] = (a - b) / scale


@njit(cache=True)
def combine(
    coefficients: np.ndarray, along_x: np.ndarray, along_y: np.ndarray, orders: np.ndarray,
    image: np.ndarray,
) -> None:  # fmt: skip
    """Sum of all functions times their coefficients, from the tables of both axes."""
    size = image.shape[0]
    row = np.empty(size)
    image[:] = 0.0
    k = 0
    for series in range(len(orders)):
        for m in range(orders[series] + 1):
            row[:] = 0.0
            for n in range(orders[series] + 1 - m):
                for i in range(size):
                    row[i] += coefficients[k] * along_x[series, n, i]
                k += 1
            for j in range(size):
                for i in range(size):
                    image[j, i] += along_y[series, m, j] * row[i]


@njit(cache=True, error_model="numpy")
def _draw(
    coefficients: np.ndarray, dx: np.ndarray, dy: np.ndarray,
    widths: np.ndarray, orders: np.ndarray, radius: float, images: np.ndarray,
) -> None:  # fmt: skip
    """Fill the images of stars, each divided by its sum inside the radius."""
    n_stars, size, _ = images.shape
    shape = (len(widths), orders.max() + 1, size)
    along_x, along_y, slopes = np.empty(shape), np.empty(shape), np.empty(shape)
    for k in range(n_stars):
        axis_integrals(dx[k], widths, orders, along_x, slopes)
        axis_integrals(dy[k], widths, orders, along_y, slopes)
        combine(coefficients[k], along_x, along_y, orders, images[k])
        images[k] /= sum_inside(images[k], dx[k], dy[k], radius)
