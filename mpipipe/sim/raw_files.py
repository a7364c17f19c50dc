"""Raw frames in files, as observatories write them: four layouts, chosen by the camera."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpipipe.data.camera import Camera, Channel, FileFormat
from mpipipe.data.errors import OutputError
from mpipipe.sim.astrometry import CcdWcs
from mpipipe.sim.instrument import Chip
from mpipipe.sim.readout import canvases
from mpipipe.store.checksums import aside_of

if TYPE_CHECKING:
    from astropy.io import fits

_TYPE_WORDS = {"science": "object", "bias": "bias", "dark": "dark", "flat": "flat"}


@dataclass(frozen=True)
class RawIdentity:
    """What the header of a raw frame says of it.

    Attributes
    ----------
    kind
        ``science``, ``bias``, ``dark`` or ``flat``.
    band
        Empty for bias and dark.
    mjd
        Start of the snap, MJD (TAI).
    wcs
        WCS of the assembled CCD, or None.
    """

    kind: str
    visit: int
    snap: int
    band: str
    exposure_time: float
    mjd: float
    airmass: float = 1.0
    ra: float = 0.0
    dec: float = 0.0
    wcs: CcdWcs | None = None


def write_raw(
    folder: Path,
    camera: Camera,
    chip: Chip,
    identity: RawIdentity,
    images: list[np.ndarray],
    *,
    compress: bool,
) -> list[Path]:
    """Write one read-out of one CCD in the camera's format; return the files.

    Raises
    ------
    OutputError
        If a file can not be written; nothing half-written keeps a final name.
    """
    from astropy.io import fits

    suffix = ".fits.gz" if compress else ".fits"
    common = common_cards(camera, chip, identity)
    written = []
    if camera.format == FileFormat.CHANNEL_FILES:
        for canvas, image in zip(canvases(chip, camera.format), images, strict=True):
            channel = chip.kind.channels[canvas.channels[0]]
            hdu = fits.PrimaryHDU(image)
            _put(hdu.header, common)
            _put(hdu.header, _channel_cards(camera, channel, "", identity.wcs))
            name = _channel_file_name(chip, channel, identity) + suffix
            written.append(_write(folder / name, fits.HDUList([hdu]), compress))
        return written
    name = f"{camera.name}_{identity.visit}_{chip.detector.name}_E{identity.snap:03d}{suffix}"
    if camera.format == FileFormat.SINGLE:
        hdu = fits.PrimaryHDU(images[0])
        _put(hdu.header, common)
        _put(hdu.header, _channel_cards(camera, chip.kind.channels[0], "", identity.wcs))
        return [_write(folder / name, fits.HDUList([hdu]), compress)]
    primary = fits.PrimaryHDU()
    _put(primary.header, common)
    hdus: list[Any] = [primary]
    for canvas, image in zip(canvases(chip, camera.format), images, strict=True):
        members = [chip.kind.channels[index] for index in canvas.channels]
        shared = camera.format == FileFormat.AMPS_IN_HDU
        label = chip.detector.name if shared else str(members[0].extension or members[0].name)
        hdu = fits.ImageHDU(image, name=label)
        for channel in members:
            tail = channel.name if shared else ""
            _put(hdu.header, _channel_cards(camera, channel, tail, identity.wcs))
        hdus.append(hdu)
    return [_write(folder / name, fits.HDUList(hdus), compress)]


def _channel_file_name(chip: Chip, channel: Channel, identity: RawIdentity) -> str:
    """``imsim_VISIT_RAFT_SENSOR_CHANNEL_E00S``, as the LSST image simulator named its files."""
    return f"imsim_{identity.visit}_{chip.detector.name}_{channel.name}_E{identity.snap:03d}"


def common_cards(camera: Camera, chip: Chip, identity: RawIdentity) -> dict[str, object]:
    """Cards of a whole exposure under the keys that the camera's description reads."""
    from astropy.time import Time

    names = camera.header
    start = Time(identity.mjd, format="mjd", scale="tai")
    date = start if names.time_system == "TAI" else start.utc
    filters = {band: name for name, band in camera.filters.items()}
    types: dict[str, str] = {kind: word for word, kind in camera.image_types.items()}
    kind = types.get(identity.kind, _TYPE_WORDS[identity.kind])
    values: dict[tuple[str, ...], object] = {
        names.visit: identity.visit,
        names.snap: identity.snap,
        names.detector: chip.detector.name,
        names.filter: filters.get(identity.band, identity.band),
        names.exposure_time: identity.exposure_time,
        names.dark_time: identity.exposure_time,
        names.mjd: float(date.mjd),
        names.date: date.isot,
        names.image_type: kind.upper(),
        names.airmass: identity.airmass,
    }
    if identity.kind == "science":
        values |= {names.ra: identity.ra, names.dec: identity.dec}
    cards = {_key(keys): value for keys, value in values.items() if keys}
    cards["INSTRUME"] = camera.instrument[0] if camera.instrument else camera.name
    cards["TIMESYS"] = names.time_system
    return cards


