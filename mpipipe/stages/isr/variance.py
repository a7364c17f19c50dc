"""isr.variance: go over to electrons, and make the variance plane of this snap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import ChannelStack
from mpipipe.data.mask import is_set
from mpipipe.stages.stage import StageConfig, stage


class VarianceConfig(StageConfig):
    """Options of isr.variance."""

    photon_radius: int = Field(
        default=1,
        ge=0,
        le=5,
        description="photon noise is taken from the mean of (2 r + 1)^2 pixels; 0: the pixel's "
        "own count, which biases weighted sums low",
    )


@stage("isr.variance", needs=("channels",), adds=("channels",), config=VarianceConfig, always=True)
def variance(config: VarianceConfig, *, channels: ChannelStack) -> Mapping[str, Any]:
    """Apply the gain; variance is photon noise plus read noise squared."""
    from mpipipe.stages.isr import kernels

    # The corner first: it tells for all but dead channels.
    dead = [
        bool(is_set(mask[0, 0], "NO_DATA") and is_set(mask, "NO_DATA").all())
        for mask in channels.mask
    ]
    channels.read_noise = np.where(dead, 1.0, channels.read_noise)
    unknown = np.flatnonzero(~(channels.read_noise > 0))
    if len(unknown):
        raise BadDataError(
            f"no read noise is known for channel {channels.names[unknown[0]]}",
            key="read_noise",
            way_out="give it in the camera description, or supply bias frames or an overscan",
        )
    channels.variance = np.empty(channels.image.shape, np.float32)
    for i, plane in enumerate(channels.image):
        kernels.to_electrons(
            plane,
            float(channels.gain[i]),
            float(channels.read_noise[i]),
            config.photon_radius,
            channels.variance[i],
        )
    channels.applied["gain"] = "electrons"
    return {"channels": channels}
