"""Kind `piff` of PSF: a grid of pixels with polynomials of position, drawn by Piff.

Piff (Jarvis et al. 2021, MNRAS 501, 1282) is an extra: ``pip install mpipipe[piff]``. The model is
kept as plain arrays, and Piff's objects are made of them. Files that Piff itself writes are never
read: its readers run what they find there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from mpipipe.data import ccd_polynomial
from mpipipe.data.circle import sum_inside
from mpipipe.data.errors import ConfigError
from mpipipe.data.psf import Psf, register

POSITION = ("ccd_u", "ccd_v")
"""Names of the position in Piff's stars: from -1 to 1 over the exposure on both axes."""

LANCZOS = 7
"""Order of the kernel between the points of the grid."""

_HIGHEST_ORDER = 10
_HIGHEST_LANCZOS = 50
_LARGEST_SIDE = 2001
"""Limits of what a file may ask for."""


def import_piff() -> Any:
    """The module piff.

    Raises
    ------
    ConfigError
        If it is not installed.
    """
    try:
        import piff
    except ImportError as error:
        raise ConfigError(
            f"a PSF of kind 'piff' needs Piff: {error}", way_out="pip install mpipipe[piff]"
        ) from error
    return piff


@register
@dataclass(frozen=True, eq=False)
class PiffPsf(Psf):
    """Piff's `PixelGrid` with `BasisPolynomial` as plain arrays.

    Attributes
    ----------
    grid
        (n, n, n_terms) float64: for each point of the grid the coefficients of the polynomial, in
        Piff's order (powers of x count slower than those of y).
    scale
        Distance between points of the grid, pixels.
    lanczos
        Order of the kernel between them.
    side
        Of the images, pixels; odd.
    shape, radius, fwhm, n_stars
        See `Psf`.
    """

    grid: np.ndarray
    scale: float
    lanczos: int
    side: int
    shape: tuple[int, int]
    radius: float
    fwhm: float
    n_stars: int

    kind: ClassVar[str] = "piff"

    @property
    def size(self) -> int:
        """Side of the images, pixels."""
        return self.side

    @property
    def order(self) -> int:
        """Order of the polynomials of position."""
        return (math.isqrt(8 * self.grid.shape[2] + 1) - 3) // 2

    def images(
        self, x: np.ndarray, y: np.ndarray, dtype: type[np.floating] = np.float64
    ) -> np.ndarray:
        """Images of stars at these positions; see `Psf.images`.

        Raises
        ------
        ConfigError
            If Piff is not installed.
        """
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        drawn = np.empty((len(x), self.size, self.size))
        for k in range(len(x)):
            star = piff_star(drawn[k], float(x[k]), float(y[k]), self.shape)
            drawn[k] = self._piff.drawStar(star).image.array
            dx, dy = x[k] - np.round(x[k]), y[k] - np.round(y[k])
            drawn[k] /= sum_inside(drawn[k], dx, dy, self.radius)
        return drawn.astype(dtype, copy=False)

    @cached_property
    def _piff(self) -> Any:
        """Piff's object for this model."""
        psf = piff_model(len(self.grid), self.scale, self.lanczos, self.order)
        psf.interp.q = self.grid.reshape(-1, self.grid.shape[2])
        return psf

    def arrays(self) -> dict[str, np.ndarray]:
        """All that the model consists of."""
        return {
            "grid": self.grid,
            "scale_radius_fwhm": np.array([self.scale, self.radius, self.fwhm]),
            "lanczos_side_stars": np.array([self.lanczos, self.side, self.n_stars]),
            "shape": np.array(self.shape, dtype=np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> PiffPsf:
        """The model that gave these `arrays`; see `Psf.from_arrays`. It needs no Piff."""
        try:
            grid = np.ascontiguousarray(arrays["grid"], dtype=np.float64)
            scale, radius, fwhm = (float(value) for value in arrays["scale_radius_fwhm"])
            lanczos, side, n_stars = (int(value) for value in arrays["lanczos_side_stars"])
            ny, nx = (int(n) for n in arrays["shape"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not the arrays of a Piff PSF: {error}") from error
        sound = (
            grid.ndim == 3
            and grid.shape[0] == grid.shape[1]
            and grid.shape[2]
            in [ccd_polynomial.n_terms(order) for order in range(_HIGHEST_ORDER + 1)]
            and bool(np.isfinite(grid).all())
            and all(math.isfinite(value) and value > 0 for value in (scale, radius, fwhm))
            and 1 <= lanczos <= _HIGHEST_LANCZOS
            and 0 < side <= _LARGEST_SIDE
            and side % 2 == 1
            and min(ny, nx) > 0
            and n_stars >= 0
        )
        if not sound:
            raise ValueError("its arrays make no Piff PSF")
        return cls(grid, scale, lanczos, side, (ny, nx), radius, fwhm, n_stars)


def piff_model(n: int, scale: float, lanczos: int, order: int, **options: Any) -> Any:
    """Piff's `SimplePSF` of an n x n grid and polynomials of position, without coefficients."""
    piff = import_piff()
    import galsim

    grid = piff.PixelGrid(scale, n, interp=galsim.Lanczos(lanczos))
    psf = piff.SimplePSF(grid, piff.BasisPolynomial(order, keys=POSITION), **options)
    psf.set_context({0: galsim.PixelScale(1.0)})
    return psf


def piff_star(
    image: np.ndarray,
    x: float,
    y: float,
    shape: tuple[int, int],
    weight: np.ndarray | None = None,
    **properties: float,
) -> Any:
    """Piff's `Star` of a stamp around (round(x), round(y)) on an exposure of this shape."""
    piff = import_piff()
    import galsim

    half = image.shape[0] // 2
    corner = {"xmin": round(x) - half, "ymin": round(y) - half}
    pixels = galsim.Image(np.array(image, dtype=float), wcs=galsim.PixelScale(1.0), **corner)
    weights = galsim.Image(
        np.ones_like(image) if weight is None else weight, wcs=galsim.PixelScale(1.0), **corner
    )
    ((_, u, v),) = ccd_polynomial.terms(np.array([x]), np.array([y]), shape, 1)
    place = dict(zip(POSITION, (float(u), float(v)), strict=True))
    data = piff.StarData(
        pixels, galsim.PositionD(x, y), weight=weights, properties=place | properties
    )
    return piff.Star(data, None)
