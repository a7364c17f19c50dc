"""ca.initialize: check that the channels tile a CCD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import ChannelStack
from mpipipe.data.raw import RawFrame
from mpipipe.data.sections import Section
from mpipipe.stages.stage import StageConfig, stage


def _overlap(one: Section, two: Section) -> bool:
    return one.x0 < two.x1 and two.x0 < one.x1 and one.y0 < two.y1 and two.y0 < one.y1


@stage("ca.initialize", needs=("raw", "channels"), adds=("channels",), always=True)
def initialize(config: StageConfig, *, raw: RawFrame, channels: ChannelStack) -> Mapping[str, Any]:
    """Check that every channel lands on the CCD, has its size, and overlaps no other.

    Raises
    ------
    BadDataError
        Naming the channel and its DETSEC.
    """
    taken: list[Section] = []
    for name, section in zip(channels.names, channels.detsecs, strict=True):
        problem = None
        if not section.fits_in(raw.shape):
            problem = f"leaves the CCD, which has {raw.shape[1]} x {raw.shape[0]} pixels"
        elif section.shape != channels.image.shape[1:]:
            ny, nx = channels.image.shape[1:]
            problem = f"has not the {nx} x {ny} pixels of the data"
        elif any(_overlap(section, other) for other in taken):
            problem = "overlaps another channel"
        if problem:
            raise BadDataError(
                f"channel {name}: DETSEC {section} {problem}",
                file=raw.info.files[0] if raw.info.files else None,
                key="DETSEC",
                way_out="correct the header or the camera description",
            )
        taken.append(section)
    return {"channels": channels}
