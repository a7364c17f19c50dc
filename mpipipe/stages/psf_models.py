"""Images of the PSF at the sources of a catalogue, drawn once for all who need them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mpipipe.data.psf import Psf

_STILL = 0.003
"""Pixels by which a source may move, along an axis, before it is drawn again: of a star of SNR 300
that leaves a sixth of its noise."""
_MOST_PIXELS = 64_000_000
"""Of the images that are kept: 256 MB. Those of further sources are drawn each time."""


class Drawn(NamedTuple):
    """Images of some sources.

    Attributes
    ----------
    images
        (m, size, size) float32.
    which
        (n,) the image of each source.
    x, y
        (n,) where these were drawn, pixels.
    """

    images: np.ndarray
    which: np.ndarray
    x: np.ndarray
    y: np.ndarray


class PsfModels:
    """Images of the PSF where the sources of a catalogue are, float32.

    An image is drawn when it is asked for, and kept until its source has moved by more than 0.003
    pixel, or by what its SNR allows (`know_snr`).

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
        self._still = np.full(kept, _STILL)

    def know_snr(self, snr: np.ndarray) -> None:
        """Take care of bright sources: images of those above SNR 333 are kept only while their
        sources have moved by no more than 1 / SNR pixel.

        Parameters
        ----------
        snr
            (n,) of the whole catalogue; NaN and negative ones count as faint.
        """
        snr = snr[: len(self._still)]
        self._still = np.where(snr * _STILL > 1, 1 / np.maximum(snr, 1 / _STILL), _STILL)

    def drawn(self, some: np.ndarray, x: np.ndarray, y: np.ndarray) -> Drawn:
        """Images of some sources, where they are kept.

        Parameters
        ----------
        some
            Their numbers in the catalogue.
        x, y
            Where they are, pixels; the middle of an image is (round(x), round(y)) of where it was
            drawn.
        """
        if len(some) and some.max() >= len(self._x):
            x, y = np.ascontiguousarray(x), np.ascontiguousarray(y)
            return Drawn(self.psf.images(x, y, np.float32), np.arange(len(some)), x, y)
        most = self._still[some]
        still = (np.abs(self._x[some] - x) <= most) & (np.abs(self._y[some] - y) <= most)
        if not still.all():
            again = some[~still]
            self._x[again], self._y[again] = x[~still], y[~still]
            self._images[again] = self.psf.images(x[~still], y[~still], np.float32)
        return Drawn(self._images, some, self._x[some], self._y[some])

    def at(self, some: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The same as an array of their own: (len(some), size, size) float32, each with its middle
        at (round(x), round(y))."""
        drawn = self.drawn(some, x, y)
        images, which = drawn.images, drawn.which
        turned = (np.round(drawn.x) != np.round(x)) | (np.round(drawn.y) != np.round(y))
        if turned.any():
            images, which = images[which], np.arange(len(which))
            images[turned] = self.psf.images(x[turned], y[turned], np.float32)
        first, last = (int(which[0]), int(which[-1])) if len(which) else (0, -1)
        if last - first + 1 == len(which) and (np.diff(which) == 1).all():
            return images[first : last + 1]
        return images[which]
