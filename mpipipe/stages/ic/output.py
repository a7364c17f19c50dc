"""ic_output: the exposure gets its WCS and zero point, the bright sources their sky positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mpipipe.data.exposure import Exposure
from mpipipe.data.photo_calib import PhotoCalib
from mpipipe.data.sdqa import Sdqa
from mpipipe.data.wcs_solution import WcsSolution
from mpipipe.stages.sky_positions import sky_positions
from mpipipe.stages.stage import StageConfig, stage


@stage(
    "ic.output",
    needs=("calexp", "icSrc", "wcs_solution", "photo_calib", "sdqa", "warnings"),
    adds=("calexp", "icSrc"),
    always=True,
)
def output(
    config: StageConfig,
    *,
    calexp: Exposure,
    icSrc: np.ndarray,
    wcs_solution: WcsSolution | None,
    photo_calib: PhotoCalib | None,
    sdqa: Sdqa,
    warnings: list[str],
) -> Mapping[str, Any]:
    """Hand over what was found; a WCS that was not found on stars leaves the header's."""
    if wcs_solution is not None:
        calexp.initial_wcs = calexp.wcs
        calexp.astrometry = wcs_solution
        calexp.wcs = wcs_solution.sip.to_astropy()
    calexp.photo_calib = photo_calib
    icSrc["ra"], icSrc["dec"] = sky_positions(calexp, icSrc["x"], icSrc["y"], warnings)
    sdqa.add("ic.output.has_wcs", float(calexp.astrometry is not None))
    sdqa.add("ic.output.has_zero_point", float(photo_calib is not None))
    return {"calexp": calexp, "icSrc": icSrc}
