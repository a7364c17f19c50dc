"""The noise of a matched-filter map apart from the light of sources too faint to be found.

A deep sky is never blank: undetected stars and galaxies widen the map like noise, but they are what
a detection looks for, and not what it has to be told from. The two differ in how they correlate.
Light has gone through the seeing, so its correlation is as wide as the PSF's with itself, or wider.
Noise that a detector or a warp has correlated is so over a pixel or two. The covariance of blank
pixels at larger lags is therefore light, and what small lags have beyond it is noise.
"""

from __future__ import annotations

import numpy as np

from mpipipe.stages.seeing import FWHM_OF_SIGMA

_TILE = 512
_TILES = (3, 2)
"""Tiles of pixels that are looked at, along y and x."""
_NEAR = 3
"""Lags below which noise may always correlate, pixels."""
_STEEP, _SHAPE = 3e-3, 0.1
"""Misfits by which the next lags show noise too: in units of the variance, and of the light's."""
_FAR = 1.2
"""Largest lag at which the light's correlation is fitted, FWHM."""
_LEAST_FWHM = 3.0
"""Pixels; below it the light's correlation is gone where the noise's is."""
_LEAST_PIXELS = 50_000


def noise_correlation(
    image: np.ndarray, variance: np.ndarray, blank: np.ndarray, fwhm: float
) -> float:
    """By what the noise of a matched filter is wider than white noise of the pixels' variance.

    Parameters
    ----------
    image, variance
        (ny, nx) float32, electrons and electron^2.
    blank
        (ny, nx) bool, pixels without visible sources.
    fwhm
        Of the filter, pixels.

    Returns
    -------
    float
        Less than 1 where the variance is overestimated; NaN if too few pixels are blank, or the
        seeing is too sharp to tell light from noise.
    """
    if not fwhm >= _LEAST_FWHM:
        return float("nan")
    reach = int(np.ceil(_FAR * fwhm))
    if min(image.shape) <= 2 * reach:
        return float("nan")
    covariance = _covariance(image, variance, blank, reach)
    if covariance is None:
        return float("nan")
    lag = np.arange(-reach, reach + 1)
    distance = np.sqrt(np.add.outer(lag**2, lag**2))
    # The correlation of the filter with itself, which is that of point sources too.
    filtered = np.exp(-((distance * FWHM_OF_SIGMA / fwhm) ** 2) / 4)
    noise = _without_light(covariance, filtered, distance, reach)
    return float(np.sqrt(max(np.sum(noise * filtered), 0.0)))


def _without_light(
    covariance: np.ndarray, filtered: np.ndarray, distance: np.ndarray, reach: int
) -> np.ndarray:
    """The covariance at small lags less what goes on to larger ones; 0 beyond.

    Light is what fits all larger lags. Noise at one of them falls too steeply for that.
    """
    from scipy.optimize import nnls

    noise = covariance
    for near in range(_NEAR, reach):
        far = (distance >= near) & (distance <= reach)
        terms = np.stack([filtered[far], np.ones(far.sum())], axis=1)
        points, level = nnls(terms, covariance[far])[0]
        rest = covariance - points * filtered - level
        noise = np.where(far, 0.0, rest)
        ring = (distance >= near) & (distance < near + 1)
        steep = _STEEP + _SHAPE * points * float(filtered[ring].mean())
        if rest[ring].mean() < steep:
            break
    return noise


def _covariance(
    image: np.ndarray, variance: np.ndarray, blank: np.ndarray, reach: int
) -> np.ndarray | None:
    """Mean product of two blank pixels, over their sigmas, at lags up to `reach` along y and x."""
    from scipy.fft import irfft2, next_fast_len, rfft2

    shape = (2 * reach + 1, 2 * reach + 1)
    products, pairs = np.zeros(shape), np.zeros(shape)
    for window in _windows(image.shape):
        known = blank[window] & (variance[window] > 0)
        if not known.any():
            continue
        values = np.zeros(known.shape, np.float32)
        values[known] = image[window][known] / np.sqrt(variance[window][known])
        values[known] -= values[known].mean()
        size = [next_fast_len(n + reach, real=True) for n in known.shape]
        for sums, one in ((products, values), (pairs, known.astype(np.float32))):
            sums += _lags(irfft2(np.abs(rfft2(one, size)) ** 2, size), reach)
    if np.min(pairs) < _LEAST_PIXELS:
        return None
    return np.asarray(products / pairs)


def _windows(shape: tuple[int, ...]) -> list[tuple[slice, slice]]:
    """Evenly spaced tiles that do not overlap."""
    along = []
    for length, most in zip(shape, _TILES, strict=True):
        size = min(_TILE, length)
        n = min(most, length // size)
        along.append([slice(k, k + size) for k in np.linspace(0, length - size, n).astype(int)])
    return [(rows, columns) for rows in along[0] for columns in along[1]]


def _lags(circular: np.ndarray, reach: int) -> np.ndarray:
    """The part of a circular correlation with lags up to `reach`, lag 0 in the middle."""
    return np.roll(circular, (reach, reach), (0, 1))[: 2 * reach + 1, : 2 * reach + 1]
