"""sfm_sourceDetection: peaks and footprints on the matched-filter map.

The map is divided by the width of its lower half, which sources do not touch, so that 5 sigma
means the same on correlated noise. For
detection only, a background of small cells is taken off first: it removes peaks in the halos of
bright stars and large galaxies, and its light counts as noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from mpipipe.data.background import Background
from mpipipe.data.exposure import Exposure
from mpipipe.data.ids import MAX_SOURCES
from mpipipe.data.mask import DTYPE, VALUE, bits
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages.detections import Detections, are_streaks, most_significant
from mpipipe.stages.footprints import grow_footprints
from mpipipe.stages.matched_filter import find_peaks, lower_width, matched_filter
from mpipipe.stages.measurement_planes import MeasurementPlanes
from mpipipe.stages.mesh import mesh_background
from mpipipe.stages.stage import StageConfig, stage


class SourceDetectionConfig(StageConfig):
    """Options of sfm_sourceDetection."""

    threshold: float = Field(
        default=5.0, gt=0, description="least height of a peak in widths of the map"
    )
    separation: int = Field(
        default=3, ge=1, description="pixels from a peak within which it must be the highest"
    )
    local_mesh: int = Field(
        default=32, ge=0, description="side of the cells of the local background, pixels; 0: none"
    )
    local_mask: float = Field(
        default=8.0, gt=0, description="height from which the local background is masked"
    )
    streak_length: float = Field(
        default=25.0, gt=0, description="least length of a trail in units of the FWHM"
    )
    streak_elongation: float = Field(
        default=8.0, gt=1, description="least ratio of length to width of a trail"
    )


@stage(
    "sfm.sourceDetection",
    needs=("calexp", "planes", "sdqa", "warnings"),
    adds=("calexp", "detections"),
    config=SourceDetectionConfig,
    always=True,
)
def source_detection(
    config: SourceDetectionConfig,
    *,
    calexp: Exposure,
    planes: MeasurementPlanes,
    sdqa: Sdqa,
    warnings: list[str],
) -> Mapping[str, Any]:
    """Find peaks above the threshold, of both signs, and set the planes `DETECTIONS`."""
    map_, width, sigma = detection_map(calexp, planes, config)
    limit = config.threshold * width
    y, x = find_peaks(map_, limit, config.separation)
    if len(y) > MAX_SOURCES:
        warnings.append(f"{len(y)} detections: the {MAX_SOURCES} most significant are kept")
        y, x = most_significant(map_, y, x, MAX_SOURCES)
    labels, of_peak, footprints = grow_footprints(map_, limit, y, x)
    streak = are_streaks(
        footprints, config.streak_length * planes.seeing.fwhm, config.streak_elongation
    )
    values = np.where(streak, bits("DETECTED", "DETECTED_STREAK"), VALUE["DETECTED"])
    inside = np.flatnonzero(labels)
    flat = calexp.mask.reshape(-1)
    flat[inside] |= values.astype(DTYPE)[labels.reshape(-1)[inside] - 1]
    n_negative = _negative(calexp, map_, limit, config)
    snr = map_[y, x].astype(float) / width
    sdqa.add("sfm.sourceDetection.map_width", width)
    sdqa.add("sfm.sourceDetection.n_sources", len(y))
    sdqa.add("sfm.sourceDetection.n_negative", n_negative)
    sdqa.add("sfm.sourceDetection.n_streak", int(streak.sum()))
    sdqa.add("sfm.sourceDetection.depth", 5 * width * sigma, "electron")
    detections = Detections(
        y.astype(np.int64), x.astype(np.int64), snr, of_peak, footprints, streak, width
    )
    return {"calexp": calexp, "detections": detections}


def detection_map(
    calexp: Exposure, planes: MeasurementPlanes, config: SourceDetectionConfig
) -> tuple[np.ndarray, float, float]:
    """The significance map, its robust width, and the noise of a point source's flux.

    Returns
    -------
    map
        (ny, nx) float32, local background taken off.
    width
        1 when there is nothing to measure it on.
    sigma
        Median standard error of the filter's flux, electrons; NaN if no pixel is usable.
    """
    filtered = matched_filter(calexp.image, planes.variance, planes.unusable, planes.seeing.fwhm)
    map_ = filtered.significance()
    step = max(1, map_.size // 400_000)
    usable = ~planes.unusable.reshape(-1)[::step]
    width = lower_width(map_.reshape(-1)[::step][usable])
    width = width if np.isfinite(width) and width > 0 else 1.0
    if config.local_mesh:
        exclude = planes.unusable | (map_ > config.local_mask * width)
        local, filled = mesh_background(calexp.image, exclude, config.local_mesh)
        if filled < 1.0:
            local.values[:] = np.maximum(local.values, 0)
            filtered.subtract(local)
            map_ = filtered.significance()
            _dim_by_light(map_, planes.variance, local)
    weight = filtered.weight.reshape(-1)[::step]
    weight = weight[usable & (weight > 0)]
    sigma = float(1 / np.sqrt(np.median(weight))) if weight.size else float("nan")
    return map_, width, sigma


def _dim_by_light(map_: np.ndarray, variance: np.ndarray, local: Background) -> None:
    """Lower the map where the local background's own photons add noise."""
    for first, band in local.bands():
        rows = slice(first, first + len(band))
        sky = variance[rows]
        np.maximum(band, 0, out=band)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(sky > 0, sky / (sky + band), np.float32(1))
        map_[rows] *= np.sqrt(share)


def _negative(
    calexp: Exposure, map_: np.ndarray, limit: float, config: SourceDetectionConfig
) -> int:
    """Count negative peaks and set DETECTED_NEGATIVE."""
    np.negative(map_, out=map_)
    y, x = find_peaks(map_, limit, config.separation)
    if len(y):
        labels, _, _ = grow_footprints(map_, limit, y, x)
        calexp.mask[labels > 0] |= DTYPE(VALUE["DETECTED_NEGATIVE"])
    np.negative(map_, out=map_)
    return len(y)
