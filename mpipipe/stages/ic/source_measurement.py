"""ic_sourceMeasurement: positions, shapes and aperture fluxes of the bright sources.

The PSF fit replaces positions of stars later; here nothing is known but the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mpipipe.data.exposure import Exposure
from mpipipe.data.icsrc import CALIBRATION_RADIUS, ICSRC
from mpipipe.data.ids import source_ids
from mpipipe.data.mask import is_set
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages.detections import Detections
from mpipipe.stages.measurement_planes import MeasurementPlanes
from mpipipe.stages.seeing import adaptive_moments
from mpipipe.stages.source_rows import flag_pixels, locate_peaks
from mpipipe.stages.stage import StageConfig, stage

_CROWDED_SHARE = 0.02
"""Of a source's flux that a neighbour must give to count."""


@stage(
    "ic.sourceMeasurement",
    needs=("calexp", "planes", "detections", "sdqa"),
    adds=("icSrc",),
    always=True,
)
def source_measurement(
    config: StageConfig,
    *,
    calexp: Exposure,
    planes: MeasurementPlanes,
    detections: Detections,
    sdqa: Sdqa,
) -> Mapping[str, Any]:
    """Measure every detection into a row of `icSrc`."""
    rows = ICSRC.empty(len(detections.y))
    for name in ("ra", "dec", "psfInstFlux", "psfInstFluxErr", "psfChi2", "psfFlux", "psfFluxErr"):
        rows[name] = np.nan
    rows["flag_psfFlux"] = True
    info = calexp.info
    rows["id"] = source_ids(info.visit, info.detector_number, np.arange(len(rows)))
    rows["visit"], rows["ccdNumber"] = info.visit, info.detector_number
    rows["peakX"], rows["peakY"], rows["snr"] = detections.x, detections.y, detections.snr
    if len(rows):
        _measure(rows, calexp, planes, detections)
    good = ~(rows["flag_saturated"] | rows["flag_edge"] | rows["flag_bad"] | rows["flag_shape"])
    sdqa.add("ic.sourceMeasurement.n_good", int(good.sum()))
    sdqa.add("ic.sourceMeasurement.n_crowded", int(rows["flag_crowded"].sum()))
    return {"icSrc": rows}


def _measure(
    rows: np.ndarray, calexp: Exposure, planes: MeasurementPlanes, detections: Detections
) -> None:
    image = np.where(planes.unusable, np.float32(0), calexp.image)
    locate_peaks(rows, image, planes, detections)
    _shape(rows, image, planes)
    _aperture(rows, image, planes, detections.width)
    flag_pixels(rows, calexp.mask, planes.seeing.fwhm)
    at_peaks = calexp.mask[detections.y, detections.x]
    rows["flag_streak"] = detections.streak[detections.footprint] | is_set(at_peaks, "STREAK")
    flux = detections.snr * np.sqrt(planes.variance[detections.y, detections.x])
    rows["flag_crowded"] = _crowded(rows, flux, CALIBRATION_RADIUS * planes.seeing.fwhm)


def _shape(rows: np.ndarray, image: np.ndarray, planes: MeasurementPlanes) -> None:
    seeing = planes.seeing
    start = (seeing.ixx * seeing.iyy - seeing.ixy**2) ** 0.25
    found = adaptive_moments(image, planes.unusable, rows["y"], rows["x"], start)
    failed = found["state"] != 0
    for name in ("ixx", "iyy", "ixy"):
        rows[name] = np.where(failed, getattr(seeing, name), found[name])
    rows["flag_shape"] = failed


def _aperture(
    rows: np.ndarray, image: np.ndarray, planes: MeasurementPlanes, map_width: float
) -> None:
    import sep

    radius = CALIBRATION_RADIUS * planes.seeing.fwhm
    flux, error, cut = sep.sum_circle(
        image, rows["x"], rows["y"], radius, var=planes.variance, mask=planes.unusable
    )
    rows["apInstFlux"] = flux
    sky = max(map_width, 1.0) * error
    rows["apInstFluxErr"] = np.sqrt(sky**2 + np.maximum(flux, 0))
    rows["flag_aperture"] = (cut & (sep.APER_TRUNC | sep.APER_ALLMASKED)) != 0


def _crowded(rows: np.ndarray, flux: np.ndarray, reach: float) -> np.ndarray:
    """Which sources have a neighbour within `reach` pixels that gives a share of their flux."""
    from scipy.spatial import cKDTree

    places = np.stack([rows["peakX"], rows["peakY"]], axis=1).astype(float)
    pairs = cKDTree(places).query_pairs(reach, output_type="ndarray")
    crowded = np.zeros(len(rows), bool)
    for one, other in (pairs.T, pairs.T[::-1]):
        crowded[one[flux[other] > _CROWDED_SHARE * flux[one]]] = True
    return crowded
