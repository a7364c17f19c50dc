"""What PSF fluxes of stars are off by beyond their noise: errors of the PSF model and of the flat.

They grow with the flux, so that bright stars, whose photons alone would give errors of a mmag,
vary by more. The light in the calibration aperture knows no model: held-out stars' ratios of
aperture to PSF flux scatter by the noise of the aperture, by neighbours in it (some electrons,
whatever the star's flux), and by what is sought (a share of the flux). The latter two are found by
their likelihood; few or faint stars leave the share where experience has it, at 1 to 4 mmag.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

USUAL_SHARE = 1.4e-3
_FACTOR = 3.0
"""The share of the flux is this beforehand (own PSFs beside true ones on simulated surveys), within
this factor: one standard deviation, wide enough for PSFs made of a few stars."""
_SHARES = np.geomspace(1e-4, 5e-2, 64)
_NEIGHBOURS = np.concatenate([[0.0], np.geomspace(0.1, 10.0, 32)])
"""Scatter by neighbours in units of the aperture's noise from the sky."""
_OUTLIERS = 0.05
_OUTLIER_WIDTH = 0.02
"""Share of stars with a bright neighbour or a wrong pixel, and the half width of the ratios that
these have, a Cauchy distribution: any ratio is possible."""


@dataclass(frozen=True)
class PsfFluxSystematic:
    """Relative error of PSF fluxes that is in no noise.

    Attributes
    ----------
    share
        Standard deviation, relative to the flux.
    error
        Of `share`.
    n_stars
        Stars it was measured on; 0: it is what is usual.
    """

    share: float
    error: float
    n_stars: int

    def total(self, flux: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Errors of fluxes, noise and systematic part together."""
        return np.hypot(error, self.share * flux)


def psf_flux_systematic(
    aperture: tuple[np.ndarray, np.ndarray],
    psf: tuple[np.ndarray, np.ndarray],
    factor: np.ndarray,
    sky: float = 0.0,
) -> PsfFluxSystematic:
    """Measure it on stars that the PSF was not made of.

    Parameters
    ----------
    aperture, psf
        Flux and error, each (n,), electrons; stars where one is not positive do not count.
    factor
        (n,) of the aperture correction.
    sky
        Electrons that sky left at the stars adds to every aperture.
    """
    flux, flux_error = (np.asarray(values, float) for values in psf)
    light, light_error = (np.asarray(values, float) for values in aperture)
    positive = (flux > 0) & (light > 0) & (flux_error > 0) & (light_error > 0)
    sound = positive & np.isfinite(flux + light + flux_error + light_error + factor)
    flux, flux_error = flux[sound], flux_error[sound]
    light, light_error, factor = light[sound], light_error[sound], factor[sound]
    prior = -0.5 * (np.log(_SHARES / USUAL_SHARE) / np.log(_FACTOR)) ** 2
    weight = np.exp(prior - prior.max())
    if len(flux):
        residual = (light - sky) / (factor * flux) - 1.0
        # An optimally weighted PSF flux shares its photons with the aperture.
        noise = np.abs(light_error**2 - flux_error**2) / flux**2
        sky_noise = np.median(np.sqrt(np.maximum(light_error**2 - light, 1.0)))
        likelihood = _log_likelihood(residual, noise, sky_noise / flux)
        weight = (np.exp(likelihood - likelihood.max()) * weight[:, None]).sum(axis=1)
    weight /= weight.sum()
    share = float(weight @ _SHARES)
    error = float(np.sqrt(weight @ (_SHARES - share) ** 2))
    return PsfFluxSystematic(share, error, len(flux))


def _log_likelihood(residual: np.ndarray, noise: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """Of each share and each scatter by neighbours, where a few stars may be anything."""
    neighbours = (_NEIGHBOURS[:, None] * inverse) ** 2
    wrong = _OUTLIER_WIDTH / (np.pi * (residual**2 + _OUTLIER_WIDTH**2))
    result = np.empty((len(_SHARES), len(_NEIGHBOURS)))
    for k, share in enumerate(_SHARES):
        variance = noise + share**2 + neighbours
        sound = np.exp(-0.5 * residual**2 / variance) / np.sqrt(2.0 * np.pi * variance)
        result[k] = np.log((1.0 - _OUTLIERS) * sound + _OUTLIERS * wrong).sum(axis=1)
    return result
