"""What a format is given of a table: its schema, and its rows piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mpipipe.data.schema import Column, Schema
from mpipipe.store.catalogue import Columns, chunks
from mpipipe.store.hdf5 import OpenCatalogue
from mpipipe.store.sky_index import SkyIndex

Watch = Callable[[str, float, int], None]
"""Called with what is being done, the share of it that is done, and the number of rows so far."""


Slices = Callable[[slice, int | None], Iterator[Columns]]
"""Gives a slice of the rows, at most so many at a time (None: as many as suit)."""


@dataclass(frozen=True)
class Rows:
    """A table that is read piece by piece.

    Attributes
    ----------
    schema
        Its columns.
    n_rows
        How many rows it has; None if that shows at the end only.
    slices
        Gives rows.
    index
        Where the rows of sky cells are, if rows are in their order.
    """

    schema: Schema
    n_rows: int | None
    slices: Slices
    index: SkyIndex | None = None

    def chunks(self, max_rows: int | None = None) -> Iterator[Columns]:
        """All rows."""
        return self.slices(slice(None), max_rows)


def rows_of_catalogue(catalogue: OpenCatalogue, schema: Schema, watch: Watch | None) -> Rows:
    """Columns of an open catalogue; `watch` hears how far its rows have been read."""
    n_read = 0

    def slices(rows: slice, max_rows: int | None) -> Iterator[Columns]:
        nonlocal n_read
        for chunk in chunks(catalogue, schema, max_rows, rows):
            yield chunk
            n_read += len(next(iter(chunk.values())))
            if watch is not None:
                watch(schema.name, n_read / catalogue.n_rows, n_read)

    return Rows(schema, catalogue.n_rows, slices, catalogue.index())


def rows_in_memory(table: np.ndarray, schema: Schema) -> Rows:
    """Rows of a structured array."""

    def slices(rows: slice, max_rows: int | None) -> Iterator[Columns]:
        begin, end, _ = rows.indices(len(table))
        step = max_rows or max(end - begin, 1)
        for start in range(begin, end, step):
            part = table[start : min(start + step, end)]
            yield {column.name: part[column.name] for column in schema.columns}

    return Rows(schema, len(table), slices)


def text_of(values: np.ndarray) -> np.ndarray:
    """Text of a column as str; bytes that are no UTF-8 are replaced."""
    if values.dtype.kind == "S":
        return np.strings.decode(values, "utf-8", "replace")
    return values


def utf8_of(values: np.ndarray) -> np.ndarray:
    """Text of a column as UTF-8 bytes."""
    if values.dtype.kind == "U":
        return np.strings.encode(values, "utf-8")
    return values


def is_text(column: Column) -> bool:
    """Whether a column holds text."""
    return np.dtype(column.dtype).kind in "SU"


def text_bytes(column: Column) -> int:
    """Bytes that the longest text of a column can need in UTF-8."""
    return max(np.dtype(column.dtype).itemsize, 1)


def is_unknown(values: np.ndarray) -> np.ndarray | None:
    """Which values of a chunk are not known, (n,) bool; None if all are."""
    if isinstance(values, np.ma.MaskedArray) and np.any(values.mask):
        return np.ma.getmaskarray(values)
    return None


def whole_signed(dtype: np.dtype) -> np.dtype:
    """The smallest signed integer of 16 bits or more that holds all values of an integer dtype.

    Raises
    ------
    TypeError
        If there is none.
    """
    if dtype.kind == "u" and dtype.itemsize == 8:
        raise TypeError("unsigned integers of 64 bits fit no signed ones")
    n_bytes = dtype.itemsize * (2 if dtype.kind == "u" else 1)
    return np.dtype(f"i{max(n_bytes, 2)}")
