"""sfm_sourceMeasurement: positions, shapes and aperture fluxes of the detections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from mpipipe.data.exposure import Exposure
from mpipipe.data.ids import source_ids
from mpipipe.data.mask import VALUE, bits, is_set
from mpipipe.data.sdqa import Sdqa
from mpipipe.data.src import APERTURES, SRC, aperture_column, aperture_error_column
from mpipipe.stages.centroids import windowed_centroids
from mpipipe.stages.detections import Detections
from mpipipe.stages.measurement_planes import MeasurementPlanes
from mpipipe.stages.near import planes_near
from mpipipe.stages.seeing import adaptive_moments
from mpipipe.stages.sfm.apertures import circle, full_error, kron_fluxes, noise_factors
from mpipipe.stages.stage import StageConfig, stage

_FLAGS = {
    "flag_saturated": VALUE["SAT"],
    "flag_bad": bits("BAD", "NO_DATA"),
    "flag_cr": VALUE["CR"],
    "flag_interpolated": VALUE["INTRP"],
    "flag_suspect": VALUE["SUSPECT"],
}


class SourceMeasurementConfig(StageConfig):
    """Options of sfm_sourceMeasurement."""

    kron: bool = Field(default=True, description="measure Kron fluxes")


@stage(
    "sfm.sourceMeasurement",
    needs=("calexp", "planes", "detections", "sdqa"),
    adds=("src",),
    config=SourceMeasurementConfig,
    always=True,
)
def source_measurement(
    config: SourceMeasurementConfig,
    *,
    calexp: Exposure,
    planes: MeasurementPlanes,
    detections: Detections,
    sdqa: Sdqa,
) -> Mapping[str, Any]:
    """Measure every detection into a row of `src`."""
    image = np.where(planes.unusable, np.float32(0), calexp.image)
    src = SRC.empty(len(detections.y))
    factors = noise_factors(image, calexp.mask, planes, detections.width)
    for radius, factor in zip(APERTURES, factors.factor, strict=True):
        sdqa.add(f"sfm.sourceMeasurement.noise_factor_{radius:g}", float(factor))
    sdqa.add("sfm.sourceMeasurement.n_blank", factors.n_blank)
    if not len(src):
        return {"src": src}
    _identify(src, calexp, detections)
    _locate(src, image, planes, detections)
    _shape(src, image, planes)
    position = src["x"].copy(), src["y"].copy()
    for radius in APERTURES:
        pixels = radius * planes.seeing.fwhm
        flux, error, cut = circle(image, planes, *position, pixels)
        src[aperture_column(radius)] = flux
        src[aperture_error_column(radius)] = full_error(flux, error, factors.at(pixels))
        src["flag_aperture"] |= cut
    if config.kron:
        ixx, iyy, ixy = (src[name].astype(float) for name in ("ixx", "iyy", "ixy"))
        kron = kron_fluxes(image, planes, position, (ixx, iyy, ixy), factors)
        src["kronRadius"], src["kronFlux"] = kron.radius, kron.flux
        src["kronFluxErr"], src["flag_kron"] = kron.error, kron.flag
    else:
        src["kronRadius"] = src["kronFlux"] = src["kronFluxErr"] = np.nan
        src["flag_kron"] = True
    near = planes_near(calexp.mask, src["y"], src["x"], planes.seeing.fwhm)
    for name, planes_of_flag in _FLAGS.items():
        src[name] = (near & planes_of_flag) != 0
    return {"src": src}


def _identify(src: np.ndarray, calexp: Exposure, detections: Detections) -> None:
    """Ids in the order of the peaks (y, x), parents, and what the detection knew."""
    info = calexp.info
    src["id"] = source_ids(info.visit, info.detector_number, np.arange(len(src)))
    src["visit"], src["ccdNumber"] = info.visit, info.detector_number
    src["peakX"], src["peakY"], src["snr"] = detections.x, detections.y, detections.snr
    blended = detections.footprints["n_peaks"][detections.footprint] > 1
    # The last one written wins: the most significant of each footprint, and of equals the first.
    order = np.argsort(detections.snr[::-1], kind="stable")
    order = len(src) - 1 - order
    brightest = np.zeros(len(detections.footprints), np.int64)
    brightest[detections.footprint[order]] = order
    src["parent"] = np.where(blended, src["id"][brightest[detections.footprint]], -1)
    src["flag_blended"] = blended
    src["footprintArea"] = detections.footprints["n_pixels"][detections.footprint]
    src["flag_streak"] = detections.streak[detections.footprint]
    at_peaks = calexp.mask[detections.y, detections.x]
    src["flag_streak"] |= is_set(at_peaks, ("STREAK", "DETECTED_STREAK"))


def _locate(
    src: np.ndarray, image: np.ndarray, planes: MeasurementPlanes, detections: Detections
) -> None:
    found = windowed_centroids(
        image, planes.variance, planes.unusable, detections.y, detections.x, planes.seeing.fwhm
    )
    # Correlated noise: what the matched filter's map is wider than 1, positions vary more by.
    scale = max(detections.width, 1.0)
    src["x"], src["y"] = found["x"], found["y"]
    src["xErr"], src["yErr"] = scale * np.sqrt(found["xx"]), scale * np.sqrt(found["yy"])
    src["x_y_Cov"] = scale**2 * found["xy"]
    src["flag_centroid"], src["flag_edge"] = found["failed"], found["edge"]


def _shape(src: np.ndarray, image: np.ndarray, planes: MeasurementPlanes) -> None:
    seeing = planes.seeing
    start = (seeing.ixx * seeing.iyy - seeing.ixy**2) ** 0.25
    found = adaptive_moments(image, planes.unusable, src["y"], src["x"], start)
    failed = found["state"] != 0
    for name in ("ixx", "iyy", "ixy"):
        src[name] = np.where(failed, getattr(seeing, name), found[name])
    src["flag_shape"] = failed
