"""Calibration frames, reduced as far as a master needs, a few rows of all channels at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mpipipe.data import mask as planes
from mpipipe.data.camera import Corrections, Need
from mpipipe.data.errors import BadDataError, MissingInputError
from mpipipe.data.exposure import Masters
from mpipipe.data.raw import RawFrame
from mpipipe.stages.isr import crosstalk, linearity
from mpipipe.stages.isr.dark import dark_seconds
from mpipipe.stages.isr.initialize import check_layout
from mpipipe.stages.isr.overscan import OverscanConfig, fit_overscan

BLOCK_BYTES = 64_000_000
"""Memory that one step of combining frames may take for its stack."""


class ReducedFrame:
    """A raw calibration frame that gives its reduced rows on demand.

    Parameters
    ----------
    raw
        The frame.
    corrections
        Corrections that are off are not made.
    overscan
        Options of the overscan correction, the same as for science frames.

    Attributes
    ----------
    names
        Channel names.
    shape
        (ny, nx) of a channel's data.
    overscan_rms
        (n_channels,) ADU; NaN without overscan.
    seconds
        Dark time, else exposure time; 0 for a bias.
    """

    def __init__(
        self, raw: RawFrame, corrections: Corrections, overscan: OverscanConfig | None = None
    ) -> None:
        self.raw = raw
        self.corrections = corrections
        self.shape = check_layout(raw)
        self.names = tuple(channel.name for channel in raw.channels)
        self.seconds = 0.0 if raw.info.kind == "bias" else dark_seconds(raw.info)
        use = corrections.overscan is not Need.OFF
        config = overscan or OverscanConfig()
        self._fits = [
            fit_overscan(channel, raw.overscan_skip, config) if use else None
            for channel in raw.channels
        ]
        self.overscan_rms = np.array([np.nan if fit is None else fit.rms for fit in self._fits])
        for channel in raw.channels:
            pixels = channel.pixels
            if pixels.dtype.kind == "f" and not np.isfinite(pixels[channel.datasec.slices]).all():
                raise BadDataError(
                    f"channel {channel.name} has pixels that are not finite",
                    file=raw.info.files[0] if raw.info.files else None,
                    way_out="leave the frame out",
                )

    @property
    def has_overscan(self) -> bool:
        """Whether the level of every channel is subtracted by its overscan."""
        return all(fit is not None for fit in self._fits)

    def levelled(self, rows: slice) -> np.ndarray:
        """ADU above the overscan (raw ADU where there is none): (n_channels, n_rows, nx)."""
        out = None
        for i, (channel, fit) in enumerate(zip(self.raw.channels, self._fits, strict=True)):
            data = channel.pixels[channel.datasec.slices][rows]
            if out is None:
                out = np.empty((len(self._fits), *data.shape), np.float32)
            out[i] = data
            if fit is not None:
                out[i] -= fit.rows[rows][:, None] + fit.columns
        assert out is not None
        return out

    def signal(self, rows: slice, masters: Masters) -> np.ndarray:
        """ADU of light and dark current: levels, crosstalk, non-linearity and bias are off.

        Raises
        ------
        MissingInputError
            If there is neither overscan nor master bias.
        """
        image = self.levelled(rows)
        bias = masters.bias if self.corrections.bias is not Need.OFF else None
        if bias is None and not self.has_overscan:
            raise MissingInputError(
                "without overscan a master bias is needed",
                file=self.raw.info.files[0] if self.raw.info.files else None,
                way_out="supply at least three bias frames",
            )
        pattern = None if bias is None else bias[:, rows].copy()
        if pattern is not None:
            for i, fit in enumerate(self._fits):
                if fit is None:
                    # As isr does: the level goes first, the pattern after the linearity.
                    pedestal = np.median(bias[i, ::4, ::4]) if bias is not None else 0.0
                    image[i] -= pedestal
                    pattern[i] -= pedestal
        scratch = np.zeros(image.shape, planes.DTYPE)
        if self.raw.crosstalk is not None and self.corrections.crosstalk is not Need.OFF:
            crosstalk.subtract(image, scratch, self.raw.crosstalk)
        if self.corrections.linearity is not Need.OFF:
            linearity.linearize(image, scratch, [c.linearity for c in self.raw.channels])
        if pattern is not None:
            image -= pattern
        return image

    def saturated_fraction(self) -> float:
        """Fraction of the data pixels at or above their channel's saturation level."""
        total = sum(
            int(np.count_nonzero(c.pixels[c.datasec.slices] >= c.saturation))
            for c in self.raw.channels
        )
        return total / (len(self.raw.channels) * self.shape[0] * self.shape[1])


def reduce_frames(
    frames: Sequence[RawFrame],
    corrections: Corrections,
    overscan: OverscanConfig | None,
    *,
    kind: str,
    min_frames: int,
) -> list[ReducedFrame]:
    """Check that frames are enough and alike; measure their overscans.

    Raises
    ------
    MissingInputError
        If there are fewer than `min_frames`.
    BadDataError
        If they differ in channels or shape, or one is unusable.
    """
    if len(frames) < max(min_frames, 1):
        raise MissingInputError(
            f"{len(frames)} {kind} frames, {min_frames} are needed",
            key="calibs.min_frames",
            way_out=f"supply more {kind} frames, or lower calibs.min_frames",
        )
    reduced = [ReducedFrame(raw, corrections, overscan) for raw in frames]
    first = reduced[0]
    for other in reduced[1:]:
        if (other.names, other.shape) != (first.names, first.shape):
            raise BadDataError(
                f"{kind} frames differ: channels {first.names} of {first.shape}, then "
                f"{other.names} of {other.shape}",
                file=other.raw.info.files[0] if other.raw.info.files else None,
                way_out="use frames of one window and binning",
            )
    return reduced


def row_blocks(n_frames: int, n_channels: int, shape: tuple[int, int]) -> Iterator[slice]:
    """Slices of rows such that a stack of all frames and channels stays in memory."""
    ny, nx = shape
    height = max(1, BLOCK_BYTES // (4 * n_frames * n_channels * nx))
    for start in range(0, ny, height):
        yield slice(start, min(start + height, ny))


def known_gains(raw: RawFrame, masters: Masters, way_out: str) -> np.ndarray:
    """(n_channels,) electrons per ADU from camera or header, else from photon transfer.

    Raises
    ------
    BadDataError
        If one is unknown.
    """
    gain = np.array([np.nan if c.gain is None else c.gain for c in raw.channels], float)
    if masters.gain is not None:
        gain = np.where(np.isfinite(gain), gain, masters.gain)
    if not (gain > 0).all():
        name = raw.channels[int(np.flatnonzero(~(gain > 0))[0])].name
        raise BadDataError(f"no gain is known for channel {name}", key="gain", way_out=way_out)
    return gain
