"""VOTable 1.4 with BINARY2 data, units, UCDs and descriptions.

Text is `unicodeChar`, filled up with NUL. Unknown values are flagged; NaN is a value.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from typing import BinaryIO
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from mpipipe.data.errors import OutputError
from mpipipe.data.schema import Column, Schema
from mpipipe.store.catalogue import Columns
from mpipipe.store.export.rows import Rows, is_text, is_unknown, text_bytes, text_of, whole_signed

SUFFIX = ".vot"
HOLDS_MANY = True
_NAMES = {
    "bool": "boolean",
    "uint8": "unsignedByte",
    "int16": "short",
    "int32": "int",
    "int64": "long",
    "float32": "float",
    "float64": "double",
}
_LINE = 57 << 8
"""Bytes of a line of base64; a multiple of 3, so that lines follow each other without padding."""

_HEAD = b"""<?xml version="1.0" encoding="UTF-8"?>
<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">
<RESOURCE type="results">
<COOSYS ID="icrs" system="ICRS"/>
"""
_FOOT = b"</RESOURCE>\n</VOTABLE>\n"


def write(tables: Sequence[Rows], target: str, *, replace: bool) -> None:
    """Write tables to a file."""
    with open(target, "xb") as stream:
        stream.write(_HEAD)
        for table in tables:
            _write_table(table, stream)
        stream.write(_FOOT)


def write_stream(table: Rows, stream: BinaryIO) -> None:
    """Write a table to a stream."""
    stream.write(_HEAD)
    _write_table(table, stream)
    stream.write(_FOOT)


def _write_table(table: Rows, stream: BinaryIO) -> None:
    stream.write(_head_of_table(table.schema, table.n_rows).encode())
    dtype = _row(table.schema)
    left = b""
    for chunk in table.chunks():
        data = left + _binary2(chunk, dtype)
        whole = len(data) - len(data) % _LINE
        for start in range(0, whole, _LINE):
            stream.write(binascii.b2a_base64(data[start : start + _LINE]))
        left = data[whole:]
    stream.write(binascii.b2a_base64(left))
    stream.write(b"</STREAM></BINARY2></DATA>\n</TABLE>\n")


def _head_of_table(schema: Schema, n_rows: int | None) -> str:
    number = "" if n_rows is None else f' nrows="{n_rows}"'
    lines = [f"<TABLE name={quoteattr(schema.name)}{number}>"]
    if schema.description:
        lines.append(f"<DESCRIPTION>{escape(schema.description)}</DESCRIPTION>")
    lines += [_field(column) for column in schema.columns]
    lines.append('<DATA><BINARY2><STREAM encoding="base64">\n')
    return "\n".join(lines)


def _field(column: Column) -> str:
    labels = {"name": column.name}
    if is_text(column):
        labels |= {"datatype": "unicodeChar", "arraysize": str(text_bytes(column))}
    else:
        labels["datatype"] = _NAMES[_stored(column).name]
    if column.unit:
        labels["unit"] = _unit(column.unit)
    if column.ucd:
        labels["ucd"] = column.ucd
    if column.ucd.startswith("pos.eq."):
        labels["ref"] = "icrs"
    attributes = " ".join(f"{key}={quoteattr(value)}" for key, value in labels.items())
    if not column.description:
        return f"<FIELD {attributes}/>"
    return f"<FIELD {attributes}><DESCRIPTION>{escape(column.description)}</DESCRIPTION></FIELD>"


def _unit(unit: str) -> str:
    """A unit as VOUnits 1.0 spells it; one that it does not know is quoted."""
    from astropy import units as u

    words = []
    parsed = u.Unit(unit)
    for base, power in zip(parsed.bases, parsed.powers, strict=True):
        try:
            name = base.to_string("vounit")
        except ValueError:
            name = f"'{base}'"
        words.append(name if power == 1 else f"{name}**{power}")
    return ".".join(words)


def _stored(column: Column) -> np.dtype:
    """The dtype of a column's values, but for text."""
    dtype = np.dtype(column.dtype)
    if dtype.kind not in "iu" or dtype == np.uint8:
        return dtype
    try:
        return whole_signed(dtype)
    except TypeError as error:
        raise OutputError(f"has no place in VOTable: {error}", key=column.name) from error


def _row(schema: Schema) -> np.dtype:
    """A row of BINARY2: a bit a column that says whether its value is unknown, then the values."""
    fields: list[tuple[str, object]] = [("unknown", ("u1", (-(-len(schema.columns) // 8),)))]
    for column in schema.columns:
        if is_text(column):  # UTF-16 needs no more units than UTF-8 bytes
            fields.append((f"_{column.name}", ("u1", (2 * text_bytes(column),))))
        elif np.dtype(column.dtype).kind == "b":
            fields.append((f"_{column.name}", "u1"))
        else:
            fields.append((f"_{column.name}", _stored(column).newbyteorder(">")))
    return np.dtype(fields)


def _binary2(chunk: Columns, dtype: np.dtype) -> bytes:
    n_rows = len(next(iter(chunk.values())))
    rows = np.zeros(n_rows, dtype=dtype)
    unknown = np.zeros((n_rows, 8 * rows["unknown"].shape[1]), dtype=bool)
    for number, (name, values) in enumerate(chunk.items()):
        if (flags := is_unknown(values)) is not None:
            unknown[:, number] = flags
        plain, place = np.asarray(values), rows[f"_{name}"]
        if plain.dtype.kind in "SU":
            place[...] = _utf16(text_of(plain), place.shape[1])
        elif plain.dtype.kind == "b":
            place[...] = np.where(plain, ord("T"), ord("F"))
        else:
            place[...] = plain
    rows["unknown"] = np.packbits(unknown, axis=1)
    return rows.tobytes()


def _utf16(text: np.ndarray, n_bytes: int) -> np.ndarray:
    """Text as big-endian UTF-16 in as many bytes, (n, n_bytes) uint8."""
    padded = [one.encode("utf-16-be").ljust(n_bytes, b"\0") for one in text.tolist()]
    return np.frombuffer(b"".join(padded), dtype=np.uint8).reshape(len(text), n_bytes)
