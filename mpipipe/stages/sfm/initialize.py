"""sfm_initialize: what the measurements share: seeing, sky variance, unusable pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from mpipipe.data.background import Background
from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import VALUE, bits
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages.cs.masked_background import sky_variance
from mpipipe.stages.seeing import Seeing, default_seeing, measure_seeing
from mpipipe.stages.stage import StageConfig, stage

_INTRP = VALUE["INTRP"]
_BAD = bits("BAD", "NO_DATA")


@dataclass(frozen=True)
class MeasurementPlanes:
    """Planes and figures that all measurements of one exposure use.

    Attributes
    ----------
    unusable
        (ny, nx) bool: pixels without a value of their own (BAD, NO_DATA).
    variance
        (ny, nx) float32, electron^2: sky, read noise and masters, without the light of sources,
        whose own photons each measurement adds for its flux.
    seeing
        Size and shape of the stars.
    """

    unusable: np.ndarray
    variance: np.ndarray
    seeing: Seeing


class InitializeConfig(StageConfig):
    """Options of sfm_initialize."""

    default_fwhm: float = Field(
        default=4.0, gt=0.5, description="FWHM in pixels taken for an image without stars"
    )


@stage(
    "sfm.initialize",
    needs=("calexp", "background", "sdqa", "warnings"),
    adds=("planes",),
    config=InitializeConfig,
    always=True,
)
def initialize(
    config: InitializeConfig,
    *,
    calexp: Exposure,
    background: Background,
    sdqa: Sdqa,
    warnings: list[str],
) -> Mapping[str, Any]:
    """Measure the seeing and the variance of the sky on the exposure."""
    finite = np.isfinite(calexp.image) & np.isfinite(calexp.variance)
    unusable = ((calexp.mask & _BAD) != 0) | ~finite
    saturated = (calexp.mask & VALUE["SAT"]) != 0
    seeing = measure_seeing(
        calexp.image, calexp.variance, unusable | saturated, default_seeing(config.default_fwhm)
    )
    if not seeing.measured:
        warnings.append(f"no star to measure the seeing on: {config.default_fwhm:g} pixels assumed")
    variance = sky_variance(calexp.variance, unusable | saturated).image()
    # A pixel that stands for a hit one has the noise of what replaced it.
    replaced = ((calexp.mask & _INTRP) != 0) & ~unusable
    variance[replaced] = np.maximum(variance[replaced], calexp.variance[replaced])
    sdqa.add("sfm.initialize.fwhm", seeing.fwhm if seeing.measured else float("nan"), "pixel")
    sdqa.add("sfm.initialize.ellipticity", seeing.ellipticity if seeing.measured else float("nan"))
    sdqa.add("sfm.initialize.n_stars", seeing.n_stars)
    sdqa.add("sfm.initialize.background", background.level, "electron")
    return {"planes": MeasurementPlanes(unusable, variance, seeing)}
