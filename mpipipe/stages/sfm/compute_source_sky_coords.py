"""sfm_computeSourceSkyCoords: positions on the sky, with errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mpipipe.data.exposure import Exposure
from mpipipe.stages.sky_positions import sky_errors, sky_positions
from mpipipe.stages.stage import StageConfig, stage


@stage(
    "sfm.computeSourceSkyCoords",
    needs=("calexp", "src", "warnings"),
    adds=("src",),
    always=True,
)
def compute_source_sky_coords(
    config: StageConfig, *, calexp: Exposure, src: np.ndarray, warnings: list[str]
) -> Mapping[str, Any]:
    """Give the sources sky coordinates, errors and covariances where the exposure has a WCS."""
    x, y = src["x"], src["y"]
    src["ra"], src["dec"] = sky_positions(calexp, x, y, warnings)
    errors = sky_errors(calexp, x, y, (src["xErr"], src["yErr"], src["x_y_Cov"]))
    src["raErr"], src["decErr"], src["ra_dec_Cov"] = errors
    return {"src": src}
