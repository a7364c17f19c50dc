"""Fit of a `mpipipe.data.piff_psf.PiffPsf` to stars, by Piff.

Piff solves for all points of its grid and all terms of the polynomial at once, so time and memory
grow fast with both: it is the reference that the fast kinds are compared with.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from mpipipe.data.ccd_polynomial import n_terms
from mpipipe.data.errors import BadDataError
from mpipipe.data.piff_psf import LANCZOS, PiffPsf, import_piff, piff_model, piff_star
from mpipipe.stages.ic.psf_stars import PsfFit, PsfOptions, PsfStars
from mpipipe.stages.seeing import FWHM_OF_SIGMA

_SAMPLES = 4.0
"""Points of the grid in a FWHM at most; never closer than the pixels."""

_MOST_STARS = 150
"""The brightest that count: with stamps of 29 pixels they take 3.5 GB in Piff."""

_OUTLIER_SIGMA = 5.0
_MOST_OUTLIERS = 0.03
"""Outliers by chi2; the share that a round may remove."""

_MOST_ROUNDS = 5


def fit_piff(stars: PsfStars, options: PsfOptions) -> PsfFit:
    """Fit Piff's `PixelGrid` with `BasisPolynomial` to stars.

    Parameters
    ----------
    stars
        Of more than 150 the brightest count.
    options
        The highest of its orders is taken for which there are two stars a term.

    Raises
    ------
    BadDataError
        If Piff can not fit these stars.
    ConfigError
        If Piff is not installed.
    """
    piff = import_piff()
    brightest = np.sort(np.argsort(-stars.flux, kind="stable")[:_MOST_STARS])
    fitting = [o for o in options.orders if 2 * n_terms(o) <= len(brightest)]
    order = max(fitting, default=min(options.orders))
    scale = max(1.0, stars.fwhm / _SAMPLES)
    n = 2 * math.floor((stars.half + 0.5) / scale - 0.5) + 1
    outliers = piff.ChisqOutliers(nsigma=_OUTLIER_SIGMA, max_remove=_MOST_OUTLIERS)
    model = piff_model(n, scale, LANCZOS, order, outliers=[outliers], max_iter=_MOST_ROUNDS)
    try:
        model.fit(_piff_stars(stars.take(brightest)))
    except (RuntimeError, ValueError, np.linalg.LinAlgError) as error:
        raise BadDataError(f"Piff can not fit {len(stars)} stars: {error}") from error
    used = np.zeros(len(stars), dtype=bool)
    used[brightest] = [not star.is_flagged for star in model.stars]
    psf = PiffPsf(
        np.array(model.interp.q).reshape(n, n, n_terms(order)), scale, LANCZOS, stars.size,
        stars.shape, stars.radius, stars.fwhm, int(used.sum()),
    )  # fmt: skip
    if not (used.any() and np.isfinite(psf.grid).all()):
        raise BadDataError(f"Piff finds no PSF in {len(stars)} stars")
    return PsfFit(replace(psf, fwhm=_fwhm(psf)), used, order)


def _piff_stars(stars: PsfStars) -> list[Any]:
    """Piff's stars; photons of the model are added to the variance by Piff, for gain 1."""
    weight = np.where(stars.bad, 0.0, 1.0 / stars.variance)
    return [
        piff_star(
            stars.stamps[k], float(stars.x[k]), float(stars.y[k]), stars.shape, weight[k], gain=1.0
        )
        for k in range(len(stars))
    ]


def _fwhm(psf: PiffPsf) -> float:
    ny, nx = psf.shape
    ixx, iyy, ixy = psf.moments(np.array([nx / 2]), np.array([ny / 2]))[0]
    area = ixx * iyy - ixy * ixy
    return FWHM_OF_SIGMA * area**0.25 if area > 0 else psf.fwhm
