"""sfm_apCorrectApply: aperture corrections, and the zero point: fluxes in nJy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mpipipe.data.aperture_correction import ApertureCorrection
from mpipipe.data.exposure import Exposure
from mpipipe.stages.sfm.measurement import Flux
from mpipipe.stages.sfm.src_table import FLUXES
from mpipipe.stages.stage import StageConfig, stage


@stage(
    "sfm.apCorrectApply",
    needs=("calexp", "src", "aperture_correction", "psf_systematic"),
    adds=("src",),
    always=True,
)
def ap_correct_apply(
    config: StageConfig,
    *,
    calexp: Exposure,
    src: np.ndarray,
    aperture_correction: ApertureCorrection,
    psf_systematic: float,
) -> Mapping[str, Any]:
    """Bring all fluxes to the calibration aperture and into nanojansky.

    Errors of calibrated fluxes hold the noise, the zero point's error, and for fluxes that the PSF
    gave `psf_systematic`, its own share of the flux. The aperture correction's error is not among
    them: the zero point was made of fluxes with the same factor, so that it cancels.
    """
    calibrate_fluxes(src, calexp, aperture_correction, psf_systematic)
    return {"src": src}


def calibrate_fluxes(
    rows: np.ndarray,
    calexp: Exposure,
    aperture_correction: ApertureCorrection,
    psf_systematic: float,
) -> None:
    """Fill the calibrated fluxes of `src` or `forcedSrc` from those in electrons; in place."""
    rows["apCorr"], rows["apCorrErr"] = aperture_correction.at(rows["x"], rows["y"])
    for flux in FLUXES:
        _calibrate(rows, flux, calexp, psf_systematic)


def _calibrate(src: np.ndarray, flux: Flux, calexp: Exposure, psf_systematic: float) -> None:
    value, error = src[flux.inst], src[flux.inst_error]
    if flux.is_of_psf:
        factor = src["apCorr"].astype(float)
        value, error = value * factor, np.hypot(error, psf_systematic * value) * factor
    if calexp.photo_calib is None:
        value = error = np.full(len(src), np.nan)
    else:
        value, error = calexp.photo_calib.to_nanojansky(value, error, src["x"], src["y"])
    src[flux.calibrated], src[flux.calibrated_error] = value, error
