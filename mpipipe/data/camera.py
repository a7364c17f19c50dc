"""A camera: its detectors, their channels, and what its raw files and headers look like.

A camera is described by a TOML file (`mpipipe/data/cameras/*.toml` has the built-in ones), read by
`mpipipe.store.cameras` into the frozen values of this module. Nothing here opens files.

Layout of a CCD: it is read out through *channels* (amplifiers). `datasec`, `biassec` and
`prescan` are rectangles of the raw channel image; `detsec` is where the data land on the
assembled CCD, in unbinned pixels; a descending range in a section flips that axis.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from mpipipe.data.sections import Section


class Strict(BaseModel):
    """Base of everything read from TOML: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


def _section(value: object) -> object:
    return Section.parse(value) if isinstance(value, str) else value


SectionField = Annotated[Section, BeforeValidator(_section), PlainSerializer(str)]


class Need(StrEnum):
    """What a camera or a user asks of one correction."""

    REQUIRE = "require"
    IF_AVAILABLE = "if-available"
    OFF = "off"


class FileFormat(StrEnum):
    """How one read-out of one CCD is laid out in files."""

    CHANNEL_FILES = "channel-files"
    """One file per channel and snap, named by a pattern (the LSST image simulator)."""
    MEF = "mef"
    """One file per CCD or mosaic, an image extension per channel, sections in its header."""
    AMPS_IN_HDU = "amps-in-hdu"
    """Two amplifiers side by side in one HDU: DATASECA/B, BIASSECA/B (DECam, CFHT)."""
    SINGLE = "single"
    """One image, one channel, whole frame; sections optional."""


class Linearity(Strict):
    """Non-linearity of a channel.

    With `kind` ``polynomial``: linear = x + c0 x^2 + c1 x^3 + ..., x in ADU above overscan.
    With ``table``: `coefficients` are pairs (measured, linear) in ADU, interpolated linearly.
    """

    kind: Literal["none", "polynomial", "table"] = "none"
    coefficients: tuple[float, ...] = ()


class Channel(Strict):
    """One amplifier of a detector type. Sections of None are taken from the file's header."""

    name: str
    extension: str | int | None = None
    """EXTNAME (or number) of its HDU in a multi-extension file; None: same as `name`."""
    datasec: SectionField | None = None
    biassec: SectionField | None = None
    parallel_biassec: SectionField | None = None
    detsec: SectionField | None = None
    gain: float | None = Field(default=None, gt=0)
    """Electrons per ADU; None: from the header, or from photon transfer."""
    read_noise: float | None = Field(default=None, gt=0)
    """Electrons; None: measured from the overscan, or from bias frames."""
    saturation: float | None = Field(default=None, gt=0)
    """Raw ADU from which a pixel counts as saturated; None: header, else 65535."""
    linearity: Linearity = Linearity()


class DetectorType(Strict):
    """The make of a CCD: its size, channels and crosstalk."""

    size: tuple[int, int]
    """(nx, ny) of the assembled CCD in unbinned pixels."""
    channels: tuple[Channel, ...] = Field(min_length=1)
    overscan_skip: int = Field(default=0, ge=0)
    """Columns of the serial overscan next to the data that trail charge and are skipped."""
    crosstalk: tuple[tuple[float, ...], ...] | None = None
    """Matrix [victim][source]: fraction of the source channel's signal seen in the victim."""
    pixel_size_um: float = Field(default=10.0, gt=0)

    @model_validator(mode="after")
    def _crosstalk_is_square(self) -> DetectorType:
        n = len(self.channels)
        if self.crosstalk is not None and (
            len(self.crosstalk) != n or any(len(row) != n for row in self.crosstalk)
        ):
            raise ValueError(f"crosstalk must be a {n} x {n} matrix, one row per victim channel")
        return self


class Detector(Strict):
    """One CCD of the mosaic. Its `name` is what products call `ccd`."""

    name: str
    number: int = Field(ge=0, lt=1024)
    """Number within the camera: enters source ids, must never change."""
    type: str
    x_mm: float = 0.0
    y_mm: float = 0.0
    """Centre on the focal plane, millimetres."""
    rotation_deg: float = 0.0
    """Rotation of the CCD's x axis against the focal plane's, counter-clockwise."""
    hdus: tuple[str | int, ...] | None = None
    """For a file that holds a whole mosaic: the HDUs of this CCD."""


