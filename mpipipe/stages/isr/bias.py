"""isr.bias: subtract the master bias, the fixed pattern of the read-out, in ADU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mpipipe.data.camera import Corrections
from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import ChannelStack, Masters
from mpipipe.stages.isr.needs import is_wanted
from mpipipe.stages.isr.readout import Readout
from mpipipe.stages.stage import StageConfig, stage


def add_master_noise(
    channels: ChannelStack, variance: np.ndarray | None, factors: np.ndarray
) -> None:
    """Add the noise of a master, times a factor for each channel, to `channels.master_sigma`.

    Parameters
    ----------
    variance
        (n_channels, ny, nx); None adds nothing.
    factors
        (n_channels,) electrons per unit of the master.
    """
    from mpipipe.stages.isr import kernels

    if variance is None:
        return
    put = kernels.add_master_noise
    if channels.master_sigma is None:
        channels.master_sigma = np.empty(channels.image.shape, np.float32)
        put = kernels.set_master_noise
    for i, factor in enumerate(factors):
        put(channels.master_sigma[i], variance[i], float(factor))


def _check_level(channels: ChannelStack, readout: Readout, bias: np.ndarray) -> None:
    """A bias that still has its level must not meet a frame that has lost it."""
    for i in np.flatnonzero(readout.level_subtracted):
        level = float(np.median(bias[i, ::16, ::16]))
        if level > 20.0 and level > 0.5 * readout.overscan_level[i]:
            raise BadDataError(
                f"channel {channels.names[i]}: the master bias holds a level of {level:.0f} ADU, "
                "which the overscan has already taken from the frame",
                key="corrections.overscan",
                way_out="build the masters with the same overscan correction as the run",
            )


@stage(
    "isr.bias",
    needs=("masters", "corrections", "channels", "readout", "warnings"),
    adds=("channels",),
)
def bias(
    config: StageConfig,
    *,
    masters: Masters,
    corrections: Corrections,
    channels: ChannelStack,
    readout: Readout,
    warnings: list[str],
) -> Mapping[str, Any]:
    """Subtract the master bias and note its noise."""
    from mpipipe.stages.isr import kernels

    wanted = is_wanted(
        "bias",
        corrections.bias,
        masters.bias is not None,
        "master bias",
        channels.applied,
        warnings,
    )
    if wanted and masters.bias is not None:
        _check_level(channels, readout, masters.bias)
        for i, plane in enumerate(channels.image):
            kernels.subtract_bias(plane, masters.bias[i], readout.pedestal[i])
        add_master_noise(channels, masters.bias_variance, channels.gain)
        channels.applied["bias"] = "master subtracted"
    return {"channels": channels}
