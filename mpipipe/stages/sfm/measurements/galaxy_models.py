"""Galaxy models convolved with the PSF: exponential, de Vaucouleurs, both, disc with a bulge."""

from __future__ import annotations

import numpy as np

from mpipipe.data.schema import Column
from mpipipe.stages.sfm.galaxy_fit import (
    COMBINED,
    GALAXY,
    combine,
    fit_galaxies,
    starts,
    transform,
)
from mpipipe.stages.sfm.galaxy_profiles import de_vaucouleurs, disc_with_bulge, exponential
from mpipipe.stages.sfm.measurement import Flux, Scene, flag, measurement
from mpipipe.stages.sfm.source_stamps import Piece, Stamps

_FITS = {
    "exp": (exponential, "exponential disc"),
    "dev": (de_vaucouleurs, "de Vaucouleurs profile"),
    "disc": (disc_with_bulge, "exponential disc with a fixed small bulge"),
}
FLUXES = {
    **{name: Flux(name, f"flux of the {text} that fits best", is_of_psf=True)
       for name, (_, text) in _FITS.items()},
    "cModel": Flux("cModel", "flux of the best sum of the exp and dev fits", is_of_psf=True),
}  # fmt: skip

_HALVES = (4.5, 8.0, 14.0)
"""Half sides of the stamps, FWHM: the least that holds a source's Petrosian aperture."""
_GOOD_SIZES = (27, 35, 45, 63, 75, 81, 105, 125, 135, 175, 189, 225, 245, 315, 375)
"""Sides of stamps that transform fast: odd, of small factors."""
_LEAST_SNR = 8.0
_LEAST_EXTENDED = 0.3
_LEAST_KNOWN = 0.8
_PHOTONS = 1.25
"""Variance from the source's own photons, of the flux: that of a free Gaussian is 1.19."""


def _fit_columns(name: str, text: str) -> tuple[Column, ...]:
    along = "ln(a/b) cos(2 angle)", "ln(a/b) sin(2 angle)"
    return (
        Column(f"{name}Radius", "f4", "pixel", f"half-light radius of the {text}, sqrt(a b)",
               "phys.angSize"),
        Column(f"{name}Eta1", "f4", "", f"shape of the {text}: {along[0]}", "phys.angSize"),
        Column(f"{name}Eta2", "f4", "", f"shape of the {text}: {along[1]}", "phys.angSize"),
        Column(f"{name}Chi2", "f4", "", f"chi2 per mode of the {text}", "stat.fit.chi2"),
        flag(name, f"the {text} was not fitted, or did not settle"),
    )  # fmt: skip


@measurement(
    "galaxyModels",
    fluxes=FLUXES.values(),
    columns=(
        *(column for name, (_, text) in _FITS.items() for column in _fit_columns(name, text)),
        Column(
            "fracDev", "f4", "", "share of the dev fit in cModel", "phys.luminosity;arith.ratio"
        ),
        flag("cModel", "one of the two fits was not made, or did not settle"),
        flag("model_point", "no galaxy model was fitted: the source is a point, or too faint"),
        flag("model_masked", "no galaxy model was fitted: too much is masked or off the image"),
    ),
    after=("ellipses", "extendedness"),
)
def measure_galaxy_models(scene: Scene, src: np.ndarray, piece: Piece) -> None:
    """Fits of galaxy profiles with the exact PSF, in Fourier space; extended sources only."""
    fits = {name: np.full(len(src), np.nan, GALAXY) for name in _FITS}
    for fit in fits.values():
        fit["converged"] = False
    both = np.full(len(src), np.nan, COMBINED)
    masked = np.zeros(len(src), bool)
    wanted = _wanted(src)
    size_class = _size_class(src, scene.psf.fwhm)
    for number, half in enumerate(_HALVES):
        pixels = _half_side(half * scene.psf.fwhm)
        rows = np.flatnonzero(wanted & (size_class == number))
        if len(rows):
            stamps = piece.stamps(rows, pixels)
            masked[rows] = _measure(src, rows, stamps, scene.psf.fwhm, fits, both)
    _fill(scene, src, fits, both)
    src["flag_model_point"], src["flag_model_masked"] = ~wanted, masked


