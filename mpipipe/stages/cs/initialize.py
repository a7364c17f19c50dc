"""cs_initialize: gather the snaps of a visit, and see that they can be put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from mpipipe.data.background import Background
from mpipipe.data.errors import BadDataError, MissingInputError
from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import VALUE, bits
from mpipipe.data.sdqa import Sdqa
from mpipipe.data.src import SNAP_SOURCE
from mpipipe.stages.cs import planes
from mpipipe.stages.seeing import default_seeing
from mpipipe.stages.stage import StageConfig, stage

UNUSABLE = bits("BAD", "SAT", "NO_DATA")
"""Planes of pixels that no cosmic-ray search touches."""

_SMALLEST_FWHM = 2.0


class InitializeConfig(StageConfig):
    """Options of cs_initialize."""

    sharpest_seeing: float = Field(
        default=0.5,
        gt=0,
        description="FWHM in arcsec assumed for an image that has no stars to measure it on",
    )


@stage(
    "cs.initialize",
    needs=("exposures", "pixel_scale", "sdqa", "warnings"),
    adds=("exposures", "seeing", "hits", "snap_backgrounds", "snap_differences", "snap_sources"),
    config=InitializeConfig,
    always=True,
)
def initialize(
    config: InitializeConfig,
    *,
    exposures: list[Exposure],
    pixel_scale: float,
    sdqa: Sdqa,
    warnings: list[str],
) -> Mapping[str, Any]:
    """Check the snaps against each other; give unsound pixels the plane NO_DATA.

    Raises
    ------
    BadDataError
        If there is no snap, or the snaps differ in shape, or belong to different visits.
    """
    if not exposures:
        raise MissingInputError("the visit has no snap", way_out="see `mpipipe plan`")
    first = exposures[0]
    for exposure in exposures[1:]:
        if exposure.shape != first.shape:
            raise BadDataError(
                f"snap {exposure.info.snap} has {exposure.shape} pixels (ny, nx), "
                f"snap {first.info.snap} has {first.shape}"
            )
        if (exposure.info.visit, exposure.info.detector) != (first.info.visit, first.info.detector):
            raise BadDataError("snaps of different visits or CCDs were put together")
    for k, exposure in enumerate(exposures):
        n_unsound = planes.sanitise(
            exposure.image, exposure.variance, exposure.mask, VALUE["NO_DATA"]
        )
        sdqa.add("cs.initialize.unsound", n_unsound, "pixel", snap=exposure.info.snap)
        if ((exposure.mask & UNUSABLE) != 0).all():
            warnings.append(f"snap {exposure.info.snap}: every pixel is masked")
        exposures[k] = exposure
    fwhm = max(config.sharpest_seeing / pixel_scale, _SMALLEST_FWHM)
    return {
        "exposures": exposures,
        "seeing": [default_seeing(fwhm) for _ in exposures],
        "hits": [np.empty(0, np.int64) for _ in exposures],
        "snap_backgrounds": [Background.constant(0.0, first.shape) for _ in exposures],
        "snap_differences": [],
        "snap_sources": SNAP_SOURCE.empty(),
    }
