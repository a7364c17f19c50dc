"""ca.sdqa: numbers about the assembled CCD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from mpipipe.data import mask as planes
from mpipipe.data.exposure import Exposure
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages.isr.sdqa import clipped_mean
from mpipipe.stages.stage import StageConfig, stage


class SdqaConfig(StageConfig):
    """Options of ca.sdqa."""

    step: int = Field(
        default=16, ge=1, description="every n-th row and column enters the sky statistics"
    )


@stage("ca.sdqa", needs=("exposure", "sdqa"), adds=("exposure",), config=SdqaConfig)
def sdqa(config: SdqaConfig, *, exposure: Exposure, sdqa: Sdqa) -> Mapping[str, Any]:
    """Record sky, noise against the variance plane, and the share of masked pixels."""
    from mpipipe.stages.isr import kernels

    snap = exposure.info.snap
    some = slice(None, None, config.step), slice(None, None, config.step)
    good = exposure.mask[some] == 0
    sky, noise = clipped_mean(exposure.image[some][good].astype(np.float64))
    variance = exposure.variance[some][good]
    expected = float(np.sqrt(np.median(variance))) if variance.size else float("nan")
    sdqa.add("ca.sky.level", sky, "electron", snap=snap)
    sdqa.add("ca.sky.noise", noise, "electron", snap=snap)
    sdqa.add("ca.sky.noise_expected", expected, "electron", snap=snap)
    counts = np.zeros(32, np.int64)
    kernels.count_planes(exposure.mask, counts)
    for plane in ("BAD", "SAT", "NO_DATA", "VIGNETTED"):
        percent = 100.0 * float(counts[planes.BIT[plane]]) / exposure.mask.size
        sdqa.add(f"ca.masked.{plane}", percent, "%", snap=snap)
    return {"exposure": exposure}
