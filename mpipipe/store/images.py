"""Image products: exposures and backgrounds as FITS, written whole or not at all.

An exposure is three image extensions, IMAGE, MASK and VARIANCE, each with the WCS, so that DS9
and astropy show it as it is, and a table PROVENANCE with the checksum of every input. Where a WCS
was found on reference stars, the extension INITIAL_WCS keeps the raw header's, from which it can be
found again; its quality and the zero point stand in the primary header. Headers hold only what
follows from the content: no time, host or rank of the run that wrote them.

Storing an exposure may round its pixels (`settle`), and catalogues are made of the pixels that
readers of the file will find, so that they can be made again from it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mpipipe.data import mask as mask_planes
from mpipipe.data.background import Background
from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import ChannelStack, Exposure
from mpipipe.data.photo_calib import PhotoCalib
from mpipipe.data.raw import FrameInfo
from mpipipe.data.sections import Section
from mpipipe.store.fits import (
    fits_bytes,
    open_fits,
    write_bytes_atomically,
    write_fits_atomically,
)
from mpipipe.store.provenance_table import provenance_hdu, provenance_rows
from mpipipe.store.solution_cards import read_astrometry, replace_solution, replace_wcs

if TYPE_CHECKING:
    from astropy.io import fits
    from astropy.wcs import WCS

_INITIAL = "INITIAL_WCS"

Compression = Literal["quantized", "none"]


@dataclass(frozen=True)
class SettledExposure:
    """An exposure as readers of its file will find it; its mask may still change.

    Attributes
    ----------
    exposure
        With the pixels and header values that the file gives back, and the raw header's WCS until
        another is set.
    provenance
        What is known of where it comes from: the rows of PROVENANCE.
    """

    exposure: Exposure
    provenance: dict[str, str]
    _content: bytes | memoryview  # a FITS file with IMAGE and VARIANCE as they are stored

    def write(self, path: Path, provenance: Mapping[str, str]) -> str:
        """Write the file; return its SHA-256.

        Parameters
        ----------
        provenance
            Name of an input, version or digest to its value; one row each in PROVENANCE.

        Raises
        ------
        OutputError
            If it can not be written or does not read back.
        """
        from astropy.io import fits

        exposure = self.exposure
        initial = _header_of(exposure.wcs if exposure.astrometry is None else exposure.initial_wcs)
        wcs = _wcs_header(exposure)
        planes = wcs.copy()
        for key, bit in mask_planes.header_cards().items():
            planes[f"HIERARCH {key}"] = bit
        with open_fits(io.BytesIO(self._content), as_stored=True) as stored:
            primary, image, variance = stored[0], stored["IMAGE"], stored["VARIANCE"]
            origin = provenance_hdu(provenance, primary.header)
            replace_solution(primary.header, exposure)
            for plane in (image, variance):
                replace_wcs(plane.header, initial, wcs)
            step = 1.0 if isinstance(image, fits.BinTableHDU) else 0.0
            mask = _plane_hdu("MASK", exposure.mask, planes, step)
            hdus = [primary, image, mask, variance, origin]
            if exposure.astrometry is not None:
                hdus.insert(-1, fits.ImageHDU(None, initial, name=_INITIAL))
            content = fits_bytes(fits.HDUList(hdus))
        return write_bytes_atomically(path, content)


def settle(
    exposure: Exposure, compression: Compression = "quantized", quantize_level: float = 16.0
) -> SettledExposure:
    """Bring an exposure into the form in which it is stored.

    Parameters
    ----------
    compression
        ``quantized``: Rice; the image in steps of the sky's noise / `quantize_level`, the
        variance in steps of the sky's variance / (16 `quantize_level`), both with subtractive
        dither of fixed seed (the noise grows by 1 / (24 level^2)); the mask stays exact.
        ``none``: plain extensions.
    """
    from astropy.io import fits

    primary = fits.PrimaryHDU(header=_primary_header(exposure, compression, quantize_level))
    quantized = compression == "quantized"
    steps = _steps(exposure.variance, quantize_level) if quantized else {}
    hdus: list[Any] = [primary]
    planes = (("IMAGE", exposure.image, "electron"), ("VARIANCE", exposure.variance, "electron2"))
    for name, plane, unit in planes:
        header = _wcs_header(exposure)
        header["BUNIT"] = unit
        hdus.append(_plane_hdu(name, plane, header, steps.get(name, 0.0)))
    content = fits_bytes(fits.HDUList(hdus))
    return SettledExposure(*_read(io.BytesIO(content), exposure.mask), content)


def read_settled(path: Path) -> SettledExposure:
    """Read an exposure as it was before image characterization, with the raw header's WCS and no
    zero point; written again, it has the same pixels.

    Raises
    ------
    BadDataError
        If the file is missing, damaged or something else.
    """
    exposure, provenance = _read(path, is_solved=False)
    return SettledExposure(exposure, provenance, path.read_bytes())


def write_exposure(
    path: Path,
    exposure: Exposure,
    *,
    provenance: Mapping[str, str],
    compression: Compression = "quantized",
    quantize_level: float = 16.0,
) -> str:
    """`settle` an exposure and write it; return the SHA-256 of its file.

    Raises
    ------
    OutputError
        If it can not be written or does not read back.
    """
    return settle(exposure, compression, quantize_level).write(path, provenance)


def _primary_header(exposure: Exposure, compression: str, level: float) -> fits.Header:
    from astropy.io import fits

    info = exposure.info
    header = fits.Header()
    header["CAMERA"] = info.camera
    header["VISIT"] = info.visit
    header["CCD"] = (info.detector, "name of the CCD")
    header["CCDNUM"] = (info.detector_number, "number of the CCD in the camera")
    header["NSNAPS"] = (exposure.n_snaps, "snaps summed")
    header["FILTER"] = info.band
    header["EXPTIME"] = (info.exposure_time, "[s] summed over snaps")
    header["DARKTIME"] = (info.dark_time, "[s] summed over snaps")
    if np.isfinite(info.mjd_start):
        header["MJD-OBS"] = (info.mjd_start, "start of the first snap, MJD")
        header["TIMESYS"] = "TAI"
    if np.isfinite(info.airmass):
        header["AIRMASS"] = info.airmass
    for key, value in (("RA", info.ra), ("DEC", info.dec)):
        if np.isfinite(value):
            header[key] = (value, "[deg] rough pointing")
    header["BINNING"] = f"{info.binning[0]} {info.binning[1]}"
    header["COMPRESS"] = (compression, "how the planes are stored")
    if compression == "quantized":
        header["QLEVEL"] = (level, "sky noise over quantisation step of the image")
    for name, how in exposure.applied.items():
        header[f"HIERARCH APPLIED {name.upper()}"] = how[:60]
    for name, section in exposure.channel_sections.items():
        header[f"HIERARCH SEC {name}"] = str(section)
        header[f"HIERARCH GAIN {name}"] = (exposure.gain.get(name), "[electron/adu]")
        header[f"HIERARCH RDNOISE {name}"] = (exposure.read_noise.get(name), "[electron]")
    return header


def _wcs_header(exposure: Exposure) -> fits.Header:
    from astropy.io import fits

    if exposure.astrometry is not None:
        return fits.Header(exposure.astrometry.sip.cards())
    return _header_of(exposure.wcs)


def _header_of(wcs: WCS | None) -> fits.Header:
    from astropy.io import fits

    return fits.Header() if wcs is None else wcs.to_header(relax=True)


def _plane_hdu(name: str, plane: np.ndarray, header: fits.Header, step: float) -> Any:
    """An image extension; Rice-compressed if it is of integers or a quantisation step is given."""
    from astropy.io import fits

    if plane.dtype.kind != "f":
        if step == 0.0:
            return fits.ImageHDU(plane, header, name=name)
        return fits.CompImageHDU(plane, header, name=name, compression_type="RICE_1")
    if step == 0.0:
        return fits.ImageHDU(plane, header, name=name)
    header["QSTEP"] = (step, "quantisation step (subtractive dither)")
    # A negative level is an absolute step. One step for the whole plane never fails, while a
    # level relative to the noise of a tile falls back to gzip where a tile is constant, and
    # gzip stores the time of day.
    return fits.CompImageHDU(
        np.where(np.isfinite(plane), plane, np.nan),
        header,
        name=name,
        compression_type="RICE_1",
        quantize_level=-step,
        quantize_method=1,
        dither_seed=1,
    )


def _steps(variance: np.ndarray, level: float) -> dict[str, float]:
    """Quantisation step of each plane: noise / level, and variance / (16 level)."""
    usable = variance[::4, ::4]
    usable = usable[np.isfinite(usable) & (usable > 0)]
    typical = float(np.median(usable)) if usable.size else 1.0
    return {
        "IMAGE": float(np.float32(np.sqrt(typical) / level)),
        "MASK": 1.0,
        "VARIANCE": float(np.float32(typical / (16.0 * level))),
    }


def read_exposure(path: Path) -> Exposure:
    """Read an exposure that `write_exposure` wrote.

    Raises
    ------
    BadDataError
        If the file is missing, damaged or something else.
    """
    return _read(path)[0]


@dataclass(frozen=True)
class Outline:
    """What is known of an exposure without its pixels.

    Attributes
    ----------
    info
        Which exposure, and how it was taken.
    shape
        (ny, nx).
    wcs
        The raw header's, whatever has been found since.
    """

    info: FrameInfo
    shape: tuple[int, int]
    wcs: WCS | None


def read_outline(path: Path) -> Outline:
    """Read what the headers of an exposure tell.

    Raises
    ------
    BadDataError
        If the file is missing, damaged or something else.
    """
    with open_fits(path) as hdus:
        try:
            head, image = hdus[0].header, hdus["IMAGE"].header
            is_solved = read_astrometry(head, image) is not None
            wcs = _read_wcs(hdus[_INITIAL].header if is_solved else image)
            return Outline(_read_info(head), (int(image["NAXIS2"]), int(image["NAXIS1"])), wcs)
        except (KeyError, IndexError, ValueError) as error:
            raise _no_exposure(path, error) from error


def _read(
    source: Path | io.BytesIO, mask: np.ndarray | None = None, *, is_solved: bool = True
) -> tuple[Exposure, dict[str, str]]:
    """An exposure and its provenance; with `mask` given, of a file that has neither yet.

    Without `is_solved`, what image characterization has found is left out.
    """
    provenance: dict[str, str] = {}
    with open_fits(source) as hdus:
        try:
            head = hdus[0].header
            image = np.ascontiguousarray(hdus["IMAGE"].data, dtype=np.float32)
            if mask is None:
                mask = np.ascontiguousarray(hdus["MASK"].data, dtype=mask_planes.DTYPE)
                provenance = provenance_rows(hdus)
            variance = np.ascontiguousarray(hdus["VARIANCE"].data, dtype=np.float32)
            wcs = _read_wcs(hdus["IMAGE"].header)
            astrometry = read_astrometry(head, hdus["IMAGE"].header)
            initial = None if astrometry is None else _read_wcs(hdus[_INITIAL].header)
            photo_calib = PhotoCalib.from_cards(head, image.shape)
        except (KeyError, IndexError, ValueError) as error:
            raise _no_exposure(source, error) from error
    if astrometry is not None and not is_solved:
        wcs, initial = initial, None
    sections = _suffixed(head, "SEC ")
    exposure = Exposure(
        image,
        mask,
        variance,
        _read_info(head),
        channel_sections={name: Section.parse(text) for name, text in sections.items()},
        gain=_suffixed(head, "GAIN "),
        read_noise=_suffixed(head, "RDNOISE "),
        wcs=wcs,
        astrometry=astrometry if is_solved else None,
        initial_wcs=initial,
        photo_calib=photo_calib if is_solved else None,
        n_snaps=head["NSNAPS"],
        applied={name.lower(): how for name, how in _suffixed(head, "APPLIED ").items()},
    )
    return exposure, provenance


def _no_exposure(source: Path | io.BytesIO, error: Exception) -> BadDataError:
    file = source if isinstance(source, Path) else None
    return BadDataError(f"is no exposure of mpipipe: {error}", file=file)


def _suffixed(header: fits.Header, prefix: str) -> dict[str, Any]:
    return {key[len(prefix) :]: header[key] for key in header if key.startswith(prefix)}


def _read_info(header: fits.Header) -> FrameInfo:
    nan = float("nan")
    info = FrameInfo(
        camera=header["CAMERA"],
        visit=header["VISIT"],
        snap=0,
        detector=header["CCD"],
        detector_number=header["CCDNUM"],
        kind="science",
        band=header["FILTER"],
        exposure_time=header["EXPTIME"],
        dark_time=header["DARKTIME"],
        mjd_start=header.get("MJD-OBS", nan),
    )
    x, y = (int(part) for part in header["BINNING"].split())
    return replace(
        info,
        airmass=header.get("AIRMASS", nan),
        ra=header.get("RA", nan),
        dec=header.get("DEC", nan),
        binning=(x, y),
    )


def _read_wcs(header: fits.Header) -> Any:
    from astropy.wcs import WCS

    if "CTYPE1" not in header or not header["CTYPE1"].strip():
        return None
    header = header.copy()
    header.remove("NAXIS")  # 0 in INITIAL_WCS, of which astropy would warn
    return WCS(header)


def write_channels(path: Path, stack: ChannelStack, *, provenance: Mapping[str, str]) -> str:
    """Write the channels of one snap after isr, a cube a plane; return the SHA-256.

    Parameters
    ----------
    provenance
        Name of an input, version or digest to its value; one row each in PROVENANCE.

    Raises
    ------
    OutputError
        If it can not be written or does not read back.
    """
    from astropy.io import fits

    header = fits.Header()
    header["CAMERA"], header["VISIT"] = stack.info.camera, stack.info.visit
    header["CCD"], header["SNAP"] = stack.info.detector, stack.info.snap
    for number, (name, section) in enumerate(zip(stack.names, stack.detsecs, strict=True)):
        header[f"CHAN{number}"] = (name, "name of plane")
        header[f"DSEC{number}"] = (str(section), "where it lands on the CCD")
    for name, how in stack.applied.items():
        header[f"HIERARCH APPLIED {name.upper()}"] = how[:60]
    planes = {"IMAGE": stack.image, "MASK": stack.mask, "VARIANCE": stack.variance}
    hdus = [fits.PrimaryHDU(header=header)]
    hdus += [fits.ImageHDU(plane, name=name) for name, plane in planes.items() if plane is not None]
    hdus.append(provenance_hdu(provenance, hdus[0].header))
    return write_fits_atomically(path, fits.HDUList(hdus))


def write_background(
    path: Path, background: Background, info: FrameInfo, *, provenance: Mapping[str, str]
) -> str:
    """Write a background, its levels at the nodes and the sky noise; return the SHA-256.

    Raises
    ------
    OutputError
        If it can not be written or does not read back.
    """
    from astropy.io import fits

    header = fits.Header()
    header["VISIT"], header["CCD"], header["FILTER"] = info.visit, info.detector, info.band
    header["IMGNX"] = (background.shape[1], "[pixel] width of the image it belongs to")
    header["IMGNY"] = (background.shape[0], "[pixel] height of the image it belongs to")
    level = fits.ImageHDU(background.values, name="LEVEL")
    sigma = fits.ImageHDU(background.sigma, name="SIGMA")
    for hdu in (level, sigma):
        hdu.header["BUNIT"] = "electron"
    origin = provenance_hdu(provenance, header)
    hdus = [fits.PrimaryHDU(header=header), level, sigma, origin]
    return write_fits_atomically(path, fits.HDUList(hdus))


def read_background(path: Path) -> Background:
    """Read a background that `write_background` wrote.

    Raises
    ------
    BadDataError
        If the file is missing, damaged or something else.
    """
    with open_fits(path) as hdus:
        try:
            shape = hdus[0].header["IMGNY"], hdus[0].header["IMGNX"]
            values = np.asarray(hdus["LEVEL"].data, dtype=np.float64)
            sigma = np.asarray(hdus["SIGMA"].data, dtype=np.float64)
        except (KeyError, IndexError) as error:
            raise BadDataError(f"is no background of mpipipe: {error}", file=path) from error
    return Background(values, sigma, shape)
