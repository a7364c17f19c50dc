"""ic_initialize: seeing, sky variance and unusable pixels, for all measurements that follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from mpipipe.data.exposure import Exposure
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages.measurement_planes import measurement_planes
from mpipipe.stages.stage import StageConfig, stage


class InitializeConfig(StageConfig):
    """Options of ic_initialize."""

    default_fwhm: float = Field(
        default=4.0, gt=0.5, description="FWHM in pixels taken for an image without stars"
    )


@stage(
    "ic.initialize",
    needs=("calexp", "sdqa", "warnings"),
    adds=("planes",),
    config=InitializeConfig,
    always=True,
)
def initialize(
    config: InitializeConfig, *, calexp: Exposure, sdqa: Sdqa, warnings: list[str]
) -> Mapping[str, Any]:
    """Measure the seeing and the variance of the sky on the exposure."""
    planes = measurement_planes(calexp, config.default_fwhm)
    seeing = planes.seeing
    if not seeing.measured:
        warnings.append(f"no star to measure the seeing on: {config.default_fwhm:g} pixels assumed")
    sdqa.add("ic.initialize.fwhm", seeing.fwhm if seeing.measured else float("nan"), "pixel")
    sdqa.add("ic.initialize.ellipticity", seeing.ellipticity if seeing.measured else float("nan"))
    sdqa.add("ic.initialize.n_stars", seeing.n_stars)
    return {"planes": planes}
