"""sfm_output: counts of what was measured, and the part of it that association takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mpipipe.data.exposure import Exposure
from mpipipe.data.psf import Psf
from mpipipe.data.refcat import ReferenceStars
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages.measurement_planes import MeasurementPlanes
from mpipipe.stages.sfm.sky_rows import sky_rows
from mpipipe.stages.stage import StageConfig, stage


@stage(
    "sfm.output",
    needs=("calexp", "planes", "psf", "reference", "src", "sdqa"),
    adds=("calexp", "src", "source"),
    always=True,
)
def output(
    config: StageConfig,
    *,
    calexp: Exposure,
    planes: MeasurementPlanes,
    psf: Psf,
    reference: ReferenceStars | None,
    src: np.ndarray,
    sdqa: Sdqa,
) -> Mapping[str, Any]:
    """Count the sources and their flags, and make the rows that association takes."""
    for flag in ("saturated", "bad", "cr", "streak", "blended", "centroid", "psfFlux"):
        sdqa.add(f"sfm.output.n_{flag}", int(src[f"flag_{flag}"].sum()))
    fwhm = planes.seeing.fwhm if psf.is_guess else psf.fwhm
    rows = sky_rows(calexp, src, fwhm, needs_match=reference is not None)
    return {"calexp": calexp, "src": src, "source": rows}
