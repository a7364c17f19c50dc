"""PSF models as FITS tables, of any kind, from which the same model comes back to the bit.

The table PSF has one row, and a column for each array that the model consists of; so has the table
APCORR, for the aperture correction of fluxes that were measured with the model. The primary header
says of what kind it is and what a reader wants to know first; PROVENANCE is that of all products.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

# Imported to enter their kinds into the registry.
from mpipipe.data import guess_psf, piff_psf, pixel_psf, shapelet_psf  # noqa: F401
from mpipipe.data.aperture_correction import ApertureCorrection
from mpipipe.data.errors import BadDataError
from mpipipe.data.psf import KINDS, Psf
from mpipipe.data.raw import FrameInfo
from mpipipe.store.fits import RECOPY, open_fits, write_fits_atomically
from mpipipe.store.provenance_table import provenance_hdu

_FORMATS = {"float64": "D", "int64": "K"}


def write_psf(
    path: Path,
    psf: Psf,
    correction: ApertureCorrection,
    info: FrameInfo,
    *,
    provenance: Mapping[str, str],
) -> str:
    """Write a PSF model and its aperture correction; return the SHA-256 of the file.

    Parameters
    ----------
    info
        Of the exposure it belongs to.
    provenance
        Name of an input, version or digest to its value; one row each in PROVENANCE.

    Raises
    ------
    OutputError
        If it can not be written or does not read back.
    """
    from astropy.io import fits

    header = fits.Header()
    header["KIND"] = (psf.kind, "kind of PSF model")
    header["VISIT"], header["CCD"], header["FILTER"] = info.visit, info.detector, info.band
    header["IMGNX"] = (psf.shape[1], "[pixel] width of the image it belongs to")
    header["IMGNY"] = (psf.shape[0], "[pixel] height of the image it belongs to")
    header["FWHM"] = (psf.fwhm, "[pixel] from moments, middle of the image")
    header["RADIUS"] = (psf.radius, "[pixel] images sum to 1 inside")
    header["NSTARS"] = (psf.n_stars, "stars it was made of")
    header["GUESS"] = (psf.is_guess, "no star stands behind it")
    tables = [_table("PSF", psf.arrays()), _table("APCORR", correction.arrays())]
    origin = provenance_hdu(provenance, header)
    hdus = [fits.PrimaryHDU(header=header), *tables, origin]
    return write_fits_atomically(path, fits.HDUList(hdus))


def _table(name: str, arrays: Mapping[str, np.ndarray]) -> Any:
    from astropy.io import fits

    columns = [_column(column, array) for column, array in arrays.items()]
    return fits.BinTableHDU.from_columns(columns, name=name)


def _column(name: str, array: np.ndarray) -> Any:
    from astropy.io import fits

    if array.dtype.name not in _FORMATS or array.ndim == 0 or array.size == 0:
        raise ValueError(f"array {name} is {array.dtype} of shape {array.shape}")
    # TDIM counts the fastest axis first.
    axes = f"({','.join(str(n) for n in array.shape[::-1])})"
    letter = _FORMATS[array.dtype.name]
    return fits.Column(name, f"{array.size}{letter}", dim=axes, array=array[np.newaxis])


def read_psf(path: Path) -> Psf:
    """Read a PSF model that `write_psf` wrote.

    Raises
    ------
    BadDataError
        If the file is missing, damaged or something else.
    """
    with open_fits(path) as hdus:
        if "PSF" not in hdus or "KIND" not in hdus[0].header:
            raise BadDataError("is no PSF of mpipipe", file=path)
        kind, arrays = str(hdus[0].header["KIND"]), _arrays(hdus["PSF"])
    if kind not in KINDS:
        known = ", ".join(sorted(KINDS))
        raise BadDataError(f"holds a PSF of kind {kind!r}; known are {known}", file=path)
    try:
        return KINDS[kind].from_arrays(arrays)
    except ValueError as error:
        raise BadDataError(f"holds no sound PSF: {error}", file=path, way_out=RECOPY) from error


def read_aperture_correction(path: Path) -> ApertureCorrection:
    """Read the aperture correction that `write_psf` wrote beside a PSF.

    Raises
    ------
    BadDataError
        If the file is missing, damaged or something else.
    """
    with open_fits(path) as hdus:
        if "APCORR" not in hdus:
            raise BadDataError("is no PSF of mpipipe", file=path)
        arrays = _arrays(hdus["APCORR"])
    try:
        return ApertureCorrection.from_arrays(arrays)
    except ValueError as error:
        raise BadDataError(f"is not sound: {error}", file=path, way_out=RECOPY) from error


def _arrays(table: Any) -> dict[str, np.ndarray]:
    """The arrays that `_table` wrote."""
    return {name: _array(table, name) for name in table.columns.names}


def _array(table: Any, name: str) -> np.ndarray:
    """The array in a column's only row, in native byte order and with its axes."""
    (value,) = table.data[name]
    axes = table.columns[name].dim
    shape = tuple(int(n) for n in reversed(axes.strip("()").split(","))) if axes else (-1,)
    array = np.array(value).reshape(shape)
    return array.astype(array.dtype.newbyteorder("="))
