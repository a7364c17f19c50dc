"""Readers of raw frames: files of any known format to a `RawFrame` with its layout resolved.

Every fault of the input ends as `BadDataError` or `MissingInputError` that names file, key,
reason and way out. A CCD whose pixels are all zero or all saturated is bad data; a single
channel without signal is handed on as `dead`, with a warning, so that the rest of its CCD is
not lost. Nothing stays open or mapped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpipipe.data.camera import Camera, Channel, Detector, FileFormat
from mpipipe.data.errors import BadDataError, MissingInputError
from mpipipe.data.inventory import FrameFiles
from mpipipe.data.raw import FrameInfo, RawChannel, RawFrame
from mpipipe.data.sections import Section
from mpipipe.store.calibrated import read_calibrated
from mpipipe.store.channel_layout import ChannelLayout, place_on_image, resolve_layout
from mpipipe.store.fitsfile import FitsFile, Hdu, select_cards
from mpipipe.store.identity import Identity, identify, identity_keys, number
from mpipipe.store.wcs_cards import wcs_on_image

__all__ = ["FrameFiles", "read_calibrated", "read_frame"]

_SATURATION = 65535.0
"""Of a 16-bit converter: taken where neither camera nor header tells."""

_ALL_SATURATED = 0.99
"""Dead and vignetted pixels stay dark in a frame that is saturated all over."""

_STRUCTURE = frozenset((
    "SIMPLE", "XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "EXTEND", "PCOUNT",
    "GCOUNT", "BZERO", "BSCALE", "BLANK", "CHECKSUM", "DATASUM", "EXTNAME", "EXTVER", "TFIELDS",
    "INHERIT",
))  # fmt: skip
_NOT_KEPT_PREFIXES = (
    "DATASEC", "BIASSEC", "TRIMSEC", "DETSEC", "CTYPE", "CRVAL", "CRPIX", "CDELT", "CROTA",
    "CUNIT", "CD1_", "CD2_", "PC1_", "PC2_", "PV1_", "PV2_", "TFORM", "TTYPE", "ZIMAGE", "ZSIMPLE",
    "ZEXTEND", "ZBITPIX", "ZNAXIS", "ZTILE", "ZCMPTYPE", "ZNAME", "ZVAL", "WCSAXES",
)  # fmt: skip


@dataclass(frozen=True)
class _Piece:
    """One channel as found in a file, before its place on the image is known."""

    channel: Channel
    pixels: np.ndarray
    header: Mapping[str, Any]
    primary: Mapping[str, Any]
    path: str


def read_frame(files: FrameFiles, camera: Camera) -> RawFrame:
    """Read all channels of one CCD of one snap.

    Parameters
    ----------
    files
        Its files, as `mpipipe.store.scan.scan` finds them.
    camera
        The camera that wrote them.

    Returns
    -------
    RawFrame
        Pixels in the file's own type and native byte order.

    Raises
    ------
    MissingInputError
        If a channel is missing.
    BadDataError
        If a file can not be read or makes no sense: see the module's description.
    """
    try:
        detector = camera.detector(files.detector)
    except KeyError as error:
        raise BadDataError(str(error.args[0]), file=files.paths[0]) from error
    pieces, identity, cards = _read_pieces(files, camera, detector)
    binning = identity.binning
    layouts = [_layout(piece, camera, binning) for piece in pieces]
    placed, shape = _placed(layouts, binning, files)
    warnings: list[str] = []
    channels = tuple(
        _raw_channel(piece, layout, detsec, camera, warnings)
        for piece, layout, detsec in zip(pieces, layouts, placed, strict=True)
    )
    _check_signal(channels, files)
    kind = camera.type_of(detector)
    height = shape[0] if camera.flip_y_after_assembly else None
    return RawFrame(
        info=_info(files, identity, camera, detector, cards),
        channels=channels,
        shape=shape,
        crosstalk=None if kind.crosstalk is None else np.array(kind.crosstalk),
        overscan_skip=kind.overscan_skip,
        flip_y_after_assembly=camera.flip_y_after_assembly,
        wcs_header=_wcs(pieces, layouts, placed, height),
        warnings=tuple(warnings),
    )


def _read_pieces(
    files: FrameFiles, camera: Camera, detector: Detector
) -> tuple[list[_Piece], Identity, tuple[tuple[str, object, str], ...]]:
    _check_paths(files, camera, detector)
    pieces: list[_Piece] = []
    identity: Identity | None = None
    cards: tuple[tuple[str, object, str], ...] = ()
    for path, channel in zip(files.paths, files.channels, strict=True):
        with FitsFile(path) as file:
            header = select_cards(file.hdus, identity_keys(camera))
            told = _identified(header, path, camera)
            _check_identity(told, files, channel, path)
            if identity is None:
                identity, cards = told, tuple(_kept_cards(file.hdus))
            pieces += _pieces_of(file, channel, camera, detector)
            file.finish()
    if identity is None:
        raise MissingInputError("there is no file", way_out="scan the folder again")
    return pieces, identity, cards


def _check_paths(files: FrameFiles, camera: Camera, detector: Detector) -> None:
    seen: dict[str, str] = {}
    for path, name in zip(files.paths, files.channels, strict=True):
        if name in seen:
            what = f"channel {name!r}" if name else f"CCD {files.detector}"
            raise BadDataError(
                f"is a second file of {what}, visit {files.visit}, snap {files.snap}, "
                f"besides {Path(seen[name]).name}",
                file=path,
                way_out="take one of them away",
            )
        seen[name] = path
    if camera.format is FileFormat.CHANNEL_FILES:
        wanted = [channel.name for channel in camera.type_of(detector).channels]
        lost = [name for name in wanted if name not in seen]
        if lost:
            raise MissingInputError(
                f"visit {files.visit}, CCD {files.detector}, snap {files.snap}: "
                f"no file of channel {', '.join(lost)}",
                file=Path(files.paths[0]).parent if files.paths else None,
                way_out="add the missing files, then resume",
            )


def _identified(header: Mapping[str, Any], path: str, camera: Camera) -> Identity:
    try:
        return identify(header, Path(path).name, camera)
    except BadDataError as error:
        raise BadDataError(error.reason, file=path, key=error.key, way_out=error.way_out) from error


def _check_identity(told: Identity, files: FrameFiles, channel: str, path: str) -> None:
    pairs: tuple[tuple[str, object, object], ...] = (
        ("visit", told.visit if told.visit is not None else files.visit, files.visit),
        ("snap", told.snap, files.snap),
        ("detector", told.detector or files.detector, files.detector),
        ("channel", told.channel, channel),
        ("kind", told.kind, files.kind),
        ("band", told.band, files.band),
    )
    for what, found, expected in pairs:
        if found != expected:
            raise BadDataError(
                f"{what} is {found!r}, not {expected!r} as in the rest of the frame",
                file=path,
                way_out="has the file changed since it was scanned? Scan again",
            )


def _pieces_of(
    file: FitsFile, channel_name: str, camera: Camera, detector: Detector
) -> Iterator[_Piece]:
    """The channels that one file holds of a detector."""
    channels = camera.type_of(detector).channels
    primary, path = file.hdus[0].header, str(file.path)
    match camera.format:
        case FileFormat.CHANNEL_FILES:
            hdu = _first_image(file)
            wanted = [channel for channel in channels if channel.name == channel_name]
            yield _piece(file, hdu, wanted[0], primary, path)
        case FileFormat.SINGLE:
            hdu = _named_hdu(file, detector.hdus[0]) if detector.hdus else _first_image(file)
            yield _piece(file, hdu, channels[0], primary, path)
        case FileFormat.AMPS_IN_HDU:
            hdu = _named_hdu(file, detector.hdus[0]) if detector.hdus else _first_image(file)
            pixels = _pixels(file, hdu)
            for channel in channels:
                yield _Piece(channel, pixels, hdu.header, primary, path)
        case FileFormat.MEF:
            for index, channel in enumerate(channels):
                if detector.hdus is not None and index < len(detector.hdus):
                    where = detector.hdus[index]
                else:
                    where = channel.name if channel.extension is None else channel.extension
                yield _piece(file, _named_hdu(file, where), channel, primary, path)


def _piece(
    file: FitsFile, hdu: Hdu, channel: Channel, primary: Mapping[str, Any], path: str
) -> _Piece:
    return _Piece(channel, _pixels(file, hdu), hdu.header, primary, path)


def _pixels(file: FitsFile, hdu: Hdu) -> np.ndarray:
    shape = [n for n in hdu.shape if n != 1]
    if len(shape) != 2:
        raise BadDataError(
            f"HDU {hdu.index} ({hdu.name}) holds {'no image' if not hdu.shape else hdu.shape}",
            file=file.path,
            key="NAXIS",
            way_out="a raw channel is an image of two axes",
        )
    pixels = file.data(hdu).reshape(shape)
    if pixels.dtype.itemsize == 1:
        raise BadDataError(
            f"HDU {hdu.index} ({hdu.name}) has 8-bit pixels, which is no raw frame",
            file=file.path,
            key="BITPIX",
        )
    if pixels.dtype.kind == "f" and not np.isfinite(pixels.sum(dtype=np.float64)):
        n_bad = int(np.count_nonzero(~np.isfinite(pixels)))
        raise BadDataError(
            f"HDU {hdu.index} ({hdu.name}) has {n_bad} pixels that are NaN, infinite or blank",
            file=file.path,
            way_out="a raw frame has none: was it processed before? Then describe its camera "
            'with kind = "calibrated"',
        )
    return pixels


def _first_image(file: FitsFile) -> Hdu:
    for hdu in file.hdus:
        if hdu.shape:
            return hdu
    raise BadDataError("has no image", file=file.path)


def _named_hdu(file: FitsFile, extension: str | int) -> Hdu:
    hdu = file.find(extension)
    if hdu is None:
        raise MissingInputError(
            f"has no HDU {extension!r}",
            file=file.path,
            way_out="is it a whole frame of this camera? See --camera",
        )
    return hdu


def _layout(piece: _Piece, camera: Camera, binning: tuple[int, int]) -> ChannelLayout:
    try:
        return resolve_layout(piece.header, piece.pixels.shape, piece.channel, camera, binning)
    except BadDataError as error:
        raise BadDataError(
            error.reason, file=piece.path, key=error.key, way_out=error.way_out
        ) from error


def _placed(
    layouts: list[ChannelLayout], binning: tuple[int, int], files: FrameFiles
) -> tuple[list[Section], tuple[int, int]]:
    try:
        return place_on_image(layouts, binning)
    except BadDataError as error:
        raise BadDataError(
            error.reason, file=files.paths[0], key=error.key, way_out=error.way_out
        ) from error


def _raw_channel(
    piece: _Piece, layout: ChannelLayout, detsec: Section, camera: Camera, warnings: list[str]
) -> RawChannel:
    channel = piece.channel
    suffix = channel.name if camera.format is FileFormat.AMPS_IN_HDU else ""

    def known(described: float | None, quantity: str) -> float | None:
        if described is not None:
            return described
        for header in (piece.header, piece.primary):
            value = number(header, camera, quantity, suffix)
            if value > 0.0 and math.isfinite(value):
                return value
        return None

    dead = _dead(piece.pixels[layout.datasec.slices])
    if dead:
        warnings.append(f"{Path(piece.path).name}: channel {channel.name} is dead: {dead}")
    return RawChannel(
        name=channel.name,
        pixels=piece.pixels,
        datasec=layout.datasec,
        biassec=layout.biassec,
        parallel_biassec=layout.parallel_biassec,
        detsec=detsec,
        gain=known(channel.gain, "gain"),
        read_noise=known(channel.read_noise, "read_noise"),
        saturation=known(channel.saturation, "saturation") or _SATURATION,
        linearity=channel.linearity,
        dead=dead,
    )


def _dead(data: np.ndarray) -> str:
    low, high = data.min(), data.max()
    if low != high:
        return ""
    return "every pixel is zero" if low == 0 else f"every pixel is {low}"


def _check_signal(channels: tuple[RawChannel, ...], files: FrameFiles) -> None:
    """Refuse a CCD without any signal."""
    if all(channel.dead for channel in channels):
        reason = channels[0].dead
        raise BadDataError(
            f"{reason}, on the whole CCD {files.detector}",
            file=files.paths[0],
            way_out="the frame holds no data: leave it out",
        )
    if files.kind == "bias":
        return
    if all(_saturated_part(channel) > _ALL_SATURATED for channel in channels):
        raise BadDataError(
            f"CCD {files.detector} is saturated all over",
            file=files.paths[0],
            key="SATURATE",
            way_out="leave the frame out, or correct the saturation level",
        )


def _saturated_part(channel: RawChannel) -> float:
    """The saturated part of a channel's data, from every eighth pixel each way."""
    return float((channel.pixels[channel.datasec.slices][::8, ::8] >= channel.saturation).mean())


