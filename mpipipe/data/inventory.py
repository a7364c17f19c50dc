"""What a folder of raw files holds, as values: read-outs, visits, calibration frames, problems."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mpipipe.data.camera import Camera

ProblemKind = Literal[
    "missing channel",
    "missing snap",
    "double",
    "unreadable",
    "contradiction",
    "unknown detector",
    "unknown filter",
    "unknown type",
    "no visit",
]


@dataclass(frozen=True, slots=True)
class FrameFiles:
    """The files of one read-out of one CCD.

    Attributes
    ----------
    visit, snap, detector
        Which read-out it is.
    kind
        ``science``, ``bias``, ``dark`` or ``flat``.
    band
        Filter in mpipipe's words; empty for bias and dark.
    paths
        The files, in the camera's order of channels.
    channels
        The channel that each of them holds; empty for a file of the whole CCD (or mosaic).
    exposure_time
        Seconds; NaN if the header does not tell.
    mjd_start
        Start of the exposure, MJD (TAI); NaN if the header does not tell.
    n_bytes
        Sum of the files' sizes.
    """

    visit: int
    snap: int
    detector: str
    kind: str
    band: str
    paths: tuple[str, ...]
    channels: tuple[str, ...]
    exposure_time: float = float("nan")
    mjd_start: float = float("nan")
    n_bytes: int = 0


@dataclass(frozen=True, slots=True)
class VisitCcd:
    """One CCD of one visit: what one calibrate task works on. `snaps`: number to files."""

    visit: int
    detector: str
    band: str
    snaps: dict[int, FrameFiles]


@dataclass(frozen=True)
class CalibSet:
    """All frames of one kind for one CCD (and band): what one calibs task works on."""

    kind: str
    detector: str
    band: str
    frames: tuple[FrameFiles, ...]


@dataclass(frozen=True)
class Problem:
    """Something wrong with the input, which concerns one file or one read-out.

    Attributes
    ----------
    kind
        What sort of fault it is.
    reason, way_out
        What is wrong, and what to do.
    file
        The file concerned; empty if something is missing.
    key
        The header key concerned, if one is.
    visit, snap, detector
        The read-out concerned; -1 and empty where unknown.
    is_warning
        Whether the read-out is used all the same.
    """

    kind: ProblemKind
    reason: str
    way_out: str = ""
    file: str = ""
    key: str = ""
    visit: int = -1
    snap: int = -1
    detector: str = ""
    is_warning: bool = False

    def __str__(self) -> str:
        where = self.file
        if not where and self.visit >= 0:
            where = f"visit {self.visit}, {self.detector}, snap {self.snap}"
        text = f"{where}: {self.kind}: {self.reason}" if where else f"{self.kind}: {self.reason}"
        return f"{text} ({self.way_out})" if self.way_out else text


@dataclass(frozen=True)
class Inventory:
    """Everything found, in a fixed order that does not depend on how it was scanned.

    Attributes
    ----------
    camera
        The camera of all files.
    science
        By visit, then the camera's order of detectors.
    calibs
        By kind (bias, dark, flat), band, then the camera's order of detectors.
    problems
        By file, then read-out.
    n_files, n_cached
        FITS files looked at, and how many of them the index already knew.
    """

    camera: Camera
    science: list[VisitCcd] = field(default_factory=list)
    calibs: list[CalibSet] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    n_files: int = 0
    n_cached: int = 0
