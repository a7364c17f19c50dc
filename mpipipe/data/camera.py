"""A camera: its detectors, their channels, and what its raw files and headers look like.

A camera is described by a TOML file (`mpipipe/data/cameras/*.toml` has the built-in ones), read by
`mpipipe.store.cameras` into the frozen values of this module. Nothing here opens files.

Layout of a CCD: it is read out through *channels* (amplifiers). `datasec`, `biassec` and
`prescan` are rectangles of the raw channel image; `detsec` is where the data land on the
assembled CCD, in unbinned pixels; a descending range in a section flips that axis.
"""

from __future__ import annotations

import re
from enum import StrEnum
from string import Formatter
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    field_validator,
    model_validator,
)

from mpipipe.data.errors import BadDataError
from mpipipe.data.sections import Section


class Strict(BaseModel):
    """Base of everything read from TOML: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


def _section(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return Section.parse(value)
    except BadDataError as error:
        # pydantic collects ValueErrors and adds the key.
        raise ValueError(str(error)) from error


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
    raw_size: tuple[int, int] | None = None
    """(nx, ny) of the raw image, overscan included; None: any that holds the sections."""
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


PerChannel = float | tuple[float, ...] | None
"""One value for all channels of a grid, or one for each."""


class ChannelGrid(Strict):
    """Channels in equal rectangles over the CCD: the short form of a list of channels.

    A raw channel is, from its read-out corner, ``prescan | data | overscan`` in x and
    ``parallel_prescan | data | parallel_overscan`` in y. The bias section is the overscan, or,
    where there is none, the prescan.
    """

    columns: int = Field(ge=1)
    rows: int = Field(ge=1)
    names: tuple[str, ...] = Field(min_length=1)
    """Row by row from the bottom of the CCD, each from left to right."""
    data: tuple[int, int]
    """(nx, ny) of one channel's data."""
    prescan: int = Field(default=0, ge=0)
    overscan: int = Field(default=0, ge=0)
    parallel_prescan: int = Field(default=0, ge=0)
    parallel_overscan: int = Field(default=0, ge=0)
    flip_x: tuple[bool, ...] = ()
    flip_y: tuple[bool, ...] = ()
    """One a row, from the bottom; none: no flip."""
    extension: str = "{name}"
    """EXTNAME of a channel's HDU."""
    gain: PerChannel = None
    read_noise: PerChannel = None
    saturation: PerChannel = None
    linearity: Linearity = Linearity()

    @model_validator(mode="after")
    def _lengths_fit(self) -> ChannelGrid:
        n = self.columns * self.rows
        if len(self.names) != n:
            raise ValueError(f"names must have {n} entries ({self.columns} x {self.rows})")
        for key in ("flip_x", "flip_y"):
            if len(getattr(self, key)) not in (0, self.rows):
                raise ValueError(f"{key} must have one entry a row: {self.rows}")
        for key in ("gain", "read_noise", "saturation"):
            value = getattr(self, key)
            if isinstance(value, tuple) and len(value) != n:
                raise ValueError(f"{key} must be one number or {n}")
        return self

    def channels(self) -> tuple[Channel, ...]:
        """The channels, in the order of `names`."""
        return tuple(self._channel(i) for i in range(len(self.names)))

    def _channel(self, index: int) -> Channel:
        row, column = divmod(index, self.columns)
        nx, ny = self.data
        data = Section(
            self.prescan, self.prescan + nx, self.parallel_prescan, self.parallel_prescan + ny
        )
        bias = parallel = None
        if self.overscan:
            bias = Section(data.x1, data.x1 + self.overscan, data.y0, data.y1)
        elif self.prescan:
            bias = Section(0, self.prescan, data.y0, data.y1)
        if self.parallel_overscan:
            parallel = Section(data.x0, data.x1, data.y1, data.y1 + self.parallel_overscan)
        return Channel(
            name=self.names[index],
            extension=self.extension.format(name=self.names[index]),
            raw_size=(
                self.prescan + nx + self.overscan,
                self.parallel_prescan + ny + self.parallel_overscan,
            ),
            datasec=data,
            biassec=bias,
            parallel_biassec=parallel,
            detsec=Section(
                column * nx,
                (column + 1) * nx,
                row * ny,
                (row + 1) * ny,
                flip_x=bool(self.flip_x) and self.flip_x[row],
                flip_y=bool(self.flip_y) and self.flip_y[row],
            ),
            gain=_of_channel(self.gain, index),
            read_noise=_of_channel(self.read_noise, index),
            saturation=_of_channel(self.saturation, index),
            linearity=self.linearity,
        )


