"""isr.sdqa: numbers about each corrected channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from mpipipe.data import mask as planes
from mpipipe.data.exposure import ChannelStack
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages.stage import StageConfig, stage


class SdqaConfig(StageConfig):
    """Options of isr.sdqa."""

    step: int = Field(
        default=8, ge=1, description="every n-th row and column enters the sky statistics"
    )


def clipped_mean(values: np.ndarray, n_sigma: float = 3.0, rounds: int = 5) -> tuple[float, float]:
    """Mean and standard deviation after clipping about the median; NaN of nothing."""
    if values.size == 0:
        return float("nan"), float("nan")
    from mpipipe.stages.isr import kernels

    mean, spread = kernels.clipped_moments(
        np.ascontiguousarray(values, np.float64).ravel(), n_sigma, rounds
    )
    return float(mean), float(spread)


@stage("isr.sdqa", needs=("channels", "sdqa"), adds=("channels",), config=SdqaConfig)
def sdqa(config: SdqaConfig, *, channels: ChannelStack, sdqa: Sdqa) -> Mapping[str, Any]:
    """Record sky level, noise, gain, read noise and masked pixels of each channel."""
    from mpipipe.stages.isr import kernels

    snap = channels.info.snap
    for i, name in enumerate(channels.names):
        place: dict[str, Any] = {"channel": name, "snap": snap}
        some = slice(None, None, config.step), slice(None, None, config.step)
        good = channels.image[i][some][channels.mask[i][some] == 0]
        sky, noise = clipped_mean(good.astype(np.float64))
        sdqa.add("isr.sky.level", sky, "electron", **place)
        sdqa.add("isr.sky.noise", noise, "electron", **place)
        sdqa.add("isr.gain", channels.gain[i], "electron/adu", **place)
        sdqa.add("isr.read_noise", channels.read_noise[i], "electron", **place)
        counts = np.zeros(32, np.int64)
        kernels.count_planes(channels.mask[i], counts)
        for plane in ("SAT", "BAD", "CROSSTALK", "SUSPECT", "NO_DATA"):
            count = float(counts[planes.BIT[plane]])
            sdqa.add(f"isr.masked.{plane}", count, "pixel", **place)
    return {"channels": channels}
