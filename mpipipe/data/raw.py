"""Raw read-outs as values: what the readers give and the isr pipeline takes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mpipipe.data.camera import Linearity
from mpipipe.data.sections import Section


@dataclass(frozen=True)
class RawChannel:
    """One channel of one snap as read out, with its layout resolved from camera and header.

    Attributes
    ----------
    name
        Channel name.
    pixels
        (ny, nx) raw ADU including prescan and overscan, in the file's own integer or float type.
    datasec, biassec, parallel_biassec
        Rectangles of `pixels`; an overscan that does not exist is None.
    detsec
        Where the data land on the assembled (binned, windowed) CCD, in pixels of that image.
    gain, read_noise
        Electrons per ADU, electrons; None when neither camera nor header knows.
    saturation
        Raw ADU from which a pixel counts as saturated.
    dead
        Why the channel has no signal (every pixel is zero, say); empty for a live one. Its
        pixels must be masked as BAD and NO_DATA.
    """

    name: str
    pixels: np.ndarray
    datasec: Section
    biassec: Section | None
    parallel_biassec: Section | None
    detsec: Section
    gain: float | None
    read_noise: float | None
    saturation: float
    linearity: Linearity
    dead: str = ""


@dataclass(frozen=True)
class FrameInfo:
    """What identifies a read-out of one CCD, and the facts about its exposure.

    Attributes
    ----------
    visit
        Number of the visit, at most 14 digits (see `mpipipe.data.ids`).
    snap
        Number of the snap within the visit, from 0.
    detector
        Name of the CCD; `detector_number` its number within the camera.
    kind
        ``science``, ``bias``, ``dark`` or ``flat``.
    band
        Name of the filter in mpipipe's words; empty for bias and dark.
    exposure_time, dark_time
        Seconds.
    mjd_start
        Start of the exposure, MJD (TAI); NaN if the header does not tell.
    airmass
        NaN if unknown.
    ra, dec
        Rough pointing in degrees (ICRS); NaN if unknown.
    binning
        (x, y).
    header
        Cards of the primary header worth keeping: (key, value, comment).
    files
        Names of the files it was read from.
    """

    camera: str
    visit: int
    snap: int
    detector: str
    detector_number: int
    kind: str
    band: str
    exposure_time: float
    dark_time: float
    mjd_start: float
    airmass: float = float("nan")
    ra: float = float("nan")
    dec: float = float("nan")
    binning: tuple[int, int] = (1, 1)
    header: tuple[tuple[str, object, str], ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class RawFrame:
    """All channels of one CCD of one snap (or of one calibration exposure).

    `shape` is (ny, nx) of the assembled image; `wcs_header` holds the WCS cards for the
    *assembled* image (after the flip, if there is one) when the file has a usable WCS, else it
    is empty. `warnings` says what was doubtful in the headers and how it was taken.
    """

    info: FrameInfo
    channels: tuple[RawChannel, ...]
    shape: tuple[int, int]
    crosstalk: np.ndarray | None = None
    overscan_skip: int = 0
    flip_y_after_assembly: bool = False
    wcs_header: dict[str, object] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
