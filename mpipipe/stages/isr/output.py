"""isr.output: hand over the corrected channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mpipipe.data import mask as planes
from mpipipe.data.exposure import ChannelStack
from mpipipe.stages.stage import StageConfig, stage


@stage("isr.output", needs=("channels",), adds=("channels",), always=True)
def output(config: StageConfig, *, channels: ChannelStack) -> Mapping[str, Any]:
    """See to it that every pixel is finite; what is not becomes 0 and NO_DATA."""
    bit = planes.bits("NO_DATA")
    for i, plane in enumerate(channels.image):
        # A sum is finite exactly when all its terms are (none comes near overflow).
        if np.isfinite(plane.sum(dtype=np.float64)):
            continue
        bad = ~np.isfinite(plane)
        plane[bad] = 0.0
        channels.mask[i][bad] |= bit
        for other in (channels.variance, channels.master_sigma):
            if other is not None:
                other[i][bad & ~np.isfinite(other[i])] = 0.0
    return {"channels": channels}
