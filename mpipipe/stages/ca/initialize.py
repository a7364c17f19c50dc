"""ca.initialize: check that the channels tile a CCD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import ChannelStack
from mpipipe.data.raw import RawFrame
from mpipipe.stages.stage import StageConfig, stage


@stage("ca.initialize", needs=("raw", "channels"), adds=("channels",), always=True)
def initialize(config: StageConfig, *, raw: RawFrame, channels: ChannelStack) -> Mapping[str, Any]:
    """Check that every channel lands on the CCD, has its size, and overlaps no other.

    Raises
    ------
    BadDataError
        Naming the channel and its DETSEC.
    """
    taken = np.zeros(raw.shape, bool)
    for name, section in zip(channels.names, channels.detsecs, strict=True):
        problem = None
        if not section.fits_in(raw.shape):
            problem = f"leaves the CCD, which has {raw.shape[1]} x {raw.shape[0]} pixels"
        elif section.shape != channels.image.shape[1:]:
            ny, nx = channels.image.shape[1:]
            problem = f"has not the {nx} x {ny} pixels of the data"
        elif taken[section.slices].any():
            problem = "overlaps another channel"
        if problem:
            raise BadDataError(
                f"channel {name}: DETSEC {section} {problem}",
                file=raw.info.files[0] if raw.info.files else None,
                key="DETSEC",
                way_out="correct the header or the camera description",
            )
        taken[section.slices] = True
    return {"channels": channels}
