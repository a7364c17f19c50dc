"""A low-order polynomial of the position on a CCD, with the covariance of its coefficients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_ORDER = 2


def n_terms(order: int) -> int:
    """How many coefficients a polynomial of this order has."""
    return (order + 1) * (order + 2) // 2


def terms(x: np.ndarray, y: np.ndarray, shape: tuple[int, int], order: int) -> np.ndarray:
    """The terms 1, u, v, u^2, u v, v^2 up to `order` at pixel positions.

    u and v go from -1 at the first pixel to 1 at the last, so that coefficients are in the unit
    of the value.

    Parameters
    ----------
    x, y
        (n,) pixels, zero based.
    shape
        (ny, nx) of the CCD.

    Returns
    -------
    numpy.ndarray
        (n, `n_terms(order)`) float64.
    """
    ny, nx = shape
    u = 2.0 * np.asarray(x, float) / max(nx - 1, 1) - 1.0
    v = 2.0 * np.asarray(y, float) / max(ny - 1, 1) - 1.0
    made = [np.ones_like(u)]
    for total in range(order):  # those of one order more: times u, and the last times v
        last = made[-total - 1 :]
        made += [*(one * u for one in last), last[-1] * v]
    return np.stack(made, axis=-1)


@dataclass(frozen=True, eq=False)
class CcdPolynomial:
    """A value that varies slowly over a CCD, known with an error everywhere.

    Attributes
    ----------
    coefficients
        (n,) float64, of `terms`; n is 1, 3 or 6.
    covariance
        (n, n) float64, of the coefficients.
    shape
        (ny, nx) of the CCD.
    """

    coefficients: np.ndarray
    covariance: np.ndarray
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        n = len(self.coefficients)
        if n not in [n_terms(order) for order in range(MAX_ORDER + 1)]:
            raise ValueError(f"{n} coefficients make no polynomial of order 0 to {MAX_ORDER}")
        if self.covariance.shape != (n, n):
            raise ValueError(f"covariance of {self.covariance.shape} for {n} coefficients")

    @classmethod
    def constant(cls, value: float, error: float, shape: tuple[int, int]) -> CcdPolynomial:
        """The same value and error everywhere."""
        return cls(np.array([float(value)]), np.array([[float(error) ** 2]]), shape)

    @property
    def order(self) -> int:
        """0, 1 or 2."""
        return [n_terms(order) for order in range(MAX_ORDER + 1)].index(len(self.coefficients))

    def at(self, x: np.ndarray | float, y: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Value and standard error at pixel positions (arrays of one shape, or numbers)."""
        x, y = np.broadcast_arrays(x, y)
        design = terms(x, y, self.shape, self.order)
        variance = ((design @ self.covariance) * design).sum(axis=-1)
        return design @ self.coefficients, np.sqrt(np.maximum(variance, 0.0))

    def arrays(self) -> dict[str, np.ndarray]:
        """All that it consists of, by name; see `from_arrays`."""
        return {
            "coefficients": self.coefficients.copy(),
            "covariance": self.covariance.copy(),
            "shape": np.array(self.shape, np.int64),
        }

    @classmethod
    def from_arrays(
        cls, coefficients: np.ndarray, covariance: np.ndarray, shape: np.ndarray
    ) -> CcdPolynomial:
        """The polynomial that gave these arrays, to the bit.

        Raises
        ------
        ValueError
            If they make none.
        """
        ny, nx = (int(n) for n in shape)
        return cls(np.array(coefficients, float), np.array(covariance, float), (ny, nx))
