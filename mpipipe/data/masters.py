"""Master calibrations as they are built and kept: one value per kind, CCD and band."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from mpipipe.data.exposure import Masters

Kind = Literal["bias", "dark", "flat", "defects", "gain"]
KINDS: tuple[Kind, ...] = ("bias", "dark", "flat", "defects", "gain")


@dataclass(frozen=True)
class MasterFrame:
    """One master calibration of one CCD, channel by channel in read-out order.

    Attributes
    ----------
    kind
        ``bias`` (ADU), ``dark`` (electrons per second), ``flat`` (relative response),
        ``defects`` (int32 mask planes) or ``gain`` (numbers only).
    band
        Band of a flat, empty otherwise.
    names
        Channel names.
    image, variance
        (n_channels, ny, nx) float32, int32 for defects; the variance is that of the master
        itself; None where there is none.
    gain, read_noise
        (n_channels,) electrons per ADU, electrons; NaN where unknown.
    n_frames
        Frames that went in.
    seconds
        Their dark or exposure time, summed.
    level
        Of a flat: mean signal of the CCD, electrons per second.
    factor
        Of a flat: what its image (mean 1 over the CCD) was multiplied by to bring it to the
        camera's mean response; 1 until the camera is normalised.
    notes
        What it lacks or how it was made, for people.
    """

    kind: Kind
    camera: str
    detector: str
    names: tuple[str, ...]
    image: np.ndarray | None
    variance: np.ndarray | None
    gain: np.ndarray
    read_noise: np.ndarray
    band: str = ""
    n_frames: int = 0
    seconds: float = 0.0
    level: float = float("nan")
    factor: float = 1.0
    notes: tuple[str, ...] = field(default=())


def with_master(masters: Masters, frame: MasterFrame, checksum: str = "") -> Masters:
    """`masters` with one more master in its place.

    Parameters
    ----------
    checksum
        SHA-256 of its file; empty if it has none yet.

    Raises
    ------
    ValueError
        If the channels differ from those that are there.
    """
    if masters.names and masters.names != frame.names:
        raise ValueError(f"channels differ: {masters.names} and {frame.names}")
    checksums = dict(masters.checksums)
    if checksum:
        checksums[frame.kind] = checksum
    base = replace(masters, names=frame.names, checksums=checksums)
    if frame.kind == "bias":
        return replace(base, bias=frame.image, bias_variance=frame.variance)
    if frame.kind == "dark":
        return replace(base, dark=frame.image, dark_variance=frame.variance)
    if frame.kind == "flat":
        return replace(
            base, flat=frame.image, flat_variance=frame.variance, band=frame.band or masters.band
        )
    if frame.kind == "defects":
        return replace(base, defects=frame.image)
    return replace(base, gain=frame.gain, read_noise=frame.read_noise)
