"""isr.dark: subtract the master dark times the dark time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mpipipe.data.camera import Corrections
from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import ChannelStack, Masters
from mpipipe.data.raw import FrameInfo
from mpipipe.stages.isr.bias import add_master_noise
from mpipipe.stages.isr.needs import is_wanted
from mpipipe.stages.stage import StageConfig, stage


def dark_seconds(info: FrameInfo) -> float:
    """Seconds in which dark current gathered: the dark time, else the exposure time.

    Raises
    ------
    BadDataError
        If neither is known.
    """
    for seconds in (info.dark_time, info.exposure_time):
        if np.isfinite(seconds) and seconds >= 0:
            return float(seconds)
    raise BadDataError(
        "neither dark time nor exposure time is known",
        file=info.files[0] if info.files else None,
        key="EXPTIME",
        way_out="name the header keys in the camera description, or set corrections.dark to off",
    )


@stage("isr.dark", needs=("masters", "corrections", "channels", "warnings"), adds=("channels",))
def dark(
    config: StageConfig,
    *,
    masters: Masters,
    corrections: Corrections,
    channels: ChannelStack,
    warnings: list[str],
) -> Mapping[str, Any]:
    """Subtract the dark current and note the noise of its master."""
    from mpipipe.stages.isr import kernels

    wanted = is_wanted(
        "dark",
        corrections.dark,
        masters.dark is not None,
        "master dark",
        channels.applied,
        warnings,
    )
    if wanted and masters.dark is not None:
        seconds = dark_seconds(channels.info)
        for i, plane in enumerate(channels.image):
            kernels.subtract_dark(plane, masters.dark[i], seconds)
        add_master_noise(channels, masters.dark_variance, np.full(len(channels.names), seconds))
        channels.applied["dark"] = f"master times {seconds:g} s"
    return {"channels": channels}
