"""JSON: a list of rows, each an object from the name of a column to its value.

JSON has no NaN and no infinity; they and unknown values are null. Integers are written with all
their digits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from mpipipe.store.export.rows import Rows, is_unknown, text_of

SUFFIX = ".json"
HOLDS_MANY = False


def write(tables: Sequence[Rows], target: str, *, replace: bool) -> None:
    """Write one table to a file."""
    with open(target, "xb") as stream:
        write_stream(tables[0], stream)


def write_stream(table: Rows, stream: BinaryIO) -> None:
    """Write a table to a stream."""
    names = [column.name for column in table.schema.columns]
    separator = b"[\n"
    for chunk in table.chunks():
        for row in zip(*(_values(values) for values in chunk.values()), strict=True):
            text = json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False)
            stream.write(separator + text.encode())
            separator = b",\n"
    stream.write(b"\n]\n" if separator == b",\n" else b"[]\n")


def _values(values: np.ndarray) -> list[object]:
    """Values as `json` is to write them."""
    plain = np.asarray(values)
    unknown = is_unknown(values)
    if plain.dtype.kind == "f":
        is_missing = ~np.isfinite(plain)
        unknown = is_missing if unknown is None else unknown | is_missing
        if plain.dtype.itemsize == 4:  # the shortest digits that give the same value again
            plain = np.where(is_missing, 0.0, plain).astype("U32").astype("f8")
    found = text_of(plain).tolist()
    for i in () if unknown is None else np.flatnonzero(unknown):
        found[i] = None
    return list(found)
