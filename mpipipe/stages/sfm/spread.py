"""The spread statistic: is a source wider than the PSF, and how surely is it extended.

Desai et al. (2012, ApJ 757, 83): of two matched filters, the PSF and the PSF blurred by a small
exponential disc, the ratio of what they give, less that of a star. 0 for stars, positive for
galaxies, negative for what is sharper than the PSF.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

_WINDOW = 2.0
"""Pixels within it count, FWHM."""
_DISC = 0.25
"""Scale length of the disc, FWHM."""
_MARGIN = 10.0
"""Scale lengths of the disc between a stamp and its periodic neighbour."""
_LEAST_KNOWN = 0.7
"""Share of the PSF's sum of squares that known pixels have to hold."""

_FLOOR = 0.001
"""What the PSF model's own errors make of stars."""
_TAIL_SHARE, _TAIL_WIDTH, _TAIL_FLOOR = 0.08, 3.0, 0.008
"""Stars with something undetected under them: their share, and their scatter, in units of the
others' and at least."""
_ROUNDS = 25
_LEAST_FITTED = 30
_WIDTHS = (1.0, 2.0)
_MEANS = (0.02, 0.15)
_SCATTERS = (0.02, 0.05)
_SHARES = (0.02, 0.98)


def spread_statistics(
    light: np.ndarray,
    variance: np.ndarray,
    known: np.ndarray,
    models: np.ndarray,
    flux: np.ndarray,
    fwhm: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Spread statistic and its standard error of sources in stamps; NaN where too little is known.

    Parameters
    ----------
    light, variance, known
        As in `mpipipe.stages.sfm.source_stamps.Stamps`.
    models
        (n, size, size) images of the PSF at the sources.
    flux
        (n,) of the PSF fits: electrons whose photons the errors count.
    fwhm
        Pixels.
    """
    # No more than the window holds: what is blurred into it from outside is next to nothing.
    half = min(models.shape[1] // 2, light.shape[1] // 2, int(_WINDOW * fwhm + _DISC * fwhm) + 1)
    middle = models.shape[1] // 2
    inner = slice(middle - half, middle + half + 1)
    narrow = np.ascontiguousarray(models[:, inner, inner], np.float32)
    blurred = _blurred(narrow, _DISC * fwhm)
    out = np.empty((2, len(light)))
    _spread(light, variance, known, narrow, blurred, np.nan_to_num(flux), _WINDOW * fwhm, out)
    return out[0], out[1]


def _blurred(models: np.ndarray, length: float) -> np.ndarray:
    """The PSF (float32) blurred by a round exponential disc of this scale length, pixels."""
    from scipy.fft import irfft2, next_fast_len, rfft2

    size = models.shape[1]
    n = next_fast_len(size + int(np.ceil(_MARGIN * length)), real=True)
    k_x, k_y = 2 * np.pi * np.fft.rfftfreq(n), 2 * np.pi * np.fft.fftfreq(n)
    disc = (1 + length**2 * (k_x[None, :] ** 2 + k_y[:, None] ** 2)) ** -1.5
    waves = rfft2(models, (n, n)) * disc.astype(np.float32)
    return np.ascontiguousarray(irfft2(waves, (n, n))[:, :size, :size])


@njit(cache=True, error_model="numpy")
def _spread(
    light: np.ndarray,
    variance: np.ndarray,
    known: np.ndarray,
    models: np.ndarray,
    blurred: np.ndarray,
    flux: np.ndarray,
    window: float,
    out: np.ndarray,
) -> None:
    size = models.shape[1]
    half, shift = size // 2, light.shape[1] // 2 - size // 2
    for k in range(len(light)):
        narrow = wide = both = square = whole = 0.0
        for j in range(size):
            for i in range(size):
                if (j - half) ** 2 + (i - half) ** 2 > window * window:
                    continue
                p, g = models[k, j, i], blurred[k, j, i]
                whole += p * p
                if known[k, j + shift, i + shift]:
                    value = light[k, j + shift, i + shift]
                    narrow += p * value
                    wide += g * value
                    both += p * g
                    square += p * p
        out[:, k] = np.nan
        if not (square > _LEAST_KNOWN * whole and narrow > 0):
            continue
        ratio, noise = both / square, 0.0
        for j in range(size):
            for i in range(size):
                y, x = j + shift, i + shift
                if (j - half) ** 2 + (i - half) ** 2 <= window * window and known[k, y, x]:
                    photons = max(flux[k] * models[k, j, i], 0.0)
                    lever = blurred[k, j, i] - ratio * models[k, j, i]
                    noise += lever * lever * (variance[k, y, x] + photons)
        out[0, k] = wide / narrow - ratio
        out[1, k] = np.sqrt(noise) / narrow


@dataclass(frozen=True)
class Mixture:
    """Stars and galaxies of an exposure, in the spread statistic.

    Attributes
    ----------
    galaxies
        Share of the sources that are extended.
    width
        Scatter of stars in units of the error.
    mean, scatter
        Of the spread of galaxies.
    """

    galaxies: float = 0.5
    width: float = 1.15
    mean: float = 0.06
    scatter: float = 0.035

    def probability(self, spread: np.ndarray, error: np.ndarray) -> np.ndarray:
        """That sources are extended; NaN where the spread is."""
        with np.errstate(invalid="ignore"):
            return self._probability(spread, error)

    def _probability(self, spread: np.ndarray, error: np.ndarray) -> np.ndarray:
        noise = np.hypot(self.width * error, _FLOOR)
        tail = np.hypot(_TAIL_WIDTH * noise, _TAIL_FLOOR)
        star = np.logaddexp(
            np.log(1 - _TAIL_SHARE) + _log_normal(spread, noise),
            np.log(_TAIL_SHARE) + _log_normal(spread, tail),
        )
        galaxy = _log_normal(spread - self.mean, np.hypot(self.scatter, noise))
        odds = np.log(self.galaxies / (1 - self.galaxies)) + galaxy - star
        return np.asarray(1 / (1 + np.exp(-np.clip(odds, -500, 500))))


def _log_normal(value: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    return np.asarray(-0.5 * (value / sigma) ** 2 - np.log(sigma * np.sqrt(2 * np.pi)))


def fit_mixture(spread: np.ndarray, error: np.ndarray) -> Mixture:
    """Fit the mixture to an exposure by expectation maximisation; a typical one to few sources."""
    sound = np.isfinite(spread) & np.isfinite(error) & (error > 0)
    spread, error = spread[sound], error[sound]
    found = Mixture()
    if len(spread) < _LEAST_FITTED:
        return found
    for _ in range(_ROUNDS):
        galaxy = found.probability(spread, error)
        z = spread / np.hypot(error, _FLOOR / found.width)
        # The sharper half only, and those nearby: the rest is faint galaxies, and flaws.
        sharp = (1 - galaxy) * ((z < 0) & (z > -4))
        width = np.sqrt((sharp * z**2).sum() / max(sharp.sum(), 1e-9))
        known = galaxy / (found.scatter**2 + error**2)
        weight = max(known.sum(), 1e-9)
        mean = (known * spread).sum() / weight
        extra = (known * ((spread - mean) ** 2 - error**2)).sum() / weight
        found = Mixture(
            float(np.clip(galaxy.mean(), *_SHARES)),
            float(np.clip(width, *_WIDTHS)),
            float(np.clip(mean, *_MEANS)),
            float(np.clip(np.sqrt(max(extra, 0.0)), *_SCATTERS)),
        )
    return found
