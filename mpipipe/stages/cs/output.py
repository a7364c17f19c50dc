"""cs_output: hand over the calibrated exposure, its background and the snap sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mpipipe.data.background import Background
from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import VALUE
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages.stage import StageConfig, stage


@stage(
    "cs.output",
    needs=("calexp", "background", "snap_sources", "sdqa"),
    adds=("calexp", "background", "snap_sources"),
    always=True,
)
def output(
    config: StageConfig,
    *,
    calexp: Exposure,
    background: Background,
    snap_sources: np.ndarray,
    sdqa: Sdqa,
) -> Mapping[str, Any]:
    """Count what the masks hold and hand the products over."""
    for plane in ("BAD", "SAT", "NO_DATA", "CR", "INTRP", "STREAK"):
        count = int(np.count_nonzero(calexp.mask & VALUE[plane]))
        sdqa.add(f"cs.output.n_{plane.lower()}", count, "pixel")
    sdqa.add("cs.output.background", background.level, "electron")
    return {"calexp": calexp, "background": background, "snap_sources": snap_sources}
