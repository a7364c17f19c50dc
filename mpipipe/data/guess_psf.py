"""The PSF kind ``guess``: one elliptical Moffat profile for an exposure that has no stars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mpipipe.data.psf import Psf, register

_BETA = 3.0
_SIGMA_OF_FWHM = 1 / 2.354820045
_SUBPIXELS = 5


@register
@dataclass(frozen=True)
class GuessPsf(Psf):
    """A Moffat profile (Moffat 1969, beta 3) of given size and shape, the same everywhere.

    Attributes
    ----------
    ixx, iyy, ixy
        pixel^2, of the Gaussian that has the profile's axes and FWHM.
    side
        Of the images, pixels; odd.
    """

    kind: ClassVar[str] = "guess"

    ixx: float
    iyy: float
    ixy: float
    side: int
    radius: float
    shape: tuple[int, int]
    n_stars: int = 0

    def __post_init__(self) -> None:
        if self.side % 2 == 0 or not self._determinant > 0 or not self.ixx > 0:
            raise ValueError(
                f"moments {self.ixx}, {self.iyy}, {self.ixy}, side {self.side} make no PSF"
            )

    @property
    def _determinant(self) -> float:
        return self.ixx * self.iyy - self.ixy**2

    @property
    def fwhm(self) -> float:  # type: ignore[override]
        """Of the profile, pixels."""
        return float(self._determinant**0.25 / _SIGMA_OF_FWHM)

    @property
    def size(self) -> int:
        """Side of the images, pixels."""
        return self.side

    def images(
        self, x: np.ndarray, y: np.ndarray, dtype: type[np.floating] = np.float64
    ) -> np.ndarray:
        """Images of stars at these positions; see `Psf.images`."""
        from mpipipe.data.circle import circle_weights

        x, y = np.asarray(x, float), np.asarray(y, float)
        norm = float((self._draw(0.0, 0.0) * circle_weights(self.size, self.radius)).sum())
        out = np.empty((len(x), self.size, self.size), dtype)
        for k, (dx, dy) in enumerate(zip(x - np.round(x), y - np.round(y), strict=True)):
            out[k] = self._draw(dx, dy) / norm
        return out

    def _draw(self, dx: float, dy: float) -> np.ndarray:
        """The profile at (dx, dy) from the middle, summed over parts of pixels."""
        half = self.size // 2
        part = (np.arange(_SUBPIXELS) + 0.5) / _SUBPIXELS - 0.5
        along = (np.arange(-half, half + 1)[:, None] + part).ravel()
        u, v = along[None, :] - dx, along[:, None] - dy
        form = (self.iyy * u * u - 2 * self.ixy * u * v + self.ixx * v * v) / self._determinant
        # Half the peak where the Gaussian of these moments has it.
        grow = (2 ** (1 / _BETA) - 1) / (2 * np.log(2))
        fine = (1 + grow * form) ** -_BETA
        return fine.reshape(self.size, _SUBPIXELS, self.size, _SUBPIXELS).mean(axis=(1, 3))

    def arrays(self) -> dict[str, np.ndarray]:
        """The figures it consists of."""
        return {
            "moments": np.array([self.ixx, self.iyy, self.ixy]),
            "radius": np.array([self.radius]),
            "shape": np.array(self.shape, np.int64),
            "size": np.array([self.size], np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> GuessPsf:
        """The model that gave these `arrays`.

        Raises
        ------
        ValueError
            If they make no model of this kind.
        """
        try:
            ixx, iyy, ixy = (float(v) for v in arrays["moments"])
            (radius,) = (float(v) for v in arrays["radius"])
            ny, nx = (int(v) for v in arrays["shape"])
            (size,) = (int(v) for v in arrays["size"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not the arrays of a guessed PSF: {error}") from None
        return cls(ixx, iyy, ixy, size, radius, (ny, nx))
