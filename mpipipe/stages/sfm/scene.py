"""The scene of an exposure: joint PSF fits of all sources, and the image without their light."""

from __future__ import annotations

import numpy as np

from mpipipe.data.exposure import Exposure
from mpipipe.data.psf import Psf
from mpipipe.stages.measurement_planes import MeasurementPlanes
from mpipipe.stages.psf_models import PsfModels
from mpipipe.stages.psf_photometry import (
    blended_photometry,
    subtract_models,
    usable_pixels,
    with_correlated_noise,
)
from mpipipe.stages.sfm.apertures import noise_factors
from mpipipe.stages.sfm.deep_detections import DeepDetections
from mpipipe.stages.sfm.measurement import Scene

FIT_RADIUS = 1.25
"""Radius in FWHM inside which PSF fluxes are fitted."""


def fit_psfs(
    src: np.ndarray,
    calexp: Exposure,
    planes: MeasurementPlanes,
    psf: Psf,
    map_width: float,
    *,
    start: tuple[np.ndarray, np.ndarray],
    free: bool,
    sweeps: int,
) -> PsfModels:
    """PSF fluxes of all rows, and positions where they are free; in place.

    A free position settles where noise adds light. The two coordinates raise the expected square of
    flux over error by 1 each, which is taken off (Portillo, Speagle & Finkbeiner 2020, AJ 159, 165,
    on what that does to surveys): 3 mmag at SNR 20, 4 % at SNR 5.

    Parameters
    ----------
    map_width
        Width of the matched-filter map: more than 1 on correlated noise.
    start
        x, y where the fits start.

    Returns
    -------
    PsfModels
        Images of the PSF at the rows, as far as the fits drew them.
    """
    models = PsfModels(psf, len(src))
    found = blended_photometry(
        usable_pixels(calexp, planes), psf, *start, FIT_RADIUS * psf.fwhm, free=free, sweeps=sweeps,
        models=models,
    )  # fmt: skip
    fit = with_correlated_noise(found, map_width)
    failed = fit["failed"] | ~np.isfinite(fit["flux"])
    flux, error = fit["flux"], fit["flux_error"]
    models.know_snr(flux / error)
    src["psfInstFlux"] = np.where(failed, flux, _without_gain(flux, error)) if free else flux
    src["psfInstFluxErr"] = error
    src["psfChi2"], src["flag_psfFlux"] = fit["chi2"], failed
    if not free:
        return models
    src["flag_centroid_window"] = failed & ~src["flag_centroid"]
    moved = ~failed
    src["x"][moved], src["y"][moved] = fit["x"][moved], fit["y"][moved]
    src["xErr"][moved], src["yErr"][moved] = np.sqrt(fit["xx"])[moved], np.sqrt(fit["yy"])[moved]
    src["x_y_Cov"][moved] = fit["xy"][moved]
    src["flag_centroid"][moved] = False
    return models


def _without_gain(flux: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Fluxes less what free positions gained; those below two errors as they are."""
    with np.errstate(invalid="ignore"):
        square = np.square(flux) - 2 * np.square(error)
        return np.where(flux > 2 * error, np.sqrt(np.maximum(square, 0)), flux)


def make_scene(
    src: np.ndarray,
    calexp: Exposure,
    planes: MeasurementPlanes,
    models: PsfModels,
    map_width: float,
    detections: DeepDetections | None,
) -> Scene:
    """The scene of sources whose PSF fluxes are known; `map_width` as in `fit_psfs`."""
    image = np.where(planes.unusable, np.float32(0), calexp.image)
    residual = subtract_models(image, models, src["x"], src["y"], src["psfInstFlux"])
    factors = noise_factors(image, calexp.mask, planes, map_width)
    return Scene(calexp, image, residual, planes, models, factors, detections)
