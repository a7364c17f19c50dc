"""isr.flat: divide by the response of the pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from mpipipe.data import mask as planes
from mpipipe.data.camera import Corrections
from mpipipe.data.exposure import ChannelStack, Masters
from mpipipe.stages.isr.needs import is_wanted
from mpipipe.stages.stage import StageConfig, stage


class FlatConfig(StageConfig):
    """Options of isr.flat."""

    lowest: float = Field(
        default=0.05, gt=0, description="response below which a pixel is not divided but masked BAD"
    )


@stage(
    "isr.flat",
    needs=("masters", "corrections", "channels", "warnings"),
    adds=("channels",),
    config=FlatConfig,
)
def flat(
    config: FlatConfig,
    *,
    masters: Masters,
    corrections: Corrections,
    channels: ChannelStack,
    warnings: list[str],
) -> Mapping[str, Any]:
    """Divide image and variance by the master flat; mask where it has next to no response."""
    from mpipipe.stages.isr import kernels

    wanted = is_wanted(
        "flat",
        corrections.flat,
        masters.flat is not None,
        f"master flat for band {channels.info.band!r}",
        channels.applied,
        warnings,
    )
    if not wanted or masters.flat is None or channels.variance is None:
        return {"channels": channels}
    own = masters.flat_variance
    if channels.master_sigma is None and own is not None:
        channels.master_sigma = np.zeros(channels.image.shape, np.float32)
    bit = planes.bits("BAD")
    for i, response in enumerate(masters.flat):
        both = channels.image[i], channels.variance[i]
        if channels.master_sigma is None:
            kernels.divide_flat(*both, response, config.lowest, bit, channels.mask[i])
        else:
            noise = np.zeros_like(response) if own is None else own[i]
            kernels.divide_flat_with_noise(
                *both,
                response,
                config.lowest,
                bit,
                channels.mask[i],
                channels.master_sigma[i],
                noise,
            )
    channels.applied["flat"] = "divided by master"
    return {"channels": channels}
