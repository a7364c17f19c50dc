"""The aperture correction: by what PSF fluxes fall short of the light in the calibration aperture.

PSF models sum to 1 inside the calibration aperture, so factors are near 1; they hold what the
model misses of the stars, and how that varies over the CCD.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mpipipe.data.ccd_polynomial import CcdPolynomial


@dataclass(frozen=True, eq=False)
class ApertureCorrection:
    """Factor from PSF fluxes to fluxes in the calibration aperture.

    Attributes
    ----------
    factors
        The factor over the CCD, order 0, 1 or 2, with its covariance.
    n_stars
        Stars it was made of; 0: none, the factor is 1 with an error that says so.
    is_simplified
        There were too few stars to see how it varies over the CCD: it is constant.
    """

    factors: CcdPolynomial
    n_stars: int
    is_simplified: bool

    @classmethod
    def unknown(cls, error: float, shape: tuple[int, int]) -> ApertureCorrection:
        """A factor of 1 of which only the likely error is known."""
        return cls(CcdPolynomial.constant(1.0, error, shape), 0, True)

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of the CCD."""
        return self.factors.shape

    def at(self, x: np.ndarray | float, y: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Factor and its standard error at pixel positions."""
        return self.factors.at(x, y)

    def apply(
        self, flux: np.ndarray, error: np.ndarray, x: np.ndarray, y: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """PSF fluxes and errors times the factor, whose own error is added to that of the fluxes.

        All fluxes of a CCD share the factor's error. Where a zero point follows that was made of
        fluxes with the same factor, its error cancels: scale by `at` alone.
        """
        factor, factor_error = self.at(x, y)
        return flux * factor, np.hypot(error * factor, flux * factor_error)

    def arrays(self) -> dict[str, np.ndarray]:
        """All that it consists of, as float64 or int64 arrays by name."""
        numbers = [self.n_stars, int(self.is_simplified)]
        return {**self.factors.arrays(), "numbers": np.array(numbers, np.int64)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ApertureCorrection:
        """The correction that gave these `arrays`, to the bit.

        Raises
        ------
        ValueError
            If they make none.
        """
        try:
            parts = (arrays[name] for name in ("coefficients", "covariance", "shape"))
            factors = CcdPolynomial.from_arrays(*parts)
            n_stars, is_simplified = (int(n) for n in arrays["numbers"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"no aperture correction: {error}") from error
        return cls(factors, n_stars, bool(is_simplified))