def _info(
    files: FrameFiles,
    identity: Identity,
    camera: Camera,
    detector: Detector,
    cards: tuple[tuple[str, object, str], ...],
) -> FrameInfo:
    if not identity.exposure_time >= 0.0:
        value = identity.exposure_time
        raise BadDataError(
            "there is no exposure time" if math.isnan(value) else f"exposure time of {value} s",
            file=files.paths[0],
            key=camera.header.exposure_time[0] if camera.header.exposure_time else None,
            way_out="mend the header, or set header.exposure_time or "
            "header.constants.exposure_time in the camera description",
        )
    return FrameInfo(
        camera=camera.name,
        visit=files.visit,
        snap=files.snap,
        detector=detector.name,
        detector_number=detector.number,
        kind=files.kind,
        band=files.band,
        exposure_time=identity.exposure_time,
        dark_time=identity.dark_time,
        mjd_start=identity.mjd_start,
        airmass=identity.airmass,
        ra=identity.ra,
        dec=identity.dec,
        binning=identity.binning,
        header=cards,
        files=tuple(Path(path).name for path in files.paths),
    )


def _kept_cards(hdus: list[Hdu]) -> Iterator[tuple[str, object, str]]:
    """Cards of the primary header worth keeping; of the first extension if that one is bare."""
    header = hdus[0].header
    if len(hdus) > 1 and all(key in _STRUCTURE for key in header):
        header = hdus[1].header
    for key, value, comment in header.cards():
        if key not in _STRUCTURE and not key.startswith(_NOT_KEPT_PREFIXES):
            yield key, value, comment


def _wcs(
    pieces: list[_Piece], layouts: list[ChannelLayout], placed: list[Section], height: int | None
) -> dict[str, object]:
    """From the first channel that has one; else the primary's, which means the whole image."""
    for piece, layout, detsec in zip(pieces, layouts, placed, strict=True):
        cards = wcs_on_image(piece.header, layout.datasec, detsec, height)
        if cards:
            return cards
    whole = Section(0, max(s.x1 for s in placed), 0, max(s.y1 for s in placed))
    return wcs_on_image(pieces[0].primary, whole, whole, height)
