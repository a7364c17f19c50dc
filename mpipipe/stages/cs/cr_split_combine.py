"""cs_crSplitCombine: sum the snaps, taking from each pixel only the snaps that were not hit.

A pixel hit in one of two snaps becomes twice the other, with twice the variance; in general the
clean snaps are scaled to the full exposure time. Noise that the masters bring is the same in all
snaps and adds linearly. A pixel hit in every snap (or in the only one) has no data: it is filled
from its neighbours for the eye, and masked NO_DATA. Then the background is measured again, on the
deeper image and with the sources masked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import Field

from mpipipe.data.background import Background
from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import DTYPE, VALUE, bits
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages.cs import planes
from mpipipe.stages.cs.diffim import exposure_times
from mpipipe.stages.cs.initialize import UNUSABLE
from mpipipe.stages.cs.masked_background import masked_background
from mpipipe.stages.seeing import Seeing, measure_seeing
from mpipipe.stages.stage import StageConfig, stage

_NOT_CLEAN = bits("CR", "NO_DATA")


class CrSplitCombineConfig(StageConfig):
    """Options of cs_crSplitCombine."""

    masked_background: bool = Field(
        default=True, description="measure the background again with the sources masked"
    )
    mesh: int = Field(default=128, ge=16, description="side of a background cell in pixels")


@stage(
    "cs.crSplitCombine",
    needs=("exposures", "seeing", "snap_backgrounds", "sdqa", "warnings"),
    adds=("calexp", "background"),
    config=CrSplitCombineConfig,
    always=True,
)
def cr_split_combine(
    config: CrSplitCombineConfig,
    *,
    exposures: list[Exposure],
    seeing: list[Seeing],
    snap_backgrounds: list[Background],
    sdqa: Sdqa,
    warnings: list[str],
) -> Mapping[str, Any]:
    """Sum the snaps without their cosmic rays, and subtract the final background."""
    calexp = combine(exposures)
    background = snap_backgrounds[0]
    for more in snap_backgrounds[1:]:
        background = background + more
    hit = (calexp.mask & VALUE["CR"]) != 0
    lost = hit & ((calexp.mask & VALUE["NO_DATA"]) != 0)
    sdqa.add("cs.crSplitCombine.n_cr", int(hit.sum()), "pixel")
    sdqa.add("cs.crSplitCombine.n_replaced", int(hit.sum() - lost.sum()), "pixel")
    _fill(calexp, lost)
    if config.masked_background:
        residual = _masked(calexp, seeing[0], config, sdqa, warnings)
        background = background + residual
    return {"calexp": calexp, "background": background}


def combine(exposures: list[Exposure]) -> Exposure:
    """The sum of the snaps over clean pixels, scaled to the full time; see the module's text."""
    shape = exposures[0].shape
    times = exposure_times(exposures)
    has_sigma = any(exposure.master_sigma is not None for exposure in exposures)
    none = np.zeros((0, 0), np.float32)
    total, variance = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    sigma = np.zeros(shape, np.float32) if has_sigma else none
    clean_time, mask = np.zeros(shape, np.float32), np.zeros(shape, DTYPE)
    for exposure, time in zip(exposures, times, strict=True):
        own = none if exposure.master_sigma is None else exposure.master_sigma
        planes.accumulate(
            exposure.image, exposure.variance, own, exposure.mask, _NOT_CLEAN, time,
            total, variance, sigma, clean_time, mask,
        )  # fmt: skip
    planes.scale_to_full_time(
        total, variance, sigma, clean_time, mask, sum(times), VALUE["NO_DATA"], VALUE["INTRP"]
    )
    first = exposures[0]
    info = replace(
        first.info,
        exposure_time=_sum(exposure.info.exposure_time for exposure in exposures),
        dark_time=_sum(exposure.info.dark_time for exposure in exposures),
        files=tuple(name for exposure in exposures for name in exposure.info.files),
    )
    applied = {name: how for exposure in exposures for name, how in exposure.applied.items()}
    applied["cosmic rays"] = "by shape" if len(exposures) == 1 else "by shape and snap difference"
    return replace(
        first,
        image=total,
        variance=variance,
        mask=mask,
        info=info,
        master_sigma=None,
        n_snaps=len(exposures),
        applied=applied,
    )


def _sum(values: Any) -> float:
    return float(sum(values))


def _fill(calexp: Exposure, lost: np.ndarray) -> None:
    """Interpolate pixels that were hit in every snap."""
    places = np.flatnonzero(lost)
    if not len(places):
        return
    usable = (calexp.mask & UNUSABLE) == 0
    planes.interpolate(calexp.image, calexp.variance, usable, places)
    calexp.mask.reshape(-1)[places] |= DTYPE(VALUE["INTRP"])


def _masked(
    calexp: Exposure,
    default: Seeing,
    config: CrSplitCombineConfig,
    sdqa: Sdqa,
    warnings: list[str],
) -> Background:
    """Measure what background is left with sources masked, subtract it and return it."""
    unusable = (calexp.mask & bits("BAD", "NO_DATA")) != 0
    saturated = (calexp.mask & VALUE["SAT"]) != 0
    seeing = measure_seeing(calexp.image, calexp.variance, unusable | saturated, default)
    found = masked_background(
        calexp.image, calexp.variance, unusable, saturated, seeing.fwhm, config.mesh
    )
    if found.filled == 1.0:
        warnings.append("no sky between the sources: the background is the first pass's")
    elif found.filled > 0.5:
        warnings.append(f"{found.filled:.0%} of the background cells had too little sky")
    found.background.subtract_from(calexp.image)
    calexp.image[unusable & ((calexp.mask & VALUE["INTRP"]) == 0)] = 0
    sdqa.add("cs.crSplitCombine.background_residual", found.background.level, "electron")
    sdqa.add("cs.crSplitCombine.masked_fraction", found.masked)
    sdqa.add("cs.crSplitCombine.mask_threshold", found.threshold)
    sdqa.add("cs.crSplitCombine.cells_filled", found.filled)
    sdqa.add("cs.crSplitCombine.sky_sigma", found.background.rms, "electron")
    return found.background
