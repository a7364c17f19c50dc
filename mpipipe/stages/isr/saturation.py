"""isr.saturation: mask saturated pixels and what bled out of them, on raw ADU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from mpipipe.data import mask as planes
from mpipipe.data.camera import Corrections, Need
from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import ChannelStack
from mpipipe.data.raw import RawFrame
from mpipipe.stages.stage import StageConfig, stage


class SaturationConfig(StageConfig):
    """Options of isr.saturation."""

    grow: int = Field(
        default=1, ge=0, le=20, description="pixels of rim masked around saturated ones"
    )
    bleed_contrast: float = Field(
        default=0.02,
        gt=0,
        description="a bleed trail goes on while a pixel stands out over its row by this "
        "fraction of the range from sky to saturation",
    )
    bleed_distance: int = Field(
        default=3, ge=1, description="columns to either side with which a trail is compared"
    )
    max_fraction: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="a frame with more saturated pixels than this is bad data",
    )


def mask_saturated(
    channels: ChannelStack, levels: np.ndarray, config: SaturationConfig | None = None
) -> np.ndarray:
    """Set SAT in all channels, whose image must still be raw ADU.

    Parameters
    ----------
    levels
        (n_channels,) ADU from which a pixel is saturated.

    Returns
    -------
    ndarray
        (n_channels,) number of pixels at or above the level.
    """
    from mpipipe.stages.isr import kernels

    config = config or SaturationConfig()
    counts = np.zeros(len(levels), np.int64)
    for i, level in enumerate(levels):
        image = channels.image[i]
        contrast = config.bleed_contrast * max(level - float(np.median(image[::31, ::7])), 1.0)
        counts[i] = kernels.mark_saturated(
            image,
            float(level),
            config.grow,
            contrast,
            config.bleed_distance,
            planes.bits("SAT"),
            channels.mask[i],
        )
    return counts


@stage(
    "isr.saturation",
    needs=("raw", "corrections", "channels"),
    adds=("channels",),
    config=SaturationConfig,
)
def saturation(
    config: SaturationConfig, *, raw: RawFrame, corrections: Corrections, channels: ChannelStack
) -> Mapping[str, Any]:
    """Mask saturated pixels, their rim and their bleed trails."""
    if corrections.saturation is Need.OFF:
        channels.applied["saturation"] = "off"
        return {"channels": channels}
    levels = np.array([channel.saturation for channel in raw.channels])
    counts = mask_saturated(channels, levels, config)
    fraction = counts.sum() / channels.image.size
    if fraction > config.max_fraction:
        raise BadDataError(
            f"{100 * fraction:.0f} % of the pixels are saturated",
            file=raw.info.files[0] if raw.info.files else None,
            way_out="leave the frame out, or raise isr.saturation.max_fraction",
        )
    channels.applied["saturation"] = "masked"
    return {"channels": channels}