def _of_channel(value: PerChannel, index: int) -> float | None:
    return value[index] if isinstance(value, tuple) else value


class DetectorType(Strict):
    """The make of a CCD: its size, channels and crosstalk."""

    size: tuple[int, int]
    """(nx, ny) of the assembled CCD in unbinned pixels."""
    channels: tuple[Channel, ...] = ()
    grid: ChannelGrid | None = None
    """Short form of `channels`; None once they are made."""
    overscan_skip: int = Field(default=0, ge=0)
    """Columns of the serial overscan next to the data that trail charge and are skipped."""
    crosstalk: tuple[tuple[float, ...], ...] | None = None
    """Matrix [victim][source]: fraction of the source channel's signal seen in the victim."""
    pixel_size_um: float = Field(default=10.0, gt=0)

    @model_validator(mode="after")
    def _channels_are_sound(self) -> DetectorType:
        if (self.grid is None) == (not self.channels):
            raise ValueError("give either channels or a grid that makes them")
        if self.grid is not None:
            # The model is frozen for everybody else; from here on it holds channels alone.
            object.__setattr__(self, "channels", self.grid.channels())
            object.__setattr__(self, "grid", None)
        names = [channel.name for channel in self.channels]
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise ValueError(f"channel name used twice: {', '.join(double)}")
        for channel in self.channels:
            if channel.detsec is not None and not channel.detsec.fits_in(self.size[::-1]):
                raise ValueError(
                    f"detsec {channel.detsec} of channel {channel.name!r} leaves the CCD, "
                    f"whose size is {self.size[0]} x {self.size[1]}"
                )
        return self

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


class DetectorGrid(Strict):
    """Detectors at a regular pitch, alone or once for each of several groups (rafts)."""

    type: str
    name: str
    """Format over group, row and column (from 0), e.g. ``{group}_S{row}{column}``."""
    columns: int = Field(ge=1)
    rows: int = Field(ge=1)
    pitch_mm: tuple[float, float]
    groups: dict[str, tuple[float, float]] = {"": (0.0, 0.0)}
    """Name of each group to its centre on the focal plane, millimetres."""
    first_numbers: tuple[int, ...] = (0,)
    """Number of the first detector of each group; of the first group alone: they go on."""
    rotation_deg: float = 0.0

    @model_validator(mode="after")
    def _numbers_fit(self) -> DetectorGrid:
        if len(self.first_numbers) not in (1, len(self.groups)):
            raise ValueError(f"first_numbers must have 1 or {len(self.groups)} entries")
        return self

    def detectors(self) -> tuple[Detector, ...]:
        """The detectors, group by group, row by row."""
        n = self.rows * self.columns
        made = []
        for index, (group, (x, y)) in enumerate(self.groups.items()):
            if len(self.first_numbers) > 1:
                first = self.first_numbers[index]
            else:
                first = self.first_numbers[0] + n * index
            for i in range(n):
                row, column = divmod(i, self.columns)
                made.append(
                    Detector(
                        name=self.name.format(group=group, row=row, column=column),
                        number=first + i,
                        type=self.type,
                        x_mm=round(x + (column - (self.columns - 1) / 2) * self.pitch_mm[0], 6),
                        y_mm=round(y + (row - (self.rows - 1) / 2) * self.pitch_mm[1], 6),
                        rotation_deg=self.rotation_deg,
                    )
                )
        return tuple(made)


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

    @model_validator(mode="after")
    def _pattern_works(self) -> FileNames:
        if self.pattern is None:
            return self
        try:
            groups = set(re.compile(self.pattern).groupindex)
        except re.error as error:
            raise ValueError(f"pattern is no regular expression: {error}") from error
        known = {"visit", "snap", "raft", "sensor", "ccd", "channel", "filter"}
        if groups - known:
            raise ValueError(
                f"pattern has group {min(groups - known)!r}; known: {', '.join(sorted(known))}"
            )
        fields = {field for _, field, _, _ in Formatter().parse(self.detector or "") if field}
        if fields - groups:
            raise ValueError(f"detector uses {min(fields - groups)!r}, which pattern has not")
        return self


