"""Frames that were reduced elsewhere (cameras of kind ``calibrated``): they enter at cs.

Their noise is not told by any file, so the variance plane is rebuilt from sky, gain and read
noise: ``variance = max(image, 0) + read_noise^2`` in electrons, the photons averaged over 3 x 3
pixels. Where the sky has been subtracted (its level is far below what the measured noise needs),
the measured variance of the blank sky stands in for its photons.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpipipe.data import mask as mask_planes
from mpipipe.data.camera import Camera
from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import Exposure
from mpipipe.data.inventory import FrameFiles
from mpipipe.data.raw import FrameInfo
from mpipipe.data.sections import Section
from mpipipe.store.fitsfile import FitsFile, Hdu, select_cards
from mpipipe.store.identity import identify, identity_keys, number
from mpipipe.store.wcs_cards import wcs_on_image

if TYPE_CHECKING:
    from astropy.wcs import WCS

_SUBTRACTED = 0.5
"""Sky electrons below this part of the measured variance: the sky has been subtracted."""


def read_calibrated(source: FrameFiles | str | Path, camera: Camera) -> Exposure:
    """Read a frame that was reduced elsewhere as an exposure.

    Parameters
    ----------
    source
        Its file, or the files of a read-out found by scanning.
    camera
        A camera of kind ``calibrated``; `header.constants` supplies what headers lack.

    Returns
    -------
    Exposure
        In electrons. Pixels that are NaN or infinite are zero and masked as NO_DATA and BAD.

    Raises
    ------
    BadDataError
        If the file can not be read, holds no image, or gain, exposure time or filter are unknown.
    """
    path = source.paths[0] if isinstance(source, FrameFiles) else str(source)
    with FitsFile(path) as file:
        hdu = next((hdu for hdu in file.hdus if len([n for n in hdu.shape if n > 1]) == 2), None)
        if hdu is None:
            raise BadDataError("has no image of two axes", file=path)
        adu = file.data(hdu).reshape([n for n in hdu.shape if n > 1])
        file.finish()
        header = select_cards(file.hdus, identity_keys(camera))
    info = _info(header, path, camera, source if isinstance(source, FrameFiles) else None)
    gain = _constant(hdu, camera, "gain", path)
    read_noise = _constant(hdu, camera, "read_noise", path)
    saturation = number(hdu.header, camera, "saturation")
    blank = ~np.isfinite(adu)
    if blank.all():
        raise BadDataError("has no finite pixel", file=path)
    image = np.multiply(adu, gain, dtype=np.float32, casting="unsafe")
    image[blank] = 0.0
    low, high = image[~blank].min(), image[~blank].max()
    if low == high:
        raise BadDataError(f"every pixel is {low / gain:g}", file=path)
    mask = np.zeros(image.shape, mask_planes.DTYPE)
    mask[blank] = mask_planes.bits("NO_DATA", "BAD")
    if not math.isnan(saturation):
        mask[adu >= saturation] |= mask_planes.bits("SAT")
    name = camera.type_of(info.detector).channels[0].name
    variance, ratio = _variance(image, blank, read_noise)
    return Exposure(
        image,
        mask,
        variance,
        info,
        channel_sections={name: Section(0, image.shape[1], 0, image.shape[0])},
        gain={name: gain},
        read_noise={name: read_noise},
        wcs=_wcs(hdu),
        applied={"calibrated": f"elsewhere; sky noise {ratio:.2f} of predicted"},
    )


def _variance(image: np.ndarray, blank: np.ndarray, read_noise: float) -> tuple[np.ndarray, float]:
    """Electrons squared: photons of the pixel and its eight neighbours, plus read noise.

    With it, the noise measured on the blank sky over the predicted one. Resampled and combined
    frames fall below 1.
    """
    from scipy import ndimage

    sky, sigma = _sky(image[~blank])
    photons = ndimage.uniform_filter(image, 3, mode="nearest")
    if sky < _SUBTRACTED * (sigma**2 - read_noise**2):
        photons += np.float32(max(sigma**2 - read_noise**2, 0.0) - sky)
    np.maximum(photons, 0.0, out=photons)
    photons += np.float32(read_noise**2)
    return photons, sigma / math.sqrt(float(np.median(photons)))


def _sky(values: np.ndarray) -> tuple[float, float]:
    """Level and noise of the sky: median and standard deviation, clipped at 3 sigma."""
    step = max(1, values.size // 200_000)
    sample = np.sort(values[::step].astype(np.float64))
    for _ in range(10):
        middle = float(np.median(sample))
        sigma = float(sample.std())
        kept = sample[(sample > middle - 3 * sigma) & (sample < middle + 3 * sigma)]
        if len(kept) == len(sample) or len(kept) < 100:
            break
        sample = kept
    # Clipping a Gaussian at 3 sigma takes 1.3 % off its width.
    return float(np.median(sample)), float(sample.std()) / 0.9866


def _constant(hdu: Hdu, camera: Camera, quantity: str, path: str) -> float:
    channel = next(iter(camera.types.values())).channels[0]
    described = channel.gain if quantity == "gain" else channel.read_noise
    value = described if described is not None else number(hdu.header, camera, quantity)
    if not value > 0.0:
        keys = getattr(camera.header, quantity)
        raise BadDataError(
            f"no {quantity.replace('_', ' ')} is known",
            file=path,
            key=keys[0] if keys else None,
            way_out=f"set header.constants.{quantity} in the camera description",
        )
    return value


def _info(header: dict[str, Any], path: str, camera: Camera, files: FrameFiles | None) -> FrameInfo:
    try:
        told = identify(header, Path(path).name, camera)
    except BadDataError as error:
        raise BadDataError(error.reason, file=path, key=error.key, way_out=error.way_out) from error
    visit = files.visit if files is not None else told.visit
    if visit is None:
        raise BadDataError(
            "neither header nor name tells the visit, or the start of the exposure",
            file=path,
            key=camera.header.date[0] if camera.header.date else None,
            way_out="set header.visit or file_names.pattern in the camera description",
        )
    if not told.exposure_time > 0.0:
        raise BadDataError(
            "there is no exposure time",
            file=path,
            key=camera.header.exposure_time[0] if camera.header.exposure_time else None,
            way_out="set header.constants.exposure_time in the camera description",
        )
    name = files.detector if files is not None else told.detector or camera.detectors[0].name
    return FrameInfo(
        camera=camera.name,
        visit=visit,
        snap=files.snap if files is not None else told.snap,
        detector=name,
        detector_number=camera.detector(name).number,
        kind=told.kind,
        band=told.band,
        exposure_time=told.exposure_time,
        dark_time=told.dark_time,
        mjd_start=told.mjd_start,
        airmass=told.airmass,
        ra=told.ra,
        dec=told.dec,
        binning=told.binning,
        files=(Path(path).name,),
    )


def _wcs(hdu: Hdu) -> WCS | None:
    whole = Section(0, hdu.shape[-1], 0, hdu.shape[-2])
    cards = wcs_on_image(hdu.header, whole, whole)
    return wcs_of_cards(cards) if cards else None


def wcs_of_cards(cards: dict[str, Any]) -> WCS | None:
    """An astropy WCS of cards made by `wcs_on_image`; None if astropy refuses them."""
    import warnings

    from astropy.io import fits
    from astropy.wcs import WCS

    header = fits.Header()
    for key, value in cards.items():
        header[key] = value
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return WCS(header)
    except (ValueError, TypeError, MemoryError, KeyError):
        return None
