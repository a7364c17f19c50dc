"""FITS binary tables with units (TUNIT), descriptions (TCOMM) and UCDs (TUCD).

Text is UTF-8 in as many bytes as the column can need; FITS itself knows ASCII only, astropy's
`Table.read` takes UTF-8. Integers without a place in FITS are stored in the next larger ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

from mpipipe.data.errors import OutputError
from mpipipe.data.schema import Column, Schema
from mpipipe.store.export.rows import Rows, is_text, text_bytes, utf8_of, whole_signed

SUFFIX = ".fits"
HOLDS_MANY = True
_BLOCK = 2880


def write(tables: Sequence[Rows], target: str, *, replace: bool) -> None:
    """Write tables to a file, an extension each."""
    from astropy.io import fits

    with open(target, "xb") as stream:
        stream.write(fits.PrimaryHDU().header.tostring().encode("ascii"))
        for table in tables:
            _write_table(table, stream)


def _write_table(table: Rows, stream: BinaryIO) -> None:
    dtype = np.dtype([(column.name, _stored(column)) for column in table.schema.columns])
    stream.write(_header(table.schema, dtype, table.n_rows or 0).encode("ascii"))
    n_bytes = 0
    for chunk in table.chunks():
        rows = np.empty(len(next(iter(chunk.values()))), dtype=dtype)
        for name, values in chunk.items():
            if values.dtype.kind == "b":
                rows[name] = np.where(values, ord("T"), ord("F"))
            else:
                rows[name] = utf8_of(values)
        stream.write(rows.tobytes())
        n_bytes += rows.nbytes
    stream.write(bytes(-n_bytes % _BLOCK))


def _stored(column: Column) -> np.dtype:
    """How a column is stored; truth values are the letters T and F."""
    if not column.name.isascii():
        raise OutputError("FITS knows only names in ASCII", key=column.name)
    dtype = np.dtype(column.dtype)
    if is_text(column):
        return np.dtype(f"S{text_bytes(column)}")
    if dtype.kind == "b":
        return np.dtype("u1")
    if dtype.kind in "iu" and dtype != np.uint8:
        try:
            dtype = whole_signed(dtype)
        except TypeError as error:
            raise OutputError(f"has no place in FITS: {error}", key=column.name) from error
    return dtype.newbyteorder(">")


def _header(schema: Schema, dtype: np.dtype, n_rows: int) -> str:
    from astropy.io import fits

    header: Any = fits.BinTableHDU(np.zeros(0, dtype=dtype), name=schema.name).header
    header["NAXIS2"] = n_rows
    for number, column in enumerate(schema.columns, start=1):
        if np.dtype(column.dtype).kind == "b":
            header[f"TFORM{number}"] = "L"
        if column.unit:
            header[f"TUNIT{number}"] = _unit(column.unit)
        if column.ucd:
            header[f"TUCD{number}"] = column.ucd
        header[f"TCOMM{number}"] = column.description
    return str(header.tostring())


def _unit(unit: str) -> str:
    """A unit as FITS spells it; one that it does not know as it is."""
    from astropy import units as u

    try:
        return str(u.Unit(unit).to_string("fits"))
    except ValueError:
        return unit
