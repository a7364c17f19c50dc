"""ic_psfDetermination: choose stars, fit a model of the PSF, validate it, and measure with it.

Stars that are held out, or left out in turn where stars are few, tell how well the model predicts
a star it has not seen. The finished model gives every row of icSrc its PSF flux and position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import Exposure
from mpipipe.data.guess_psf import GuessPsf
from mpipipe.data.icsrc import CALIBRATION_RADIUS
from mpipipe.data.psf import Psf
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages.detections import Detections
from mpipipe.stages.ic import piff_psf_fit, pixel_psf_fit, shapelet_psf_fit
from mpipipe.stages.ic.psf_stars import PsfFit, PsfOptions, PsfStars, cut_stars, stamp_half
from mpipipe.stages.ic.psf_validation import ShapeErrors, cross_validate, shape_errors
from mpipipe.stages.ic.star_selection import StarChoice, choose_stars
from mpipipe.stages.measurement_planes import MeasurementPlanes
from mpipipe.stages.psf_photometry import (
    Pixels,
    blended_photometry,
    usable_pixels,
    with_correlated_noise,
)
from mpipipe.stages.seeing import FWHM_OF_SIGMA, Seeing
from mpipipe.stages.stage import StageConfig, stage

FITS: Mapping[str, Callable[[PsfStars, PsfOptions], PsfFit]] = {
    "pixel": pixel_psf_fit.fit_pixel,
    "shapelet": shapelet_psf_fit.fit_shapelet,
    "piff": piff_psf_fit.fit_piff,
}
"""How a PSF of each kind is fitted; see `mpipipe.stages.ic.psf_stars`."""

FIT_RADIUS = 2.0
"""Radius in FWHM inside which PSF fluxes are fitted."""

_FALL_BACK = "pixel"
_GRID = 5
_MOST_PIXELS = 6_000_000
"""In the stamps of all stars together."""


class PsfDeterminationConfig(StageConfig):
    """Options of ic_psfDetermination."""

    kind: str = Field(default="pixel", description=f"kind of model: {', '.join(FITS)}")
    snr: float = Field(
        default=40.0, gt=0, description="least SNR of a star; half or less where stars are few"
    )
    max_stars: int = Field(
        default=1000, ge=1, description="most stars, the best of them evenly over the CCD"
    )
    held_out: float = Field(
        default=0.2, ge=0, le=0.5, description="share of the stars that is held out to validate"
    )
    few: int = Field(
        default=25,
        ge=2,
        description="with fewer stars none is held out: they are left out in turn to validate",
    )
    order: int | None = Field(
        default=None,
        ge=0,
        le=3,
        description="order of the polynomial of position; none: chosen by cross-validation",
    )
    linear_from: int = Field(default=5, ge=1, description="stars from which order 1 is usual")
    quadratic_from: int = Field(default=40, ge=1, description="stars from which order 2 is usual")
    cubic_from: int = Field(
        default=150, ge=1, description="stars from which order 3 is tried, if it predicts better"
    )
    sweeps: int = Field(
        default=1,
        ge=0,
        description="times that touching sources are fitted again with the others taken off",
    )

    @field_validator("kind")
    @classmethod
    def _is_known(cls, kind: str) -> str:
        if kind not in FITS:
            raise ValueError(f"no kind of PSF is called {kind!r}; there are {', '.join(FITS)}")
        if kind == "piff" and find_spec("piff") is None:
            raise ValueError("Piff is not installed: pip install mpipipe[piff]")
        return kind

    def options(self, n_stars: int) -> PsfOptions:
        """Orders that so many stars allow: the usual one, and its neighbours."""
        if self.order is not None:
            return PsfOptions((self.order,), self.order)
        if n_stars < self.linear_from:
            return PsfOptions((0,), 0)
        if n_stars < self.quadratic_from:
            return PsfOptions((0, 1), 1)
        return PsfOptions((1, 2, 3) if n_stars >= self.cubic_from else (1, 2), 2)


def fallback(
    config: PsfDeterminationConfig,
    *,
    calexp: Exposure,
    planes: MeasurementPlanes,
    detections: Detections,
    icSrc: np.ndarray,
    sdqa: Sdqa,
    warnings: list[str],
) -> Mapping[str, Any]:
    """A PSF guessed from the seeing, and fluxes with it; positions stay as they are."""
    psf = guess(planes.seeing, calexp.shape)
    for name in ("candidate", "used", "reserved"):
        icSrc[f"calib_psf_{name}"] = False
    _measure(config, icSrc, usable_pixels(calexp, planes), psf, detections.width)
    sdqa.add("ic.psfDetermination.n_used", 0)
    sdqa.add("ic.psfDetermination.fwhm", psf.fwhm, "pixel")
    return {"psf": psf, "icSrc": icSrc}


@stage(
    "ic.psfDetermination",
    needs=("calexp", "planes", "detections", "icSrc", "sdqa", "warnings"),
    adds=("psf", "icSrc"),
    config=PsfDeterminationConfig,
    fallback=fallback,
)
def psf_determination(
    config: PsfDeterminationConfig,
    *,
    calexp: Exposure,
    planes: MeasurementPlanes,
    detections: Detections,
    icSrc: np.ndarray,
    sdqa: Sdqa,
    warnings: list[str],
) -> Mapping[str, Any]:
    """Make the PSF of stars on the exposure, and measure the sources with it.

    Raises
    ------
    BadDataError
        If there is no star, or no model fits the stars there are.
    """
    pixels = usable_pixels(calexp, planes)
    most = min(config.max_stars, _most_stars(planes.seeing))
    choice = choose_stars(
        icSrc, planes.seeing, calexp.shape,
        snr=config.snr, most=most, held_out=config.held_out, few=config.few,
    )  # fmt: skip
    sdqa.add("ic.psfDetermination.n_candidates", int(choice.candidates.sum()))
    if not len(choice.stars):
        raise BadDataError(f"none of {len(icSrc)} sources is a star that a PSF can be made of")
    stars = _cut(pixels, icSrc[choice.stars], planes.seeing)
    kind, result = _fit(config.kind, stars, config.options(len(stars)), warnings)
    errors = _validate(kind, pixels, icSrc, choice, planes.seeing, result)
    _mark(icSrc, choice, result)
    _measure(config, icSrc, pixels, result.psf, detections.width)
    _report(sdqa, icSrc, choice, result, errors)
    return {"psf": result.psf, "icSrc": icSrc}


def guess(seeing: Seeing, shape: tuple[int, int]) -> GuessPsf:
    """A PSF of the size and shape of the seeing, measured or assumed."""
    radius = CALIBRATION_RADIUS * seeing.fwhm
    half = stamp_half(radius)
    moments = seeing.ixx, seeing.iyy, seeing.ixy
    return GuessPsf(*moments, 2 * half + 1, min(radius, half - 0.5), shape)


def _most_stars(seeing: Seeing) -> int:
    """Stars whose stamps fit into memory and time; fewer when the seeing is very bad."""
    size = 2 * stamp_half(CALIBRATION_RADIUS * seeing.fwhm) + 1
    return max(25, _MOST_PIXELS // size**2)


def _cut(pixels: Pixels, rows: np.ndarray, seeing: Seeing) -> PsfStars:
    radius = CALIBRATION_RADIUS * seeing.fwhm
    return cut_stars(pixels, rows["x"], rows["y"], rows["apInstFlux"], radius, seeing.fwhm)


def _fit(
    kind: str, stars: PsfStars, options: PsfOptions, warnings: list[str]
) -> tuple[str, PsfFit]:
    """The model of the kind that is wanted, or of the one that works from one star upwards."""
    try:
        return kind, FITS[kind](stars, options)
    except BadDataError as error:
        if kind == _FALL_BACK:
            raise
        warnings.append(f"PSF of kind {kind} not possible ({error}): {_FALL_BACK} instead")
        return _FALL_BACK, FITS[_FALL_BACK](stars, options)


def _validate(
    kind: str,
    pixels: Pixels,
    icsrc: np.ndarray,
    choice: StarChoice,
    seeing: Seeing,
    result: PsfFit,
) -> ShapeErrors:
    """How well stars are predicted that the model has not seen."""
    if len(choice.reserved):
        return shape_errors(result.psf, pixels, _cut(pixels, icsrc[choice.reserved], seeing))
    stars = _cut(pixels, icsrc[choice.stars[result.used]], seeing)
    return cross_validate(FITS[kind], PsfOptions((result.order,)), pixels, stars)


def _mark(icsrc: np.ndarray, choice: StarChoice, result: PsfFit) -> None:
    icsrc["calib_psf_candidate"] = choice.candidates
    for name, rows in (("used", choice.stars[result.used]), ("reserved", choice.reserved)):
        icsrc[f"calib_psf_{name}"] = False
        icsrc[f"calib_psf_{name}"][rows] = True


def _measure(
    config: PsfDeterminationConfig, icsrc: np.ndarray, pixels: Pixels, psf: Psf, map_width: float
) -> None:
    """PSF fluxes of all rows, and positions where they succeed and the PSF is not a guess."""
    found = blended_photometry(
        pixels, psf, icsrc["x"], icsrc["y"], FIT_RADIUS * psf.fwhm, sweeps=config.sweeps
    )
    fit = with_correlated_noise(found, map_width)
    icsrc["psfInstFlux"], icsrc["psfInstFluxErr"] = fit["flux"], fit["flux_error"]
    icsrc["psfChi2"] = fit["chi2"]
    icsrc["flag_psfFlux"] = fit["failed"] | ~np.isfinite(fit["flux"])
    if psf.is_guess:
        return
    moved = ~icsrc["flag_psfFlux"]
    icsrc["x"][moved], icsrc["y"][moved] = fit["x"][moved], fit["y"][moved]
    icsrc["xErr"][moved] = np.sqrt(fit["xx"])[moved]
    icsrc["yErr"][moved] = np.sqrt(fit["yy"])[moved]
    icsrc["x_y_Cov"][moved] = fit["xy"][moved]


def _report(
    sdqa: Sdqa, icsrc: np.ndarray, choice: StarChoice, result: PsfFit, errors: ShapeErrors
) -> None:
    """Metrics of the stars, of the model over the field, and of the validation."""
    name = "ic.psfDetermination."
    n_used = int(result.used.sum())
    sdqa.add(name + "n_used", n_used)
    sdqa.add(name + "n_rejected", len(result.used) - n_used)
    sdqa.add(name + "n_reserved", len(choice.reserved))
    sdqa.add(name + "level", choice.level)
    sdqa.add(name + "order", result.order)
    fwhm, ellipticity = field_shapes(result.psf)
    sdqa.add(name + "fwhm", result.psf.fwhm, "pixel")
    sdqa.add(name + "fwhm_min", float(np.min(fwhm)), "pixel")
    sdqa.add(name + "fwhm_max", float(np.max(fwhm)), "pixel")
    sdqa.add(name + "ellipticity", float(ellipticity[len(ellipticity) // 2]))
    sdqa.add(name + "ellipticity_max", float(np.max(ellipticity)))
    used = icsrc[icsrc["calib_psf_used"]]
    sdqa.add(name + "chi2_used", _median(used["psfChi2"]))
    sdqa.add(name + "n_validated", errors.n)
    sdqa.add(name + "validation_chi2", errors.chi2)
    sdqa.add(name + "validation_dT_mean", errors.size_mean)
    sdqa.add(name + "validation_dT_rms", errors.size_rms)
    sdqa.add(name + "validation_de_rms", errors.ellipticity_rms)


def _median(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else float("nan")


def field_shapes(psf: Psf) -> tuple[np.ndarray, np.ndarray]:
    """FWHM (pixels) and ellipticity of a model on a 5 x 5 grid over the exposure.

    The ellipticity is the modulus of (ixx - iyy, 2 ixy) / (ixx + iyy).
    """
    ny, nx = psf.shape
    steps = (np.arange(_GRID) + 0.5) / _GRID
    grid_x, grid_y = np.meshgrid(steps * (nx - 1), steps * (ny - 1))
    ixx, iyy, ixy = psf.moments(grid_x.ravel(), grid_y.ravel()).T
    fwhm = FWHM_OF_SIGMA * np.maximum(ixx * iyy - ixy * ixy, 0.0) ** 0.25
    return fwhm, np.hypot(ixx - iyy, 2 * ixy) / (ixx + iyy)
