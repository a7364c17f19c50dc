"""sfm_sourceMeasurement: positions and PSF fluxes of the detections, and all other measurements.

Every detection is fitted with the PSF, touching ones together. What the others' models leave of
the image is what each source is measured on; see `mpipipe.stages.sfm.measurement`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from mpipipe.data.exposure import Exposure
from mpipipe.data.ids import source_ids
from mpipipe.data.mask import is_set
from mpipipe.data.psf import Psf
from mpipipe.data.sdqa import Sdqa
from mpipipe.data.src import APERTURES
from mpipipe.stages.centroids import SETTLED
from mpipipe.stages.measurement_planes import MeasurementPlanes
from mpipipe.stages.sfm.deep_detections import DeepDetections
from mpipipe.stages.sfm.measurement import Scene, chosen, measure_all, registry
from mpipipe.stages.sfm.scene import fit_psfs, make_scene
from mpipipe.stages.sfm.src_table import SRC
from mpipipe.stages.source_rows import flag_pixels, locate_peaks
from mpipipe.stages.stage import StageConfig, stage

_WHERE_FITS_START = 0.005
"""Last steps of centroids that PSF fits start from, pixels."""
MONSTER = 100
"""Peaks of a footprint above which a blend is flagged."""


class SourceMeasurementConfig(StageConfig):
    """Options of sfm_sourceMeasurement."""

    measurements: tuple[str, ...] = Field(
        default=tuple(registry()),
        description="what is measured, and what that needs; "
        + "; ".join(f"{one.name}: {one.summary}" for one in registry().values()),
    )
    sweeps: int = Field(
        default=2,
        ge=0,
        description="times that touching sources are fitted again with the others taken off",
    )

    @field_validator("measurements")
    @classmethod
    def _are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        chosen(names)
        return names


@stage(
    "sfm.sourceMeasurement",
    needs=("calexp", "planes", "psf", "detections", "sdqa"),
    adds=("src",),
    config=SourceMeasurementConfig,
    always=True,
)
def source_measurement(
    config: SourceMeasurementConfig,
    *,
    calexp: Exposure,
    planes: MeasurementPlanes,
    psf: Psf,
    detections: DeepDetections,
    sdqa: Sdqa,
) -> Mapping[str, Any]:
    """Measure every detection into a row of `src`."""
    src = SRC.empty(len(detections.y))
    _identify(src, calexp, detections)
    settled = SETTLED if psf.is_guess else _WHERE_FITS_START
    locate_peaks(src, calexp.image, planes, detections, settled)
    models = fit_psfs(
        src, calexp, planes, psf, detections.width,
        start=_starts(src, detections), free=not psf.is_guess, sweeps=config.sweeps,
    )  # fmt: skip
    scene = make_scene(src, calexp, planes, models, detections.width, detections)
    for radius, factor in zip(APERTURES, scene.factors.factor, strict=True):
        sdqa.add(f"sfm.sourceMeasurement.noise_factor_{radius:g}", float(factor))
    sdqa.add("sfm.sourceMeasurement.n_blank", scene.factors.n_blank)
    flag_pixels(src, calexp.mask, planes.seeing.fwhm)
    measure(scene, src, config.measurements)
    return {"src": src}


def measure(scene: Scene, src: np.ndarray, names: tuple[str, ...]) -> None:
    """Make these measurements of rows whose PSF fits are done; in place."""
    wanted = chosen(names) if len(src) else ()
    for one in registry().values():
        if one not in wanted:
            one.clear(src)
    if wanted:
        measure_all(scene, src, wanted)


def _starts(src: np.ndarray, detections: DeepDetections) -> tuple[np.ndarray, np.ndarray]:
    """Where the PSF fits start: windowed centroids, but the peaks where neighbours pull at them."""
    pulled = src["flag_centroid"] | src["flag_blended"]
    x, y = np.where(pulled, detections.x, src["x"]), np.where(pulled, detections.y, src["y"])
    return x.astype(float), y.astype(float)


def _identify(src: np.ndarray, calexp: Exposure, detections: DeepDetections) -> None:
    """Ids in the order of the peaks (y, x), parents, and what the detection knew."""
    info = calexp.info
    src["id"] = source_ids(info.visit, info.detector_number, np.arange(len(src)))
    src["visit"], src["ccdNumber"] = info.visit, info.detector_number
    src["peakX"], src["peakY"], src["snr"] = detections.x, detections.y, detections.snr
    src["detectionPass"] = detections.found_in
    n_peaks = detections.n_peaks
    blended = n_peaks > 1
    parent = src["id"][detections.brightest()][detections.footprint]
    src["parent"] = np.where(blended, parent, -1)
    src["nChild"] = np.where(blended, n_peaks, 0)
    src["flag_monster"] = n_peaks > MONSTER
    src["flag_near_saturated"] = detections.near_saturated
    src["flag_blended"] = blended
    src["footprintArea"] = detections.footprints["n_pixels"][detections.footprint]
    src["flag_streak"] = detections.streak[detections.footprint]
    at_peaks = calexp.mask[detections.y, detections.x]
    src["flag_streak"] |= is_set(at_peaks, ("STREAK", "DETECTED_STREAK"))