class HeaderMap(Strict):
    """Header keys (first one found wins) of each quantity that mpipipe needs.

    A key that tells what a file is may be written ``KEY``, ``HDU:KEY``, or as a format over keys,
    e.g. ``{RAFTBAY}_{CCDSLOT}``. `constants` supplies, by the quantity's name here, values
    that no header has. Where two amplifiers share an HDU, the channel's name is appended to the
    keys of sections, gain, read noise and saturation (``DATASEC`` + ``A``).
    """

    visit: tuple[str, ...] = ()
    """Only the last 14 digits count. None found: the start of the exposure, YYYYMMDDhhmmss."""
    snap: tuple[str, ...] = ()
    detector: tuple[str, ...] = ()
    channel: tuple[str, ...] = ()
    """In files of one channel each."""
    datasec: tuple[str, ...] = ("DATASEC",)
    trimsec: tuple[str, ...] = ("TRIMSEC",)
    """Tells the data where `datasec` is absent or spans the whole image."""
    biassec: tuple[str, ...] = ("BIASSEC",)
    detsec: tuple[str, ...] = ("DETSEC",)
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
    """A key with ``"2 2"``, or two keys (x then y) such as XBINNING, YBINNING, or both."""
    time_system: Literal["UTC", "TAI"] = "UTC"
    constants: dict[str, str | float] = {}

    @model_validator(mode="after")
    def _constants_are_known(self) -> HeaderMap:
        known = set(type(self).model_fields) - {"constants", "time_system"}
        unknown = sorted(set(self.constants) - known)
        if unknown:
            raise ValueError(
                f"constants: {unknown[0]!r} is no quantity; known: {', '.join(sorted(known))}"
            )
        return self


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
    """Values of the INSTRUME key by which `plan` recognises this camera; ``*`` and ``?`` match."""
    recognise: dict[str, tuple[str, ...]] = {}
    """Further keys that must have one of these values, e.g. ``TELESCOP = ["ARCSAT*"]``."""
    filters: dict[str, str] = {}
    """Filter name in the header to the band's name; others are kept, and noted as unknown.

    Without this table any filter name is taken as it is.
    """
    image_types: dict[str, Literal["science", "bias", "dark", "flat", "ignore"]] = {}
    """Value of the image-type key (lower case) to what mpipipe calls it."""
    file_names: FileNames = FileNames()
    header: HeaderMap = HeaderMap()
    corrections: Corrections = Corrections()
    flip_y_after_assembly: bool = False
    types: dict[str, DetectorType]
    detectors: tuple[Detector, ...] = ()
    detector_grids: tuple[DetectorGrid, ...] = ()
    """Short form of further `detectors`; empty once they are made."""

    @field_validator("image_types", mode="before")
    @classmethod
    def _image_types_in_lower_case(cls, value: object) -> object:
        return {str(k).lower(): v for k, v in value.items()} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _detectors_are_sound(self) -> Camera:
        made = [detector for grid in self.detector_grids for detector in grid.detectors()]
        # The model is frozen for everybody else; from here on it holds detectors alone.
        object.__setattr__(self, "detectors", (*self.detectors, *made))
        object.__setattr__(self, "detector_grids", ())
        if not self.detectors:
            raise ValueError("there must be a detector: give detectors or detector_grids")
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
