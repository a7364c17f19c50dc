"""isr.initialize: check every input, settle gains and read noise, cut out the data sections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from mpipipe.data import mask as planes
from mpipipe.data.camera import Corrections
from mpipipe.data.errors import BadDataError, ConfigError
from mpipipe.data.exposure import ChannelStack, Masters
from mpipipe.data.raw import RawChannel, RawFrame
from mpipipe.data.sections import Section
from mpipipe.stages.isr.needs import is_wanted
from mpipipe.stages.isr.readout import Readout
from mpipipe.stages.stage import StageConfig, stage


class InitializeConfig(StageConfig):
    """Options of isr.initialize."""

    gain_from: Literal["camera", "masters"] = Field(
        default="camera",
        description="which gain wins where both exist: camera and header, or photon transfer",
    )


def check_layout(raw: RawFrame) -> tuple[int, int]:
    """Check the sections of all channels; return the common (ny, nx) of their data.

    Raises
    ------
    BadDataError
        If a section leaves the channel's image, or channels differ in shape.
    """
    if not raw.channels:
        raise BadDataError("the frame has no channels", file=_file_of(raw))
    shape = raw.channels[0].datasec.shape
    for channel in raw.channels:
        for key in ("datasec", "biassec", "parallel_biassec"):
            section = getattr(channel, key)
            if section is not None and not section.fits_in(channel.pixels.shape):
                ny, nx = channel.pixels.shape
                raise BadDataError(
                    f"channel {channel.name}: {key.upper()} {section} leaves the image, "
                    f"which has {nx} x {ny} pixels",
                    file=_file_of(raw),
                    key=key.upper(),
                    way_out="correct the header or the camera description",
                )
        if channel.datasec.shape != shape:
            raise BadDataError(
                f"channel {channel.name} has {channel.datasec.shape} rows and columns of data, "
                f"channel {raw.channels[0].name} has {shape}: channels of one CCD must be alike",
                file=_file_of(raw),
                key="DATASEC",
            )
    return shape


def _file_of(raw: RawFrame) -> str | None:
    return raw.info.files[0] if raw.info.files else None


def destination(channel: RawChannel) -> Section:
    """Where a channel lands, with the flips that lead there from read-out order."""
    return replace(
        channel.detsec,
        flip_x=channel.detsec.flip_x != channel.datasec.flip_x,
        flip_y=channel.detsec.flip_y != channel.datasec.flip_y,
    )


def cut_channels(raw: RawFrame) -> ChannelStack:
    """The data sections of a frame in read-out order, in ADU, nothing corrected.

    Pixels that are not finite become 0 and NO_DATA. Gains and read noise that neither camera
    nor header knows are NaN.

    Raises
    ------
    BadDataError
        If sections make no sense, or no pixel is finite, or all pixels have the same value.
    """
    shape = check_layout(raw)
    image = np.empty((len(raw.channels), *shape), np.float32)
    mask = np.zeros(image.shape, planes.DTYPE)
    n_constant = 0
    for plane, flags, channel in zip(image, mask, raw.channels, strict=True):
        plane[...] = channel.pixels[channel.datasec.slices]
        if channel.pixels.dtype.kind == "f" and not np.isfinite(plane.sum(dtype=np.float64)):
            bad = ~np.isfinite(plane)
            if bad.all():
                raise BadDataError(
                    f"channel {channel.name} has no finite pixel", file=_file_of(raw)
                )
            plane[bad] = 0.0
            flags[bad] |= planes.bits("NO_DATA")
        n_constant += is_constant(plane)
    if n_constant == len(raw.channels):
        raise BadDataError(
            f"all pixels of every channel have the same value ({image[0, 0, 0]:g} in the first)",
            file=_file_of(raw),
            way_out="the read-out failed; leave the frame out",
        )
    return ChannelStack(
        info=raw.info,
        names=tuple(channel.name for channel in raw.channels),
        image=image,
        mask=mask,
        gain=_known([channel.gain for channel in raw.channels]),
        read_noise=_known([channel.read_noise for channel in raw.channels]),
        detsecs=tuple(destination(channel) for channel in raw.channels),
    )


def is_constant(plane: np.ndarray) -> bool:
    """Whether all pixels have the same value: a channel that was not read out."""
    first = plane[0, 0]
    return bool(np.all(plane[0] == first) and np.all(plane == first))


def _known(values: list[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], float)


def settle_gains(
    channels: ChannelStack, masters: Masters, prefer: Literal["camera", "masters"]
) -> None:
    """Fill `channels.gain` from camera, header and photon transfer.

    Raises
    ------
    BadDataError
        If a channel has no gain from anywhere.
    """
    measured = masters.gain if masters.gain is not None else np.full(len(channels.names), np.nan)
    first, second = (channels.gain, measured) if prefer == "camera" else (measured, channels.gain)
    gain = np.where(np.isfinite(first), first, second)
    unknown = [name for name, g in zip(channels.names, gain, strict=True) if not g > 0]
    if unknown:
        raise BadDataError(
            f"no gain is known for channel {', '.join(unknown)}",
            key="gain",
            way_out="give it in the camera description, or supply bias frames and at least two "
            "flats, from which it is measured by photon transfer",
        )
    channels.gain = gain


def check_masters(channels: ChannelStack, masters: Masters) -> None:
    """Check that every master fits the frame.

    Raises
    ------
    BadDataError
        If a master has other channels or another shape.
    """
    if masters.names and masters.names != channels.names:
        raise BadDataError(
            f"masters are of the channels {masters.names}, the frame of {channels.names}"
        )
    for kind in ("bias", "dark", "flat", "defects"):
        master = getattr(masters, kind)
        if master is not None and master.shape != channels.image.shape:
            raise BadDataError(
                f"the master {kind} has shape {master.shape}, the frame {channels.image.shape}",
                way_out="use masters of the same window and binning",
            )


@stage(
    "isr.initialize",
    needs=("raw", "masters", "corrections", "warnings"),
    adds=("channels", "readout"),
    config=InitializeConfig,
    always=True,
)
def initialize(
    config: InitializeConfig,
    *,
    raw: RawFrame,
    masters: Masters,
    corrections: Corrections,
    warnings: list[str],
) -> Mapping[str, Any]:
    """Check all calibration inputs, settle gains and read noise, cut out the data sections."""
    warnings.extend(raw.warnings)
    channels = cut_channels(raw)
    for channel, plane, flags in zip(raw.channels, channels.image, channels.mask, strict=True):
        if channel.dead or is_constant(plane):
            flags |= planes.bits("BAD", "NO_DATA")
            if not channel.dead:  # the reader has warned of those it knows
                warnings.append(f"channel {channel.name}: all pixels are {plane[0, 0]:g}")
    check_masters(channels, masters)
    for channel in raw.channels:
        _check_linearity(channel)
    available = {
        "overscan": (any(c.biassec is not None for c in raw.channels), "overscan"),
        "crosstalk": (raw.crosstalk is not None, "crosstalk matrix"),
        "linearity": (any(c.linearity.kind != "none" for c in raw.channels), "linearity"),
        **{
            kind: (getattr(masters, kind) is not None, _master_name(kind, raw.info.band))
            for kind in ("bias", "dark", "flat", "defects")
        },
    }
    # A stage that comes later notes what it leaves out; here only what is required counts.
    for name, (there, what) in available.items():
        is_wanted(name, getattr(corrections, name), there, what, {}, [])
    settle_gains(channels, masters, config.gain_from)
    nominal = channels.read_noise.copy()
    if masters.read_noise is not None:
        channels.read_noise = np.where(
            np.isfinite(masters.read_noise), masters.read_noise, channels.read_noise
        )
    return {"channels": channels, "readout": Readout.blank(nominal)}


def _master_name(kind: str, band: str) -> str:
    return f"master flat of band {band!r}" if kind == "flat" else f"master {kind}"


def _check_linearity(channel: RawChannel) -> None:
    linearity = channel.linearity
    if linearity.kind != "table":
        return
    pairs = np.asarray(linearity.coefficients, float)
    if pairs.size < 4 or pairs.size % 2 or np.any(np.diff(pairs[::2]) <= 0):
        raise ConfigError(
            f"channel {channel.name}: a linearity table has at least two pairs "
            "(measured, linear) with the measured values ascending",
            key="linearity.coefficients",
        )
