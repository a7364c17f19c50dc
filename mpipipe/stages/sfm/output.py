"""sfm_output: sky coordinates, and counts of what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mpipipe.data.exposure import Exposure
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages.sky_positions import sky_positions
from mpipipe.stages.stage import StageConfig, stage


@stage(
    "sfm.output",
    needs=("calexp", "src", "sdqa", "warnings"),
    adds=("calexp", "src"),
    always=True,
)
def output(
    config: StageConfig,
    *,
    calexp: Exposure,
    src: np.ndarray,
    sdqa: Sdqa,
    warnings: list[str],
) -> Mapping[str, Any]:
    """Give the sources sky coordinates where the exposure has a WCS, and count them."""
    src["ra"], src["dec"] = sky_positions(calexp, src["x"], src["y"], warnings)
    for flag in ("saturated", "bad", "cr", "streak", "blended", "centroid"):
        sdqa.add(f"sfm.output.n_{flag}", int(src[f"flag_{flag}"].sum()))
    return {"calexp": calexp, "src": src}