def _key(keys: tuple[str, ...]) -> str:
    """The first of a quantity's keys, without the HDU that may stand before it."""
    return keys[0].rpartition(":")[2]


def _channel_cards(
    camera: Camera, channel: Channel, tail: str, wcs: CcdWcs | None
) -> dict[str, object]:
    """Cards of one channel; `tail` is appended to the keys where channels share an HDU."""
    names = camera.header
    cards: dict[str, object] = {}
    if names.channel and not tail:
        cards[_key(names.channel)] = channel.name
    values: dict[tuple[str, ...], object] = {
        names.gain: channel.gain,
        names.read_noise: channel.read_noise,
        names.saturation: channel.saturation,
        names.datasec: str(channel.datasec),
        names.biassec: str(channel.biassec),
        names.detsec: str(channel.detsec),
    }
    for keys, value in values.items():
        if keys and value is not None:
            key = _key(keys)
            cards[key[: 8 - len(tail)] + tail] = value
    if wcs is not None and tail in ("", "A"):
        cards |= channel_wcs(channel, wcs).cards()
    return cards


def channel_wcs(channel: Channel, wcs: CcdWcs) -> CcdWcs:
    """The WCS (without distortion) of a channel's raw image, from that of the assembled CCD."""
    data, place = channel.datasec, channel.detsec
    assert data is not None and place is not None
    if data.flip_x != place.flip_x:
        x0, sign_x = data.x0 + (place.x1 - 1 - wcs.x0), -1.0
    else:
        x0, sign_x = data.x0 + (wcs.x0 - place.x0), 1.0
    if data.flip_y != place.flip_y:
        y0, sign_y = data.y0 + (place.y1 - 1 - wcs.y0), -1.0
    else:
        y0, sign_y = data.y0 + (wcs.y0 - place.y0), 1.0
    cd = wcs.cd @ np.diag([sign_x, sign_y])
    return CcdWcs(wcs.ra, wcs.dec, x0, y0, cd, wcs.a, wcs.b)


def _put(header: fits.Header, cards: Mapping[str, object]) -> None:
    for key, value in cards.items():
        header[key] = value


def _write(path: Path, hdus: fits.HDUList, compress: bool) -> Path:
    """Write aside and rename. Not synced: a resumed simulation checks sizes, and may redo."""
    buffer = io.BytesIO()
    hdus.writeto(buffer)
    content: bytes | memoryview = buffer.getbuffer()
    if compress:
        content = gzip.compress(content, 1, mtime=0)
    aside = aside_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(content)
        os.replace(aside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise OutputError(
            f"can not be written: {error.strerror}",
            file=path,
            way_out="make space or mend permissions, then run the same command again",
        ) from error
    return path
