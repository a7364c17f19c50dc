"""Master calibrations as FITS: one file per kind, CCD and (for flats) band.

A file holds the channels as a cube in read-out order (IMAGE, or MASK for defects), its VARIANCE,
a table CHANNELS with gain and read noise, and a table PROVENANCE with the checksum of every
input. Headers hold only what follows from the content.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mpipipe.data import mask as mask_planes
from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import Masters
from mpipipe.data.masters import KINDS, Kind, MasterFrame, with_master
from mpipipe.store.checksums import sha256_file
from mpipipe.store.fits import open_fits, write_fits_atomically
from mpipipe.store.fitsfile import FitsFile
from mpipipe.store.layout import safe_name
from mpipipe.store.provenance_table import provenance_hdu

if TYPE_CHECKING:
    from astropy.io import fits

_UNITS = {"bias": "adu", "dark": "electron / s", "flat": ""}
_WAY_OUT = "build the masters again with mpipipe calibs"


def master_path(folder: Path | str, kind: str, detector: str, band: str = "") -> Path:
    """Where the master of a kind, CCD and band lies in a folder of masters."""
    parts = [kind, safe_name(detector)]
    if kind == "flat":
        parts.append(safe_name(band))
    return Path(folder) / f"{'-'.join(parts)}.fits"


def find_masters(folder: Path | str, detector: str, band: str) -> dict[str, Path]:
    """The masters of a CCD and band that exist, by kind."""
    paths = {kind: master_path(folder, kind, detector, band) for kind in KINDS}
    return {kind: path for kind, path in paths.items() if path.is_file()}


def flat_paths(folder: Path | str, detector: str) -> list[Path]:
    """The flats of a CCD in all bands, sorted."""
    pattern = f"flat-{safe_name(detector)}-*.fits"
    return [path for path in sorted(Path(folder).glob(pattern)) if _card(path, "CCD") == detector]


def read_flat_level(path: Path | str) -> float:
    """The mean signal of a flat's CCD, electrons per second, from the header alone.

    Raises
    ------
    BadDataError
        If the file is no flat of ours.
    """
    level = _card(path, "LEVEL")
    if not isinstance(level, int | float):
        raise BadDataError("is no master flat: it has no level", file=path, key="LEVEL")
    return float(level)


def _card(path: Path | str, key: str) -> object:
    with FitsFile(path, headers_only=True) as file:
        return file.hdus[0].header.get(key)


def write_master(path: Path, master: MasterFrame, *, provenance: Mapping[str, str]) -> str:
    """Write a master.

    Parameters
    ----------
    provenance
        Name of an input, version or digest to its value; one row each in PROVENANCE.

    Returns
    -------
    str
        SHA-256 of the file.

    Raises
    ------
    OutputError
        If it can not be written or does not read back.
    """
    from astropy.io import fits

    hdus: list[Any] = [fits.PrimaryHDU(header=_header(master))]
    if master.image is not None and master.kind == "defects":
        header = fits.Header()
        for key, bit in mask_planes.header_cards().items():
            header[f"HIERARCH {key}"] = bit
        hdus.append(
            fits.CompImageHDU(
                master.image, header, name="MASK", compression_type="RICE_1", quantize_level=0.0
            )
        )
    elif master.image is not None:
        header = fits.Header()
        if _UNITS[master.kind]:
            header["BUNIT"] = _UNITS[master.kind]
        hdus.append(fits.ImageHDU(master.image, header, name="IMAGE"))
    if master.variance is not None:
        hdus.append(fits.ImageHDU(master.variance, name="VARIANCE"))
    width = max(len(name) for name in master.names)
    hdus.append(
        fits.BinTableHDU.from_columns(
            [
                fits.Column("name", f"{width}A", array=np.array(master.names, dtype="S")),
                fits.Column("gain", "D", unit="electron/adu", array=master.gain),
                fits.Column("read_noise", "D", unit="electron", array=master.read_noise),
            ],
            name="CHANNELS",
        )
    )
    hdus.append(provenance_hdu(provenance, hdus[0].header))
    return write_fits_atomically(path, fits.HDUList(hdus))


def _header(master: MasterFrame) -> fits.Header:
    from astropy.io import fits

    header = fits.Header()
    header["MASTER"] = (master.kind, "kind of master calibration")
    header["CAMERA"] = master.camera
    header["CCD"] = (master.detector, "name of the CCD")
    header["FILTER"] = master.band
    header["NFRAMES"] = (master.n_frames, "frames that went in")
    header["SECONDS"] = (master.seconds, "[s] their dark or exposure time, summed")
    if master.kind == "flat":
        if np.isfinite(master.level):
            header["LEVEL"] = (master.level, "[electron/s] mean signal of the CCD")
        header["FACTOR"] = (master.factor, "response of the CCD over the camera's")
    for i, name in enumerate(master.names):
        for key, value, unit in (
            ("GAIN", master.gain[i], "[electron/adu]"),
            ("RDNOISE", master.read_noise[i], "[electron]"),
        ):
            if np.isfinite(value):
                header[f"HIERARCH {key} {name}"] = (float(value), unit)
    for note in master.notes:
        header["COMMENT"] = note
    return header


def read_master(path: Path | str) -> MasterFrame:
    """Read a master that `write_master` wrote.

    Raises
    ------
    BadDataError
        If the file is missing, damaged or something else.
    """
    with open_fits(path) as hdus:
        try:
            head = hdus[0].header
            kind = head["MASTER"]
            names = {hdu.name for hdu in hdus}
            image_name = "MASK" if kind == "defects" else "IMAGE"
            channels = hdus["CHANNELS"].data
            master = MasterFrame(
                kind=cast(Kind, kind),
                camera=head["CAMERA"],
                detector=head["CCD"],
                names=tuple(str(name) for name in channels["name"]),
                image=_cube(hdus, image_name, kind) if image_name in names else None,
                variance=_cube(hdus, "VARIANCE", kind) if "VARIANCE" in names else None,
                gain=np.array(channels["gain"], float),
                read_noise=np.array(channels["read_noise"], float),
                band=head["FILTER"],
                n_frames=head["NFRAMES"],
                seconds=head["SECONDS"],
                level=head.get("LEVEL", float("nan")),
                factor=head.get("FACTOR", 1.0),
                notes=tuple(str(note) for note in head.get("COMMENT", ())),
            )
        except (KeyError, IndexError) as error:
            raise BadDataError(
                f"is no master calibration of mpipipe: {error}", file=path, way_out=_WAY_OUT
            ) from error
    _check(master, path)
    return master


def _cube(hdus: fits.HDUList, name: str, kind: str) -> np.ndarray:
    dtype = mask_planes.DTYPE if name == "MASK" else np.float32
    return np.ascontiguousarray(hdus[name].data, dtype=dtype)


def _check(master: MasterFrame, path: Path | str) -> None:
    problem = None
    if master.kind not in KINDS:
        problem = f"holds a master of unknown kind {master.kind!r}"
    elif master.image is None and master.kind != "gain":
        problem = f"holds a {master.kind} without an image"
    elif master.image is not None:
        shape = master.image.shape
        if len(shape) != 3 or shape[0] != len(master.names):
            problem = f"holds an image of shape {shape} for {len(master.names)} channels"
        elif master.variance is not None and master.variance.shape != shape:
            problem = "holds image and variance of different shapes"
        elif not np.isfinite(master.image).all():
            problem = "holds values that are not finite"
    if problem:
        raise BadDataError(problem, file=path, way_out=_WAY_OUT)


def read_masters(
    folder: Path | str, detector: str, band: str, kinds: Collection[str] | None = None
) -> Masters:
    """All masters of a CCD and band (of these kinds) that exist in a folder; none is no error.

    Raises
    ------
    BadDataError
        If one is damaged, belongs to another CCD or band, or has other channels.
    """
    masters = Masters(band=band)
    for kind, path in find_masters(folder, detector, band).items():
        if kinds is not None and kind not in kinds:
            continue
        frame = read_master(path)
        expected = (kind, detector, band if kind == "flat" else "")
        if (frame.kind, frame.detector, frame.band) != expected:
            raise BadDataError(
                f"holds the {frame.kind} of {frame.detector} {frame.band}, expected {expected}",
                file=path,
                way_out=_WAY_OUT,
            )
        try:
            masters = with_master(masters, frame, sha256_file(path))
        except ValueError as error:
            raise BadDataError(str(error), file=path, way_out=_WAY_OUT) from error
    return masters
