"""SQL over published catalogues, by an embedded DuckDB that reaches nothing else.

Columns are mapped into memory as they lie in the files and handed over as Arrow arrays without a
copy, so a query reads the columns that it names, and no more of a catalogue than it needs is in
memory. DuckDB has no access to files, no extensions, and a configuration that can not be changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpipipe.data.errors import ConfigError, MpipipeError
from mpipipe.data.schema import Column, Schema
from mpipipe.store.catalogue import Columns
from mpipipe.store.export.rows import Rows
from mpipipe.store.hdf5 import OpenCatalogue, opened_catalogue

_SETTINGS = {
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "temp_directory": "",
}
_LOCKS = ("SET enable_external_access = false", "SET lock_configuration = true")
_SEPARATION = """CREATE MACRO separation(ra1, dec1, ra2, dec2) AS degrees(2 * asin(sqrt(least(1.0,
    sin(radians(dec2 - dec1) / 2) ** 2
    + cos(radians(dec1)) * cos(radians(dec2)) * sin(radians(ra2 - ra1) / 2) ** 2))))"""
_AT_ONCE = 1 << 16


class Query:
    """Catalogues as the tables of a database; made by `open_query`."""

    def __init__(self, duckdb: Any, connection: Any) -> None:
        self._duckdb = duckdb
        self._connection = connection

    def rows(self, sql: str, limit: int | None = None) -> Rows:
        """What a SELECT gives; rows can be gone through once.

        Columns of text have the dtype ``U0``: how long it is shows at the end only.

        Raises
        ------
        ConfigError
            If it is no single SELECT, or fails.
        """
        with self._telling():
            statements = self._connection.extract_statements(sql)
        if len(statements) != 1 or statements[0].type != self._duckdb.StatementType.SELECT:
            raise ConfigError("a query is one SELECT; nothing can be changed")
        with self._telling():
            relation = self._connection.sql(statements[0].query)
            reader = (relation if limit is None else relation.limit(limit)).to_arrow_reader(
                _AT_ONCE
            )
        schema = Schema("query", " ".join(sql.split()), tuple(_columns(reader.schema)))

        def slices(rows: slice, max_rows: int | None) -> Iterator[Columns]:
            while True:
                with self._telling():
                    batch = next(reader, None)
                if batch is None:
                    return
                if batch.num_rows:
                    arrays = zip(schema.columns, batch.columns, strict=True)
                    yield {column.name: _values(array, column) for column, array in arrays}

        return Rows(schema, None, slices)

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """DuckDB's errors become ours."""
        try:
            yield
        except MpipipeError:
            raise
        except (self._duckdb.Error, OSError, RuntimeError) as error:
            text = str(error).strip()
            raise ConfigError(f"the query fails: {text}") from error


@contextlib.contextmanager
def open_query(catalogues: Mapping[str, Path]) -> Iterator[Query]:
    """A database of catalogues, by the names of their tables.

    NaN is NULL in it. The function ``separation(ra1, dec1, ra2, dec2)`` gives degrees.

    Raises
    ------
    ConfigError
        If DuckDB is missing.
    BadDataError
        If a catalogue can not be read.
    """
    duckdb = _duckdb()
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(
            contextlib.closing(duckdb.connect(":memory:", config=_SETTINGS))
        )
        for name, path in catalogues.items():
            catalogue = stack.enter_context(opened_catalogue(path))
            stored = f"_{name}"
            connection.register(stored, _mapped(catalogue))
            columns = ", ".join(_shown_columns(catalogue.schema.columns))
            connection.execute(
                f"CREATE VIEW {_quoted(name)} AS SELECT {columns} FROM {_quoted(stored)}"
            )
        for statement in (_SEPARATION, *_LOCKS):
            connection.execute(statement)
        yield Query(duckdb, connection)


def _duckdb() -> Any:
    try:
        import duckdb
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "queries need duckdb and pyarrow", way_out="pip install 'mpipipe[query]'"
        ) from error
    return duckdb


