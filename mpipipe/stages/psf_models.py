"""Images of the PSF at the sources of a catalogue, drawn once for all who need them."""

from __future__ import annotations

import numpy as np

from mpipipe.data.psf import Psf

_MOST_PIXELS = 64_000_000
"""Of the images that are kept: 256 MB. Those of further sources are drawn each time."""


class PsfModels:
    """Images of the PSF where the sources of a catalogue are, float32.

    An image is drawn when it is asked for, and kept until its source has moved.

    Attributes
    ----------
    psf
        The model.
    """

    def __init__(self, psf: Psf, n: int) -> None:
        self.psf = psf
        kept = min(n, _MOST_PIXELS // psf.size**2)
        self._images = np.empty((kept, psf.size, psf.size), np.float32)
        self._x, self._y = np.full(kept, np.nan), np.full(kept, np.nan)

    def at(self, some: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Images of some sources.

        Parameters
        ----------
        some
            Their numbers in the catalogue.
        x, y
            Where they are, pixels; the middle of an image is (round(x), round(y)).

        Returns
        -------
        numpy.ndarray
            (len(some), size, size) float32.
        """
        if not len(some):
            return np.empty((0, self.psf.size, self.psf.size), np.float32)
        if some.max() >= len(self._x):
            return self.psf.images(x, y, np.float32)
        moved = (self._x[some] != x) | (self._y[some] != y)
        if moved.any():
            again = some[moved]
            self._x[again], self._y[again] = x[moved], y[moved]
            self._images[again] = self.psf.images(x[moved], y[moved], np.float32)
        first, last = int(some[0]), int(some[-1])
        if last - first + 1 == len(some) and (np.diff(some) == 1).all():
            return self._images[first : last + 1]
        return self._images[some]
