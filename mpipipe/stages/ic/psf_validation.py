"""How well a PSF model predicts stars that it was not made of.

Each star is fitted by the model in position and flux; then the adaptive moments of star and model
are compared, both measured alike on equal stamps. Stars weigh by their noise, down to a floor, so
that the bright ones, which show the model's errors, are heard: the figures still hold noise, and
are upper limits of the model's errors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mpipipe.data.errors import BadDataError
from mpipipe.data.moments import adaptive_moments
from mpipipe.data.psf import Psf
from mpipipe.stages.ic.psf_stars import PsfFit, PsfOptions, PsfStars, cut_stars
from mpipipe.stages.psf_photometry import Pixels, psf_photometry

_FLOOR = 0.002
_NOISE = 2.0
"""Error of a size or ellipticity times the SNR."""
_FOLDS = 5
_CLIP = 5.0


@dataclass(frozen=True)
class ShapeErrors:
    """Star minus model.

    Attributes
    ----------
    size, e1, e2
        (n,) dT/T, T = ixx + iyy, and the differences of (ixx - iyy) / T and 2 ixy / T.
    weight
        (n,) 1 / variance expected of them.
    star_chi2
        (n,) chi2 per degree of freedom of the fits.
    """

    size: np.ndarray
    e1: np.ndarray
    e2: np.ndarray
    weight: np.ndarray
    star_chi2: np.ndarray

    @property
    def n(self) -> int:
        """How many stars."""
        return len(self.size)

    @property
    def chi2(self) -> float:
        """Median over the stars."""
        return float(np.median(self.star_chi2)) if self.n else float("nan")

    @property
    def size_mean(self) -> float:
        """Weighted mean of dT/T."""
        return self._mean(self.size)

    @property
    def size_rms(self) -> float:
        """Weighted rms of dT/T, noise included."""
        return self._mean(self.size**2) ** 0.5

    @property
    def ellipticity_rms(self) -> float:
        """Weighted rms of the modulus of (de1, de2), noise included."""
        return self._mean(self.e1**2 + self.e2**2) ** 0.5

    def _mean(self, values: np.ndarray) -> float:
        if not self.n:
            return float("nan")
        return float((self.weight * values).sum() / self.weight.sum())


def shape_errors(psf: Psf, pixels: Pixels, stars: PsfStars) -> ShapeErrors:
    """Compare stars with a model; those that can not be measured, or are blends, are left out."""
    rows = psf_photometry(pixels, psf, stars.x, stars.y, 2.0 * psf.fwhm)
    rows = rows[~rows["failed"] & (rows["flux"] > 0)]
    if not len(rows):
        return _joined([])
    x, y, flux = rows["x"], rows["y"], rows["flux"]
    at = cut_stars(pixels, x, y, flux, stars.radius, stars.fwhm)
    models = _fitted(psf.images(x, y), at.size)
    seen = adaptive_moments(np.where(at.bad, flux[:, None, None] * models, at.stamps))
    told = adaptive_moments(models)
    trace, model_trace = seen[:, 0] + seen[:, 1], told[:, 0] + told[:, 1]
    size = trace / model_trace - 1
    e1 = (seen[:, 0] - seen[:, 1]) / trace - (told[:, 0] - told[:, 1]) / model_trace
    e2 = 2 * seen[:, 2] / trace - 2 * told[:, 2] / model_trace
    variance = _FLOOR**2 + (_NOISE * rows["flux_error"] / flux) ** 2
    good = np.isfinite(size)
    far = np.abs(np.where(good, size, 0.0)) / np.sqrt(variance)
    if good.any():
        good &= far < _CLIP * max(1.0, 1.4826 * float(np.median(far[good])))
    return ShapeErrors(size[good], e1[good], e2[good], 1 / variance[good], rows["chi2"][good])


def cross_validate(
    fit: Callable[[PsfStars, PsfOptions], PsfFit],
    options: PsfOptions,
    pixels: Pixels,
    stars: PsfStars,
) -> ShapeErrors:
    """Leave a fifth of the stars out at a time, fit the rest, compare; needs two stars."""
    parts = []
    numbers = np.arange(len(stars))
    for fold in range(min(_FOLDS, len(stars)) if len(stars) > 1 else 0):
        out = numbers % _FOLDS == fold
        try:
            psf = fit(stars.take(~out), options).psf
        except BadDataError:
            continue
        parts.append(shape_errors(psf, pixels, stars.take(out)))
    return _joined(parts)


def _joined(parts: list[ShapeErrors]) -> ShapeErrors:
    names = ("size", "e1", "e2", "weight", "star_chi2")
    columns = [np.concatenate([np.empty(0), *(getattr(p, n) for p in parts)]) for n in names]
    return ShapeErrors(*columns)


def _fitted(images: np.ndarray, size: int) -> np.ndarray:
    """Images cut, or padded by zeros, about their middle to this side."""
    lacking = (size - images.shape[1]) // 2
    if lacking >= 0:
        return np.pad(images, ((0, 0), (lacking, lacking), (lacking, lacking)))
    return images[:, -lacking:lacking, -lacking:lacking]
