"""isr.linearity: make counts proportional to light."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from mpipipe.data import mask as planes
from mpipipe.data.camera import Corrections, Linearity
from mpipipe.data.exposure import ChannelStack
from mpipipe.data.raw import RawFrame
from mpipipe.stages.isr.needs import is_wanted
from mpipipe.stages.stage import StageConfig, stage


class LinearityConfig(StageConfig):
    """Options of isr.linearity."""

    suspect: float = Field(
        default=0.1,
        gt=0,
        description="mask as SUSPECT where the value changes by more than this part",
    )


def linearize(
    image: np.ndarray, mask: np.ndarray, linearities: Sequence[Linearity], suspect: float = 0.1
) -> None:
    """Correct all channels in place.

    Parameters
    ----------
    image, mask
        (n_channels, ny, nx) float32 ADU above the overscan; int32.
    linearities
        One for each channel.
    """
    from mpipipe.stages.isr import kernels

    bit = planes.bits("SUSPECT")
    for plane, flags, law in zip(image, mask, linearities, strict=True):
        values = np.asarray(law.coefficients, float)
        if law.kind == "polynomial":
            kernels.linearize_polynomial(plane, values, suspect, bit, flags)
        elif law.kind == "table":
            measured, linear = np.ascontiguousarray(values[::2]), np.ascontiguousarray(values[1::2])
            kernels.linearize_table(plane, measured, linear, suspect, bit, flags)


@stage(
    "isr.linearity",
    needs=("raw", "corrections", "channels", "warnings"),
    adds=("channels",),
    config=LinearityConfig,
)
def linearity(
    config: LinearityConfig,
    *,
    raw: RawFrame,
    corrections: Corrections,
    channels: ChannelStack,
    warnings: list[str],
) -> Mapping[str, Any]:
    """Correct non-linearity by each channel's polynomial or table."""
    laws = [channel.linearity for channel in raw.channels]
    known = any(law.kind != "none" for law in laws)
    if is_wanted(
        "linearity", corrections.linearity, known, "linearity", channels.applied, warnings
    ):
        linearize(channels.image, channels.mask, laws, config.suspect)
        channels.applied["linearity"] = ", ".join(sorted({law.kind for law in laws}))
    return {"channels": channels}
