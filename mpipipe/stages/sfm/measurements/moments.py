"""Adaptive moments, and the flux of the Gaussian that has them."""

from __future__ import annotations

import numpy as np

from mpipipe.data.schema import Column
from mpipipe.stages.sfm.measurement import Flux, Scene, flag, measurement
from mpipipe.stages.sfm.source_stamps import Piece
from mpipipe.stages.sfm.stamp_moments import (
    CONVERGED,
    CUT,
    DIVERGED,
    GAUSSIAN,
    TOO_LARGE,
    gaussian_flux_variance,
    moment_errors,
    stamp_moments,
)

GAUSS = Flux(
    "gauss",
    "flux of the elliptical Gaussian of the adaptive moments, 1 for the PSF's",
    is_of_psf=True,
)

_NAMES = ("ixx", "iyy", "ixy")
_MOMENTS = tuple(
    Column(name, "f4", "pixel2", f"adaptive {which} of the source on its own", "phys.size")
    for name, which in zip(
        _NAMES, ("second moment along x", "second moment along y", "mixed second moment"),
        strict=True,
    )
)  # fmt: skip
_ERRORS = tuple(
    Column(f"{name}Err", "f4", "pixel2", f"standard error of {name}", "stat.error;phys.size")
    for name in _NAMES
)
_PSF = tuple(
    Column(
        f"psf{name.capitalize()}",
        "f4",
        "pixel2",
        f"{name} of the PSF at the source",
        "instr.det.psf",
    )
    for name in _NAMES
)


@measurement(
    "moments",
    fluxes=(GAUSS,),
    columns=(
        *_MOMENTS,
        *_ERRORS,
        *_PSF,
        flag("shape", "the adaptive moments failed: they are the PSF's"),
        flag("shape_diverged", "... as the light has no matching Gaussian, or a neighbour pulls"),
        flag("shape_masked", "... as more than half of the weight is masked or off the image"),
    ),
)
def measure_moments(scene: Scene, src: np.ndarray, piece: Piece) -> None:
    """Second moments under the Gaussian that matches them, and its flux."""
    psf_moments, psf_gaussian = scene.psf_shapes.at(piece.x, piece.y)
    found = np.zeros(len(src), GAUSSIAN)
    for some, stamps in piece.growing(lambda: found["state"] == TOO_LARGE):
        found[some] = stamp_moments(
            stamps.light, stamps.variance, stamps.known, stamps.x, stamps.y, psf_moments[some]
        )
    determinant = np.maximum(found["ixx"] * found["iyy"] - found["ixy"] ** 2, 0)
    # A Gaussian weight sums as the circle of twice its sigma does.
    factor = scene.factors.at(2 * determinant**0.25)
    src[GAUSS.inst] = found["flux"] / psf_gaussian
    src[GAUSS.inst_error] = np.sqrt(gaussian_flux_variance(found, factor)) / psf_gaussian
    error = moment_errors(found, factor)
    failed = found["state"] != CONVERGED
    for axis, name in enumerate(_NAMES):
        src[name] = found[name]
        src[f"{name}Err"] = np.where(failed, np.nan, error[:, axis])
        src[f"psf{name.capitalize()}"] = psf_moments[:, axis]
    src["flag_shape"] = failed
    src["flag_shape_diverged"] = np.isin(found["state"], (DIVERGED, TOO_LARGE))
    src["flag_shape_masked"] = found["state"] == CUT
