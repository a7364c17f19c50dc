"""ic_sourceDetection: the best and brightest peaks, enough for PSF, WCS and zero point.

A matched filter of the seeing, its map divided by the width of its lower half; no deblending and
no local background, which faint sources need and these do not. Where a high threshold leaves few,
a lower one is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from mpipipe.data.exposure import Exposure
from mpipipe.data.ids import MAX_SOURCES
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages.detections import Detections, are_streaks, most_significant
from mpipipe.stages.footprints import grow_footprints
from mpipipe.stages.matched_filter import find_peaks, lower_width, matched_filter
from mpipipe.stages.measurement_planes import MeasurementPlanes
from mpipipe.stages.stage import StageConfig, stage

_SAMPLES = 400_000


class SourceDetectionConfig(StageConfig):
    """Options of ic_sourceDetection."""

    threshold: float = Field(
        default=10.0, gt=0, description="least height of a peak in widths of the map"
    )
    low_threshold: float = Field(
        default=5.0, gt=0, description="the same, where `threshold` leaves fewer than `few`"
    )
    few: int = Field(default=60, ge=0, description="sources below which the threshold is lowered")
    separation: int = Field(
        default=3, ge=1, description="pixels from a peak within which it must be the highest"
    )
    max_sources: int = Field(
        default=MAX_SOURCES,
        ge=1,
        le=MAX_SOURCES,
        description="most sources that are measured; the most significant are kept",
    )
    streak_length: float = Field(
        default=25.0, gt=0, description="least length of a trail in units of the FWHM"
    )
    streak_elongation: float = Field(
        default=8.0, gt=1, description="least ratio of length to width of a trail"
    )


@stage(
    "ic.sourceDetection",
    needs=("calexp", "planes", "sdqa"),
    adds=("detections",),
    config=SourceDetectionConfig,
    always=True,
)
def source_detection(
    config: SourceDetectionConfig,
    *,
    calexp: Exposure,
    planes: MeasurementPlanes,
    sdqa: Sdqa,
) -> Mapping[str, Any]:
    """Find the bright peaks and the footprints they stand in."""
    filtered = matched_filter(calexp.image, planes.variance, planes.unusable, planes.seeing.fwhm)
    map_ = filtered.significance()
    step = max(1, map_.size // _SAMPLES)
    width = lower_width(map_.reshape(-1)[::step][~planes.unusable.reshape(-1)[::step]])
    width = width if np.isfinite(width) and width > 0 else 1.0
    y, x = find_peaks(map_, config.threshold * width, config.separation)
    limit = config.threshold
    if len(y) < config.few and config.low_threshold < limit:
        limit = config.low_threshold
        y, x = find_peaks(map_, limit * width, config.separation)
    y, x = most_significant(map_, y, x, config.max_sources)
    _, of_peak, footprints = grow_footprints(map_, limit * width, y, x)
    streak = are_streaks(
        footprints, config.streak_length * planes.seeing.fwhm, config.streak_elongation
    )
    sdqa.add("ic.sourceDetection.threshold", limit)
    sdqa.add("ic.sourceDetection.map_width", width)
    sdqa.add("ic.sourceDetection.n_sources", len(y))
    sdqa.add("ic.sourceDetection.n_streak", int(streak.sum()))
    snr = map_[y, x].astype(float) / width
    peaks = y.astype(np.int64), x.astype(np.int64)
    return {"detections": Detections(*peaks, snr, of_peak, footprints, streak, width)}