def _mapped(catalogue: OpenCatalogue) -> Any:
    """A catalogue as an Arrow table that lies in its file: truth values as bytes, text as blobs."""
    import pyarrow

    arrays = []
    for column in catalogue.schema.columns:
        values = catalogue.map_column(column)
        if values.dtype.kind == "S":
            kind, data = pyarrow.binary(values.dtype.itemsize), pyarrow.py_buffer(values)
            arrays.append(pyarrow.Array.from_buffers(kind, len(values), [None, data]))
        else:
            plain = values.view(np.uint8) if values.dtype.kind == "b" else values
            arrays.append(pyarrow.array(plain))
    return pyarrow.Table.from_arrays(arrays, [f"c{place}" for place in range(len(arrays))])


def _shown_columns(columns: Sequence[Column]) -> Iterator[str]:
    """What makes the columns of a catalogue of those that are mapped, ``c0`` and so on.

    DuckDB does not tell names apart that differ only by case: the later one gets a number.
    """
    seen: dict[str, int] = {}
    for place, column in enumerate(columns):
        number = seen[column.name.lower()] = seen.get(column.name.lower(), 0) + 1
        name = column.name if number == 1 else f"{column.name}_{number}"
        yield f"{_shown(f'c{place}', np.dtype(column.dtype).kind)} AS {_quoted(name)}"


def _shown(name: str, kind: str) -> str:
    """The values of a mapped column as people expect them."""
    if kind == "b":
        return f"({name} <> 0)"
    if kind in "SU":
        return f"rtrim(decode({name}), chr(0))"
    if kind == "f":
        return f"nullif({name}, 'nan')"
    return name


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _columns(arrow: Any) -> Iterator[Column]:
    """Columns of a result, each under a name of its own."""
    from pyarrow import types

    seen: set[str] = set()
    for number, field in enumerate(arrow, start=1):
        name = field.name if field.name not in seen else f"{field.name}_{number}"
        seen.add(name)
        if types.is_boolean(field.type):
            dtype = "?"
        elif types.is_floating(field.type) or types.is_decimal(field.type):
            dtype = "f4" if types.is_float32(field.type) else "f8"
        elif types.is_integer(field.type):
            dtype = np.dtype(field.type.to_pandas_dtype()).str[1:]
        else:
            dtype = "U0"
        yield Column(name, dtype, "", "")


def _values(array: Any, column: Column) -> np.ndarray:
    """An Arrow array as NumPy has it: NULL is NaN, an empty text, or masked."""
    kind = np.dtype(column.dtype).kind
    if kind == "f":
        return np.array(array.cast("float64")).astype(column.dtype)
    if kind == "U":
        return np.array(["" if one is None else str(one) for one in array.to_pylist()], dtype="U")
    values = np.array(array.fill_null(False if kind == "b" else 0)).astype(column.dtype)
    return np.ma.array(values, mask=np.array(array.is_null())) if array.null_count else values


def gathered(rows: Rows, n_rows: int | None = None) -> Rows:
    """Rows in memory, at most so many, with columns of text as wide as their longest."""
    pieces: list[Columns] = []
    n_read = 0
    for chunk in rows.chunks():
        pieces.append(chunk)
        n_read += len(next(iter(chunk.values())))
        if n_rows is not None and n_read >= n_rows:
            break
    n_kept = n_read if n_rows is None else min(n_read, n_rows)
    columns, whole = [], {}
    for column in rows.schema.columns:
        values = [np.zeros(0, column.dtype), *(piece[column.name] for piece in pieces)]
        whole[column.name] = np.ma.concatenate(values)[:n_kept]
        if np.dtype(column.dtype).kind == "U":
            whole[column.name] = np.asarray(whole[column.name], dtype="U")
        dtype = np.dtype(whole[column.name].dtype)
        columns.append(
            Column(column.name, dtype.str.lstrip("<|="), column.unit, column.description)
        )

    def slices(part: slice, max_rows: int | None) -> Iterator[Columns]:
        yield {name: values[part] for name, values in whole.items()}

    schema = Schema(rows.schema.name, rows.schema.description, tuple(columns))
    return Rows(schema, n_kept, slices)
