"""Fluxes in circles, with the light of other sources taken off."""

from __future__ import annotations

import numpy as np

from mpipipe.data.src import APERTURES, aperture_suffix
from mpipipe.stages.sfm.apertures import circles, full_error
from mpipipe.stages.sfm.measurement import Flux, Scene, flag, measurement
from mpipipe.stages.sfm.source_stamps import Piece

FLUXES = tuple(
    Flux("ap", f"flux in a circle of radius {radius:g} FWHM", aperture_suffix(radius))
    for radius in APERTURES
)


@measurement(
    "circles",
    fluxes=FLUXES,
    columns=(flag("aperture", "an aperture leaves the image or is mostly masked"),),
)
def measure_circles(scene: Scene, src: np.ndarray, piece: Piece) -> None:
    """Fluxes in circles of 0.75 to 3 FWHM, other sources taken off by their PSF models."""
    radii = np.array(APERTURES) * scene.planes.seeing.fwhm
    flux, sky_error, is_cut = circles(
        piece.ground.residual, scene.planes, piece.models, piece.x, piece.y, piece.flux, radii
    )
    for k, (column, radius) in enumerate(zip(FLUXES, radii, strict=True)):
        src[column.inst] = np.where(is_cut[:, k], np.nan, flux[:, k])
        error = full_error(flux[:, k], sky_error[:, k], scene.factors.at(radius))
        src[column.inst_error] = np.where(is_cut[:, k], np.nan, error)
    src["flag_aperture"] = is_cut.any(axis=1)
