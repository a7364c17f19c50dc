"""The table PROVENANCE of a FITS product: names of inputs, options and versions to their values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpipipe.store.checksums import sha256_of
from mpipipe.store.fits import open_fits

if TYPE_CHECKING:
    from astropy.io import fits

_NAME = "PROVENANCE"


def provenance_hdu(provenance: Mapping[str, str], primary: fits.Header) -> Any:
    """The table of a product.

    The primary header is given a short form of it: what made the product, with which version of
    mpipipe, and a checksum over all rows.
    """
    from astropy.io import fits

    rows = {_ascii(name): _ascii(value) for name, value in provenance.items()}
    primary["TASK"] = (rows.get("task", ""), "what made this file")
    primary["MPIPIPE"] = (rows.get("version mpipipe", ""), "version of mpipipe")
    primary["PROVHASH"] = sha256_of(f"{name} {rows[name]}" for name in sorted(rows))
    columns = {"name": sorted(rows), "value": [rows[name] for name in sorted(rows)]}
    arrays = {name: np.array([t.encode() for t in texts], "S") for name, texts in columns.items()}
    return fits.BinTableHDU.from_columns(
        [
            fits.Column(name, f"{max(array.dtype.itemsize, 1)}A", array=array)
            for name, array in arrays.items()
        ],
        name=_NAME,
    )


def _ascii(text: str) -> str:
    """FITS holds ASCII; names of files may be anything."""
    return text.encode("ascii", "backslashreplace").decode()


def provenance_rows(hdus: Any) -> dict[str, str]:
    """The rows of an open product; empty if it has none."""
    if _NAME not in hdus:
        return {}
    rows = hdus[_NAME].data
    return dict(zip(rows["name"].tolist(), rows["value"].tolist(), strict=True))


def parts_that_differ(path: Path, other: Path) -> tuple[str, ...]:
    """Names of the extensions whose data differ between two FITS files, headers not looked at.

    Raises
    ------
    BadDataError
        If one of the files is missing or damaged.
    """
    with open_fits(path, as_stored=True) as ours, open_fits(other, as_stored=True) as theirs:
        mine, its = _contents(ours), _contents(theirs)
    return tuple(name for name in {**mine, **its} if mine.get(name) != its.get(name))


def _contents(hdus: Any) -> dict[str, bytes]:
    """The data of each extension, by name."""
    return {
        hdu.name: b"" if hdu.data is None else np.ascontiguousarray(hdu.data).tobytes()
        for hdu in hdus
    }


def read_provenance(path: Path) -> dict[str, str]:
    """The rows of a product.

    Raises
    ------
    BadDataError
        If the file is missing or damaged.
    """
    with open_fits(path) as hdus:
        return provenance_rows(hdus)
