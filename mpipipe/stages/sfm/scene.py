"""The scene of an exposure: joint PSF fits of all sources, and the image without their light."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import VALUE, bits
from mpipipe.data.psf import Psf
from mpipipe.stages.centroids import windowed_centroids
from mpipipe.stages.detections import Detections
from mpipipe.stages.measurement_planes import MeasurementPlanes
from mpipipe.stages.near import planes_near
from mpipipe.stages.psf_photometry import (
    blended_photometry,
    subtract_sources,
    usable_pixels,
    with_correlated_noise,
)
from mpipipe.stages.sfm.apertures import noise_factors
from mpipipe.stages.sfm.measurement import Scene

FIT_RADIUS = 2.0
"""Radius in FWHM inside which PSF fluxes are fitted."""

_PIXEL_FLAGS: Mapping[str, int] = {
    "flag_saturated": VALUE["SAT"],
    "flag_bad": bits("BAD", "NO_DATA"),
    "flag_cr": VALUE["CR"],
    "flag_interpolated": VALUE["INTRP"],
    "flag_suspect": VALUE["SUSPECT"],
}


def locate(
    src: np.ndarray, calexp: Exposure, planes: MeasurementPlanes, detections: Detections
) -> None:
    """Windowed centroids of the detections, from which the PSF fit starts; in place."""
    found = windowed_centroids(
        calexp.image, planes.variance, planes.unusable, detections.y, detections.x,
        planes.seeing.fwhm,
    )  # fmt: skip
    # Correlated noise: what the matched filter's map is wider than 1, positions vary more by.
    scale = max(detections.width, 1.0)
    src["x"], src["y"] = found["x"], found["y"]
    src["xErr"], src["yErr"] = scale * np.sqrt(found["xx"]), scale * np.sqrt(found["yy"])
    src["x_y_Cov"] = scale**2 * found["xy"]
    src["flag_centroid"], src["flag_edge"] = found["failed"], found["edge"]


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
) -> None:
    """PSF fluxes of all rows, and positions where they are free; in place.

    Parameters
    ----------
    map_width
        Width of the matched-filter map: more than 1 on correlated noise.
    start
        x, y where the fits start.
    """
    found = blended_photometry(
        usable_pixels(calexp, planes), psf, *start, FIT_RADIUS * psf.fwhm, free=free, sweeps=sweeps
    )
    fit = with_correlated_noise(found, map_width)
    failed = fit["failed"] | ~np.isfinite(fit["flux"])
    src["psfInstFlux"], src["psfInstFluxErr"] = fit["flux"], fit["flux_error"]
    src["psfChi2"], src["flag_psfFlux"] = fit["chi2"], failed
    if not free:
        return
    src["flag_centroid_window"] = failed & ~src["flag_centroid"]
    moved = ~failed
    src["x"][moved], src["y"][moved] = fit["x"][moved], fit["y"][moved]
    src["xErr"][moved], src["yErr"][moved] = np.sqrt(fit["xx"])[moved], np.sqrt(fit["yy"])[moved]
    src["x_y_Cov"][moved] = fit["xy"][moved]
    src["flag_centroid"][moved] = False


def make_scene(
    src: np.ndarray,
    calexp: Exposure,
    planes: MeasurementPlanes,
    psf: Psf,
    detections: Detections | None,
) -> Scene:
    """The scene of sources whose PSF fluxes are known."""
    image = np.where(planes.unusable, np.float32(0), calexp.image)
    residual = subtract_sources(image, psf, src["x"], src["y"], src["psfInstFlux"])
    width = detections.width if detections is not None else 1.0
    factors = noise_factors(image, calexp.mask, planes, width)
    return Scene(calexp, image, residual, planes, psf, factors, detections)


def flag_pixels(src: np.ndarray, scene: Scene) -> None:
    """What the mask says near the sources; in place."""
    near = planes_near(scene.calexp.mask, src["y"], src["x"], scene.planes.seeing.fwhm)
    for name, planes_of_flag in _PIXEL_FLAGS.items():
        src[name] = (near & planes_of_flag) != 0
