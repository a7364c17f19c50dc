"""sfm_initialize: the level that sources are measured above, and planes of earlier detections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mpipipe.data.background import Background
from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import DETECTIONS, DTYPE, bits
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages.stage import StageConfig, stage


@stage(
    "sfm.initialize",
    needs=("calexp", "background", "sdqa"),
    adds=("calexp",),
    always=True,
)
def initialize(
    config: StageConfig, *, calexp: Exposure, background: Background, sdqa: Sdqa
) -> Mapping[str, Any]:
    """Clear the planes that a detection sets, and note the sky that was subtracted."""
    calexp.mask &= DTYPE(~bits(*DETECTIONS))
    sdqa.add("sfm.initialize.background", background.level, "electron")
    return {"calexp": calexp}
