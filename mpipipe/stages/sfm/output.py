"""sfm_output: counts of what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mpipipe.data.exposure import Exposure
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages.stage import StageConfig, stage


@stage(
    "sfm.output",
    needs=("calexp", "src", "sdqa"),
    adds=("calexp", "src"),
    always=True,
)
def output(
    config: StageConfig,
    *,
    calexp: Exposure,
    src: np.ndarray,
    sdqa: Sdqa,
) -> Mapping[str, Any]:
    """Count the sources and their flags."""
    for flag in ("saturated", "bad", "cr", "streak", "blended", "centroid", "psfFlux"):
        sdqa.add(f"sfm.output.n_{flag}", int(src[f"flag_{flag}"].sum()))
    return {"calexp": calexp, "src": src}
