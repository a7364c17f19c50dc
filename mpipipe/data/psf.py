"""The point spread function of one exposure: what every kind of model can tell.

A kind is one class here or in a module beside, entered into `KINDS` by `register`. Models are
values: they know no files, and give what they consist of as named arrays (`arrays`), from which
`from_arrays` makes the same model again, to the bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np


class Psf(ABC):
    """A PSF that varies over an exposure.

    Images hold the pixel integral: a value is the share of a star's light in that pixel. They sum
    to 1 inside the calibration radius (`radius`) at every position.

    Attributes
    ----------
    kind
        Name in the registry, e.g. ``pixel``.
    fwhm
        Pixels, of the Gaussian with the model's adaptive moments at the middle of the exposure.
    radius
        Calibration radius, pixels.
    shape
        (ny, nx) of the exposure it belongs to.
    n_stars
        How many stars it was made of; 0: a guess, see `is_guess`.
    """

    kind: ClassVar[str]
    fwhm: float
    radius: float
    shape: tuple[int, int]
    n_stars: int

    @property
    def is_guess(self) -> bool:
        """Whether no star stands behind it: a stand-in of the measured or assumed seeing."""
        return self.n_stars == 0

    @property
    @abstractmethod
    def size(self) -> int:
        """Side of the model's images, pixels; odd."""

    @abstractmethod
    def images(
        self, x: np.ndarray, y: np.ndarray, dtype: type[np.floating] = np.float64
    ) -> np.ndarray:
        """Images of stars at these positions.

        Parameters
        ----------
        x, y
            (n,) pixels, zero based.
        dtype
            Of the images.

        Returns
        -------
        numpy.ndarray
            (n, size, size). The middle pixel is (round(x), round(y)) (halves to even), the
            star stands where it stands in its pixel.
        """

    def image(self, x: float, y: float) -> np.ndarray:
        """The image of one star, (size, size) float64; see `images`."""
        return self.images(np.array([float(x)]), np.array([float(y)]))[0]

    def moments(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Adaptive moments ixx, iyy, ixy at these positions, (n, 3) float64, pixel^2.

        Those of stars in the middle of their pixels, see `mpipipe.data.moments`; NaN where the
        model has none.
        """
        from mpipipe.data.moments import adaptive_moments

        return adaptive_moments(self.images(np.round(x), np.round(y)))[:, :3]

    @abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """All that the model consists of, as float64 or int64 arrays by name."""

    @classmethod
    @abstractmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Psf:
        """The model that gave these `arrays`.

        Raises
        ------
        ValueError
            If they make no model of this kind.
        """


KINDS: dict[str, type[Psf]] = {}
"""Kinds of PSF by name."""


def register(cls: type[Psf]) -> type[Psf]:
    """Enter a kind into `KINDS` under its name."""
    KINDS[cls.kind] = cls
    return cls
