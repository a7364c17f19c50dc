"""isr.crosstalk: subtract what the other amplifiers, read at the same moment, leak in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from mpipipe.data import mask as planes
from mpipipe.data.camera import Corrections
from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import ChannelStack
from mpipipe.data.raw import RawFrame
from mpipipe.stages.isr.needs import is_wanted
from mpipipe.stages.stage import StageConfig, stage

BLOCK = 4096
"""Pixels at a time: those of 16 channels stay within a second-level cache."""


class CrosstalkConfig(StageConfig):
    """Options of isr.crosstalk."""

    mask_sigma: float = Field(
        default=3.0,
        gt=0,
        description="mask where the correction exceeds this many sigma of the sky",
    )


def subtract(
    image: np.ndarray,
    mask: np.ndarray,
    matrix: np.ndarray,
    noise: np.ndarray | None = None,
    mask_sigma: float = 3.0,
) -> None:
    """Subtract crosstalk from all channels at once, in place.

    One application of the matrix is enough: what it leaves is of the order of its square.

    Parameters
    ----------
    image, mask
        (n_channels, ny, nx) float32 ADU above the overscan, in read-out order; int32.
    matrix
        (n_channels, n_channels): fraction of the source's signal seen in the victim,
        [victim][source]. The diagonal is ignored.
    noise
        (n_channels,) noise of a sky pixel in ADU; None: nothing is masked.

    Raises
    ------
    BadDataError
        If the matrix does not fit.
    """
    from mpipipe.stages.isr import kernels

    n = image.shape[0]
    if matrix.shape != (n, n):
        raise BadDataError(
            f"the crosstalk matrix has shape {matrix.shape}, the CCD has {n} channels",
            key="crosstalk",
        )
    matrix = matrix.astype(np.float32)
    np.fill_diagonal(matrix, 0.0)
    sky = np.array([np.median(plane[::31, ::7]) for plane in image], np.float32)
    limit = np.full(n, np.inf) if noise is None else mask_sigma * noise
    usual, largest = matrix @ sky, limit.astype(np.float32)
    pixels, flags = image.reshape(n, -1), mask.reshape(n, -1)
    bit = planes.bits("CROSSTALK")
    for start in range(0, pixels.shape[1], BLOCK):
        correction = matrix @ pixels[:, start : start + BLOCK]
        kernels.subtract_and_mask(pixels, correction, start, usual, largest, bit, flags)


@stage(
    "isr.crosstalk",
    needs=("raw", "corrections", "channels", "warnings"),
    adds=("channels",),
    config=CrosstalkConfig,
)
def crosstalk(
    config: CrosstalkConfig,
    *,
    raw: RawFrame,
    corrections: Corrections,
    channels: ChannelStack,
    warnings: list[str],
) -> Mapping[str, Any]:
    """Subtract crosstalk between the channels of the CCD; mask where it was large."""
    wanted = is_wanted(
        "crosstalk",
        corrections.crosstalk,
        raw.crosstalk is not None,
        "crosstalk matrix",
        channels.applied,
        warnings,
    )
    if wanted and raw.crosstalk is not None:
        sky = np.array([np.median(plane[::31, ::7]) for plane in channels.image])
        read_noise = np.where(np.isfinite(channels.read_noise), channels.read_noise, 0.0)
        electrons = np.maximum(sky * channels.gain, 0.0) + read_noise**2
        noise = np.sqrt(np.maximum(electrons, 1.0)) / channels.gain
        subtract(channels.image, channels.mask, raw.crosstalk, noise, config.mask_sigma)
        channels.applied["crosstalk"] = "matrix subtracted"
    return {"channels": channels}
