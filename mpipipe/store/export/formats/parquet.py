"""Parquet: one file, with units, descriptions and UCDs in the metadata of its fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mpipipe.data.errors import ConfigError
from mpipipe.data.schema import Column, Schema
from mpipipe.store.catalogue import Columns
from mpipipe.store.export.rows import Rows, is_text, text_of

SUFFIX = ".parquet"
HOLDS_MANY = False
_GROUP_BYTES = 64 << 20
"""Of a row group in memory."""


def write(tables: Sequence[Rows], target: str, *, replace: bool) -> None:
    """Write one table to a file."""
    (table,) = tables
    max_rows = max(_GROUP_BYTES // table.schema.dtype.itemsize, 1)
    with open_writer(target, table.schema) as writer:
        for chunk in table.chunks(max_rows):
            write_group(writer, chunk)


def open_writer(target: str, schema: Schema, collector: list[Any] | None = None) -> Any:
    """A pyarrow ParquetWriter for rows of a schema; `collector` takes what `_metadata` tells."""
    pyarrow = _pyarrow()
    return pyarrow.parquet.ParquetWriter(
        target,
        arrow_schema(schema),
        compression="snappy",
        use_dictionary=[column.name for column in schema.columns if is_text(column)],
        metadata_collector=collector,
    )


def write_group(writer: Any, chunk: Columns) -> None:
    """Write rows as one row group."""
    pyarrow = _pyarrow()
    arrays = [_array(pyarrow, values) for values in chunk.values()]
    table = pyarrow.Table.from_arrays(arrays, schema=writer.schema)
    writer.write_table(table, row_group_size=max(table.num_rows, 1))


def arrow_schema(schema: Schema) -> Any:
    """A schema as Arrow has it."""
    pyarrow = _pyarrow()
    fields = [
        # Not nullable: that takes half the time, and published tables have no unknown values.
        pyarrow.field(column.name, _type(pyarrow, column), False, _labels(column))
        for column in schema.columns
    ]
    return pyarrow.schema(fields, {"table": schema.name, "description": schema.description})


def _labels(column: Column) -> dict[str, str]:
    labels = {"unit": column.unit, "description": column.description, "ucd": column.ucd}
    return {key: value for key, value in labels.items() if value}


def _type(pyarrow: Any, column: Column) -> Any:
    return pyarrow.string() if is_text(column) else pyarrow.from_numpy_dtype(np.dtype(column.dtype))


def _array(pyarrow: Any, values: np.ndarray) -> Any:
    plain = text_of(values)
    if plain.dtype.kind == "U":
        return pyarrow.array(plain.tolist(), pyarrow.string())
    return pyarrow.array(plain)


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(
            "Parquet needs pyarrow", way_out="pip install 'mpipipe[parquet]'"
        ) from error
    return pyarrow