def _wanted(src: np.ndarray) -> np.ndarray:
    bright = src["psfInstFlux"] > _LEAST_SNR * src["psfInstFluxErr"]
    return np.asarray(bright & (src["extendedness"] > _LEAST_EXTENDED))


def _size_class(src: np.ndarray, fwhm: float) -> np.ndarray:
    """Index into `_HALVES`."""
    lost = src["flag_petro_crossing"] | src["flag_petro_cut"]
    reach = np.where(lost, np.inf, 2 * np.nan_to_num(src["petroRadius"]))
    return np.searchsorted(np.array(_HALVES[:-1]) * fwhm, reach)


def _half_side(reach: float) -> int:
    """Of the smallest good size that reaches this far, pixels."""
    wanted = 2 * int(np.ceil(reach)) + 1
    return next((size for size in _GOOD_SIZES if size >= wanted), wanted) // 2


def _measure(
    src: np.ndarray,
    some: np.ndarray,
    stamps: Stamps,
    fwhm: float,
    fits: dict[str, np.ndarray],
    both: np.ndarray,
) -> np.ndarray:
    """Fit some rows; whose stamps are masked too much."""
    masked = stamps.known.mean(axis=(1, 2)) < _LEAST_KNOWN
    modes = transform(stamps.light, stamps.variance, stamps.known, stamps.models)
    moments = _three(src, some, ("ixx", "iyy", "ixy"))
    psf_moments = _three(src, some, ("psfIxx", "psfIyy", "psfIxy"))
    start = starts(moments, psf_moments, _start_flux(src, some), fwhm)
    start["flux"][masked] = np.nan
    for name, (profile, _) in _FITS.items():
        fits[name][some] = fit_galaxies(modes, profile(), start, fwhm)
        if name == "exp":
            start = np.where(fits["exp"][some]["converged"], fits["exp"][some], start)
    both[some] = combine(
        modes, (exponential(), de_vaucouleurs()), (fits["exp"][some], fits["dev"][some])
    )
    return np.asarray(masked)


def _three(src: np.ndarray, some: np.ndarray, names: tuple[str, str, str]) -> np.ndarray:
    return np.stack([src[name][some] for name in names], axis=1).astype(float)


def _start_flux(src: np.ndarray, some: np.ndarray) -> np.ndarray:
    ellipse, point = src["ellipseInstFlux"][some], src["psfInstFlux"][some]
    return np.where(ellipse > point, ellipse, point)


def _fill(scene: Scene, src: np.ndarray, fits: dict[str, np.ndarray], both: np.ndarray) -> None:
    for name, rows in fits.items():
        # A model weighs pixels as an aperture does whose radius is its own with the PSF's.
        factor = scene.factors.at(np.hypot(rows["radius"], 0.7 * scene.psf.fwhm))
        _fill_flux(src, FLUXES[name], rows, factor)
        src[f"{name}Radius"], src[f"{name}Chi2"] = rows["radius"], rows["chi2"]
        src[f"{name}Eta1"], src[f"{name}Eta2"] = rows["eta1"], rows["eta2"]
        src[f"flag_{name}"] = ~rows["converged"] | ~np.isfinite(rows["flux"])
    factor = scene.factors.at(np.hypot(fits["exp"]["radius"], 0.7 * scene.psf.fwhm))
    _fill_flux(src, FLUXES["cModel"], both, factor)
    src["fracDev"] = both["bulge_share"]
    src["flag_cModel"] = src["flag_exp"] | src["flag_dev"] | ~np.isfinite(both["flux"])


def _fill_flux(src: np.ndarray, flux: Flux, rows: np.ndarray, factor: np.ndarray) -> None:
    src[flux.inst] = rows["flux"]
    photons = _PHOTONS * np.maximum(rows["flux"], 0)
    src[flux.inst_error] = np.sqrt((factor * rows["sky_error"]) ** 2 + photons)