class Corrections(Strict):
    """What each correction of this camera asks of its master or table."""

    saturation: Need = Need.REQUIRE
    overscan: Need = Need.IF_AVAILABLE
    crosstalk: Need = Need.IF_AVAILABLE
    linearity: Need = Need.IF_AVAILABLE
    bias: Need = Need.IF_AVAILABLE
    dark: Need = Need.IF_AVAILABLE
    flat: Need = Need.IF_AVAILABLE
    defects: Need = Need.IF_AVAILABLE


class FileNames(Strict):
    """Where identity comes from when the header does not tell: a pattern on the file name.

    `pattern` is a regular expression with named groups out of visit, snap, raft, sensor, ccd,
    channel, filter; `detector` is a format over those groups, e.g. ``{raft}_{sensor}``.
    """

    pattern: str | None = None
    detector: str | None = None


class HeaderMap(Strict):
    """Header keys (first one found wins) of each quantity that mpipipe needs.

    A key may be written ``KEY`` or ``HDU:KEY``. `constants` supplies values no header has.
    """

    visit: tuple[str, ...] = ()
    snap: tuple[str, ...] = ()
    detector: tuple[str, ...] = ()
    filter: tuple[str, ...] = ("FILTER",)
    exposure_time: tuple[str, ...] = ("EXPTIME", "EXPOSURE")
    dark_time: tuple[str, ...] = ("DARKTIME",)
    date: tuple[str, ...] = ("DATE-OBS",)
    mjd: tuple[str, ...] = ("MJD-OBS",)
    image_type: tuple[str, ...] = ("IMAGETYP", "OBSTYPE", "IMGTYPE")
    gain: tuple[str, ...] = ("GAIN",)
    read_noise: tuple[str, ...] = ("RDNOISE",)
    saturation: tuple[str, ...] = ("SATURATE",)
    ra: tuple[str, ...] = ("RA",)
    dec: tuple[str, ...] = ("DEC",)
    airmass: tuple[str, ...] = ("AIRMASS",)
    binning: tuple[str, ...] = ("CCDSUM",)
    """``"2 2"``, or two keys (x then y) such as XBINNING, YBINNING."""
    time_system: Literal["UTC", "TAI"] = "UTC"
    constants: dict[str, str | float] = {}


class Camera(Strict):
    """A whole camera, as its TOML file describes it."""

    name: str
    description: str = ""
    kind: Literal["raw", "calibrated"] = "raw"
    """`calibrated`: frames were reduced elsewhere and enter at cs."""
    format: FileFormat
    pixel_scale: float = Field(gt=0)
    """Arcseconds per unbinned pixel at the field centre."""
    n_snaps: int = Field(default=1, ge=1)
    """Snaps that one visit is expected to have."""
    instrument: tuple[str, ...] = ()
    """Values of the INSTRUME key by which `plan` recognises this camera."""
    filters: dict[str, str] = {}
    """Filter name in the header to the band's name; names not listed are kept."""
    image_types: dict[str, Literal["science", "bias", "dark", "flat", "ignore"]] = {}
    """Value of the image-type key (lower case) to what mpipipe calls it."""
    file_names: FileNames = FileNames()
    header: HeaderMap = HeaderMap()
    corrections: Corrections = Corrections()
    flip_y_after_assembly: bool = False
    types: dict[str, DetectorType]
    detectors: tuple[Detector, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _detectors_are_sound(self) -> Camera:
        for detector in self.detectors:
            if detector.type not in self.types:
                raise ValueError(f"detector {detector.name!r} has unknown type {detector.type!r}")
        for what in ("name", "number"):
            values = [getattr(detector, what) for detector in self.detectors]
            double = {value for value in values if values.count(value) > 1}
            if double:
                raise ValueError(f"detector {what} used twice: {sorted(double)}")
        return self

    def detector(self, name: str) -> Detector:
        """The detector called `name`.

        Raises
        ------
        KeyError
            If the camera has none of that name.
        """
        for detector in self.detectors:
            if detector.name == name:
                return detector
        raise KeyError(f"camera {self.name!r} has no detector {name!r}")

    def type_of(self, detector: str | Detector) -> DetectorType:
        """The detector type of a detector (by name or value)."""
        if isinstance(detector, str):
            detector = self.detector(detector)
        return self.types[detector.type]
