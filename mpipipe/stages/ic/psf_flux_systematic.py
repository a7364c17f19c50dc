"""What PSF fluxes of stars are off by beyond their noise: the errors of the PSF model.

They are a share of the flux, so that bright stars, whose photons alone would give errors of a mmag,
vary by more. The stars of one CCD can not tell that share: the light in their apertures, which
knows no model, varies by as much through faint neighbours. It is stated instead, from how the model
came about: a model is as good as the light that it was made of.

Measured on PSF fluxes of lone stars beside the truth of simulated CCD-visits: 0.0 to 1.2e-3, mostly
0.4e-3 to 0.9e-3, where the squared SNRs of the PSF's 110 to 330 stars add up to 3e7 to 1e8 (seeing
0.6 to 1.7 arcsec); 1.8e-3 of 90 stars behind clouds, and 3.3e-3 of 21 stars, where they do to 4e6.
Part of that is the flat's, which repeats where stars come back to the same pixels: from visit to
visit it is less, and the share is stated a little lower for it.
"""

from __future__ import annotations

import numpy as np

_LEAST_SHARE = 3e-4
_PER_LIGHT = 3.6
"""Share of a PSF made of SNR 1: so many coefficients of the model share in its stars' noise."""
_MOST_SHARE = 2e-2
"""Of a PSF that is a guess."""


def psf_flux_systematic(snr: np.ndarray) -> float:
    """Standard deviation of PSF fluxes that is in no noise, as a share of the flux.

    Parameters
    ----------
    snr
        (n,) flux over error of the stars that the PSF was made of; none for a guess.
    """
    light = float(np.square(snr[np.isfinite(snr)].astype(float)).sum())
    if not light > 0:
        return _MOST_SHARE
    return float(min(np.hypot(_LEAST_SHARE, _PER_LIGHT / np.sqrt(light)), _MOST_SHARE))
