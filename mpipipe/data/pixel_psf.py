"""The PSF kind ``pixel``: a polynomial of position in every pixel, drawn by shifting.

The model is sampled as the exposure is, so that the pixel integral is part of it; nothing is ever
deconvolved (compare Bertin 2011, PSFEx; Anderson & King 2000).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from mpipipe.data import ccd_polynomial
from mpipipe.data.ccd_polynomial import n_terms
from mpipipe.data.psf import Psf, register


@register
@dataclass(frozen=True)
class PixelPsf(Psf):
    """A pixel basis.

    Attributes
    ----------
    coefficients
        (n_terms, size, size) float64: of the terms of `ccd_polynomial`, for the image of a star in
        the middle of its pixel. Their sum inside the calibration radius, itself a polynomial, is
        divided out at each position.
    """

    kind: ClassVar[str] = "pixel"

    coefficients: np.ndarray
    fwhm: float
    radius: float
    shape: tuple[int, int]
    n_stars: int

    def __post_init__(self) -> None:
        n, ny, nx = self.coefficients.shape
        if ny != nx or ny % 2 == 0 or n != n_terms(self.order):
            raise ValueError(f"coefficients of shape {self.coefficients.shape} make no pixel basis")

    @property
    def order(self) -> int:
        """Order of the polynomials."""
        return order_of(len(self.coefficients))

    @property
    def size(self) -> int:
        """Side of the images, pixels."""
        return int(self.coefficients.shape[1])

    def images(
        self, x: np.ndarray, y: np.ndarray, dtype: type[np.floating] = np.float64
    ) -> np.ndarray:
        """Images of stars at these positions; see `Psf.images`."""
        from mpipipe.data.pixel_draw import draw_images

        x, y = np.asarray(x, float), np.asarray(y, float)
        terms = ccd_polynomial.terms(x, y, self.shape, self.order)
        coefficients, sums = self._drawn_from
        norm = (terms * sums).sum(axis=1)
        out = np.empty((len(x), self.size, self.size), dtype)
        draw_images(
            coefficients, (terms / norm[:, None]).astype(np.float32),
            x - np.round(x), y - np.round(y), out,
        )  # fmt: skip
        return out

    @cached_property
    def _drawn_from(self) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients in single precision, which draws three times as fast and errs by 1e-7 of the
        peak, and the sum of each inside the calibration radius."""
        from mpipipe.data.circle import circle_weights

        inside = circle_weights(self.size, self.radius)
        return self.coefficients.astype(np.float32), (self.coefficients * inside).sum(axis=(1, 2))

    def arrays(self) -> dict[str, np.ndarray]:
        """Coefficients, and the figures `fwhm`, `radius`, `shape`, `n_stars`."""
        return {
            "coefficients": self.coefficients,
            "fwhm_radius": np.array([self.fwhm, self.radius]),
            "shape": np.array(self.shape, np.int64),
            "n_stars": np.array([self.n_stars], np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> PixelPsf:
        """The model that gave these `arrays`.

        Raises
        ------
        ValueError
            If they make no model of this kind.
        """
        try:
            coefficients = np.ascontiguousarray(arrays["coefficients"], np.float64)
            fwhm, radius = (float(v) for v in arrays["fwhm_radius"])
            ny, nx = (int(v) for v in arrays["shape"])
            (n_stars,) = (int(v) for v in arrays["n_stars"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not the arrays of a pixel basis: {error}") from None
        if coefficients.ndim != 3:
            raise ValueError(f"coefficients have {coefficients.ndim} axes, a pixel basis has 3")
        return cls(coefficients, fwhm, radius, (ny, nx), n_stars)


def order_of(terms: int) -> int:
    """Order of a polynomial of x and y with this many terms.

    Raises
    ------
    ValueError
        If no polynomial has.
    """
    for order in range(12):
        if n_terms(order) == terms:
            return order
    raise ValueError(f"no polynomial of x and y has {terms} terms")
