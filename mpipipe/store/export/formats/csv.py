"""CSV as RFC 4180 has it, UTF-8, one header line with the names of the columns.

Floats are the shortest text that gives the same value again in the column's own precision; what is
not a number is NaN, Infinity or -Infinity, which C, Java, Python and SQL understand. Truth values
are True and False. An unknown value is an empty field.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from mpipipe.store.export.rows import Rows, is_unknown, text_of

SUFFIX = ".csv"
HOLDS_MANY = False
_NAMES = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def write(tables: Sequence[Rows], target: str, *, replace: bool) -> None:
    """Write one table to a file."""
    with open(target, "xb") as stream:
        write_stream(tables[0], stream)


def write_stream(table: Rows, stream: BinaryIO) -> None:
    """Write a table to a stream."""
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(column.name for column in table.schema.columns)
    for chunk in table.chunks():
        writer.writerows(zip(*(_fields(values) for values in chunk.values()), strict=True))
    text.detach()


def _fields(values: np.ndarray) -> list[object]:
    """Values as `csv` is to write them."""
    unknown, plain = is_unknown(values), np.asarray(values)
    found: list[object] = list(
        _floats(plain) if plain.dtype.kind == "f" else text_of(plain).tolist()
    )
    for i in () if unknown is None else np.flatnonzero(unknown):
        found[i] = None
    return found


def _floats(values: np.ndarray) -> list[str]:
    # Of doubles, repr makes the shortest text, too, and sooner.
    if values.dtype.itemsize == 8:
        found = list(map(repr, values.tolist()))
    else:
        found = values.astype("U32").tolist()
    for i in np.flatnonzero(~np.isfinite(values)):
        found[i] = _NAMES[found[i]]
    return found
