"""Where the parts of a raw channel are, and where its data land on the CCD.

Sections come from the camera description where it has them, else from the header. Headers are
not believed blindly: every rectangle must lie in the image, and data and CCD section must fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mpipipe.data.camera import Camera, Channel, FileFormat
from mpipipe.data.errors import BadDataError
from mpipipe.data.sections import Section
from mpipipe.store.identity import lookup

_UNKNOWN = frozenset({"", "UNKNOWN", "N/A", "NONE"})


@dataclass(frozen=True)
class ChannelLayout:
    """Rectangles of one channel; `detsec` in unbinned pixels of the whole CCD or mosaic."""

    datasec: Section
    biassec: Section | None
    parallel_biassec: Section | None
    detsec: Section


def resolve_layout(
    header: Mapping[str, Any],
    shape: tuple[int, ...],
    channel: Channel,
    camera: Camera,
    binning: tuple[int, int],
) -> ChannelLayout:
    """The layout of one channel.

    Parameters
    ----------
    header
        Header of its HDU.
    shape
        (ny, nx) of the raw image.
    channel
        Its description.
    binning
        (x, y); sections in the camera description count unbinned pixels.

    Raises
    ------
    BadDataError
        If a section is missing, is none, leaves the image, or has another size than the place
        on the CCD where it should land.
    """
    suffix = channel.name if camera.format is FileFormat.AMPS_IN_HDU else ""
    _check_size(shape, channel, binning)
    datasec = _datasec(header, shape, channel, camera, binning, suffix)
    biassec = _in_image("biassec", header, shape, channel.biassec, camera, binning, suffix)
    if biassec is not None and _overlap(biassec, datasec):
        raise BadDataError(
            f"channel {channel.name!r}: bias section {biassec} overlaps data {datasec}",
            key=_key(camera, "biassec", suffix),
            way_out="correct the header, or give datasec and biassec in the camera description",
        )
    parallel = _in_image("", header, shape, channel.parallel_biassec, camera, binning, suffix)
    detsec = _detsec(header, datasec, channel, camera, binning, suffix)
    return ChannelLayout(datasec, biassec, parallel, detsec)


def place_on_image(
    layouts: Sequence[ChannelLayout], binning: tuple[int, int]
) -> tuple[list[Section], tuple[int, int]]:
    """CCD sections in pixels of the assembled (binned, windowed) image, and its shape (ny, nx).

    The image begins at the lowest pixel that any channel covers.

    Raises
    ------
    BadDataError
        If channels overlap.
    """
    x0 = min(layout.detsec.x0 for layout in layouts)
    y0 = min(layout.detsec.y0 for layout in layouts)
    placed = [layout.detsec.shifted(-x0, -y0).binned(*binning) for layout in layouts]
    for index, one in enumerate(placed):
        for other in placed[:index]:
            if _overlap(one, other):
                raise BadDataError(
                    f"two channels claim the same pixels of the CCD: {one} and {other}",
                    key="DETSEC",
                    way_out="correct the headers, or give detsec in the camera description",
                )
    return placed, (max(section.y1 for section in placed), max(section.x1 for section in placed))


def _check_size(shape: tuple[int, ...], channel: Channel, binning: tuple[int, int]) -> None:
    if len(shape) != 2:
        raise BadDataError(f"channel {channel.name!r} has {len(shape)} axes, not 2", key="NAXIS")
    if channel.raw_size is not None and binning == (1, 1) and shape != channel.raw_size[::-1]:
        raise BadDataError(
            f"channel {channel.name!r} has {shape[1]} x {shape[0]} pixels, "
            f"not {channel.raw_size[0]} x {channel.raw_size[1]}",
            key="NAXIS1",
            way_out="is it a frame of this camera, read out in full? See --camera",
        )


def _datasec(
    header: Mapping[str, Any],
    shape: tuple[int, ...],
    channel: Channel,
    camera: Camera,
    binning: tuple[int, int],
    suffix: str,
) -> Section:
    found = _in_image("datasec", header, shape, channel.datasec, camera, binning, suffix)
    whole = Section(0, shape[1], 0, shape[0])
    if channel.datasec is None and (found is None or found.shape == whole.shape):
        # Some writers let DATASEC span the prescan and overscan, and put the data in TRIMSEC.
        found = _in_image("trimsec", header, shape, None, camera, binning, suffix) or found
    if found is not None:
        return found
    if camera.format is FileFormat.SINGLE:
        return whole
    raise BadDataError(
        f"channel {channel.name!r} has no data section",
        key=_key(camera, "datasec", suffix),
        way_out="give datasec of this channel in the camera description",
    )


def _detsec(
    header: Mapping[str, Any],
    datasec: Section,
    channel: Channel,
    camera: Camera,
    binning: tuple[int, int],
    suffix: str,
) -> Section:
    key = _key(camera, "detsec", suffix)
    detsec = channel.detsec
    if detsec is None:
        detsec = _from_header("detsec", header, camera, suffix)
    if detsec is None and camera.format is FileFormat.SINGLE:
        ny, nx = datasec.shape
        detsec = Section(0, nx * binning[0], 0, ny * binning[1])
    if detsec is None:
        raise BadDataError(
            f"channel {channel.name!r}: nothing tells where it lies on the CCD",
            key=key,
            way_out="give detsec of this channel in the camera description",
        )
    local = detsec.shifted(-detsec.x0, -detsec.y0).binned(*binning)
    if local.shape != datasec.shape:
        raise BadDataError(
            f"channel {channel.name!r}: data {datasec} and its place on the CCD {detsec}, binned "
            f"{binning[0]} x {binning[1]}, differ in size",
            key=key,
            way_out="correct the header, or give the sections in the camera description",
        )
    return detsec


def _in_image(
    quantity: str,
    header: Mapping[str, Any],
    shape: tuple[int, ...],
    described: Section | None,
    camera: Camera,
    binning: tuple[int, int],
    suffix: str,
) -> Section | None:
    """A section from the description (then binned) or the header, proved to lie in the image."""
    if described is not None:
        section: Section | None = described.binned(*binning)
    elif quantity:
        section = _from_header(quantity, header, camera, suffix)
    else:
        return None
    if section is not None and not section.fits_in(shape):
        source = "of the camera description" if described is not None else "of the header"
        raise BadDataError(
            f"section {section} {source} leaves the image of {shape[1]} x {shape[0]} pixels",
            key=_key(camera, quantity, suffix) if quantity else None,
            way_out="is it a frame of this camera? Else give sections in a camera description",
        )
    return section


def _from_header(
    quantity: str, header: Mapping[str, Any], camera: Camera, suffix: str
) -> Section | None:
    text = lookup(header, camera, quantity, suffix)
    if text is None or str(text).strip().upper() in _UNKNOWN:
        return None
    try:
        return Section.parse(text)
    except BadDataError as error:
        raise BadDataError(
            error.reason, key=_key(camera, quantity, suffix), way_out=error.way_out
        ) from error


def _key(camera: Camera, quantity: str, suffix: str) -> str | None:
    keys = getattr(camera.header, quantity)
    return f"{keys[0]}{suffix}" if keys else None


def _overlap(a: Section, b: Section) -> bool:
    return a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1
