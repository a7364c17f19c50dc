"""Tables of a PostgreSQL server: through binary COPY, in one transaction.

Keys and indices are made when all rows are there; units and descriptions become comments. NaN and
infinities are values (NaN is greater than any number there); an object id of none and the sky
cell of a row without a position are NULL.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from mpipipe.data.errors import ConfigError, OutputError
from mpipipe.data.schema import Column, Schema
from mpipipe.store.catalogue import Columns
from mpipipe.store.export.relational import Relation, description, relations
from mpipipe.store.export.rows import Rows, is_text, is_unknown, text_bytes, utf8_of, whole_signed

SUFFIX = ""
HOLDS_MANY = True
_TYPES = {
    "bool": "boolean",
    "int16": "smallint",
    "int32": "integer",
    "int64": "bigint",
    "float32": "real",
    "float64": "double precision",
}
_BEGIN = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_END = struct.pack(">h", -1)
_MAX_NAME = 63
_AT_ONCE = 4096
"""Rows that are made into bytes together: what fits the cache of a core."""


def write(tables: Sequence[Rows], target: str, *, replace: bool) -> None:
    """Write tables to the database of a URL; empty: as the environment says (PGHOST and so on).

    Raises
    ------
    ConfigError
        If a table exists and is not to be replaced, or there is no psycopg.
    OutputError
        If the server can not be reached or refuses.
    """
    psycopg = _psycopg()
    found = relations(tables)
    try:
        # One transaction: it is committed at the end, and rolled back by an error.
        with psycopg.connect(target, application_name="mpipipe export") as connection:
            database = _Database(psycopg.sql, connection)
            for relation in reversed(found):
                database.make_room(relation.schema.name, replace=replace)
            for relation in found:
                database.create(relation)
                database.copy(relation)
            for relation in found:
                database.finish(relation)
    except psycopg.OperationalError as error:
        raise OutputError(
            _reason(error),
            way_out="name the database by -o postgresql://user@host/database, or by PGHOST, "
            "PGUSER and PGDATABASE",
        ) from error
    except psycopg.Error as error:
        raise OutputError(_reason(error)) from error


def _psycopg() -> Any:
    try:
        import psycopg
    except ImportError as error:
        raise ConfigError(
            "PostgreSQL needs psycopg", way_out="pip install 'mpipipe[postgres]'"
        ) from error
    return psycopg


def _reason(error: Exception) -> str:
    return f"PostgreSQL: {' '.join(str(error).split())}"


class _Database:
    """A connection, and names and text safely in SQL."""

    def __init__(self, sql: Any, connection: Any) -> None:
        self._sql = sql
        self._connection = connection

    def _run(self, text: str, *names: str, **parts: Any) -> None:
        """Run a statement; its {} are names, its {key} parts."""
        statement = self._sql.SQL(text).format(*map(self._name, names), **parts)
        self._connection.execute(statement)

    def _name(self, name: str) -> Any:
        if len(name.encode()) > _MAX_NAME or "\0" in name:
            raise OutputError(f"{name!r} is no name for PostgreSQL")
        return self._sql.Identifier(name)

    def make_room(self, table: str, *, replace: bool) -> None:
        """Remove a table that exists, or refuse to."""
        (found,) = self._connection.execute(
            "SELECT count(*) FROM pg_class WHERE relname = %s AND pg_table_is_visible(oid)",
            [table],
        ).fetchone()
        if found and not replace:
            raise ConfigError(
                f"the database has a table {table!r} already", way_out="--force replaces it"
            )
        self._run("DROP TABLE IF EXISTS {}", table)

    def create(self, relation: Relation) -> None:
        """Create a table with its comments."""
        columns = [
            self._sql.SQL("{} {}").format(
                self._name(column.name), self._sql.SQL(_TYPES.get(_stored(column).name, "text"))
            )
            for column in relation.schema.columns
        ]
        table = relation.schema.name
        self._run("CREATE TABLE {} ({columns})", table, columns=self._sql.SQL(", ").join(columns))
        comment = self._sql.Literal(relation.schema.description)
        self._run("COMMENT ON TABLE {} IS {comment}", table, comment=comment)
        for column in relation.schema.columns:
            comment = self._sql.Literal(description(column))
            self._run("COMMENT ON COLUMN {}.{} IS {comment}", table, column.name, comment=comment)

    def copy(self, relation: Relation) -> None:
        """Send the rows."""
        statement = self._sql.SQL("COPY {} FROM STDIN (FORMAT binary, FREEZE)").format(
            self._name(relation.schema.name)
        )
        dtype = _row(relation.schema)
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(_BEGIN)
            for chunk in relation.chunks():
                n_rows = len(next(iter(chunk.values())))
                for start in range(0, n_rows, _AT_ONCE):
                    part = slice(start, start + _AT_ONCE)
                    copy.write(_rows({name: chunk[name][part] for name in chunk}, dtype))
            copy.write(_END)

    def finish(self, relation: Relation) -> None:
        """Make keys and indices, and let the server count what there is."""
        table = relation.schema.name
        if relation.primary_key is not None:
            self._run("ALTER TABLE {} ADD PRIMARY KEY ({})", table, relation.primary_key)
        for name in relation.indexed:
            self._run("CREATE INDEX ON {} ({})", table, name)
        for name, (other, key) in relation.foreign_keys.items():
            self._run(
                "ALTER TABLE {} ADD FOREIGN KEY ({}) REFERENCES {} ({})", table, name, other, key
            )
        self._run("ANALYZE {}", table)


def _stored(column: Column) -> np.dtype:
    """The dtype of a column's values; `S` for text."""
    dtype = np.dtype(column.dtype)
    if is_text(column):
        return np.dtype(f"S{text_bytes(column)}")
    if dtype.kind not in "iu":
        return dtype
    try:
        return whole_signed(dtype)
    except TypeError as error:
        raise OutputError(f"has no place in PostgreSQL: {error}", key=column.name) from error


def _row(schema: Schema) -> np.dtype:
    """A row of binary COPY with all text at its longest: the number of fields, then each one's
    length and value."""
    fields: list[tuple[str, object]] = [("n_fields", ">i2")]
    for number, column in enumerate(schema.columns):
        fields.append((f"length {number}", ">i4"))
        fields.append((f"value {number}", _stored(column).newbyteorder(">")))
    return np.dtype(fields)


def _rows(chunk: Columns, dtype: np.dtype) -> bytes:
    """Rows of binary COPY: text as long as it is, and of values that are NULL the length -1."""
    n_rows = len(next(iter(chunk.values())))
    rows = np.empty(n_rows, dtype=dtype)
    rows["n_fields"] = len(chunk)
    kept = np.ones((n_rows, dtype.itemsize), dtype=bool)
    begin = dtype["n_fields"].itemsize
    for number, values in enumerate(chunk.values()):
        plain, unknown = utf8_of(np.asarray(values)), is_unknown(values)
        is_string = plain.dtype.kind == "S"
        width, lengths = dtype[f"value {number}"].itemsize, rows[f"length {number}"]
        rows[f"value {number}"] = plain
        lengths[...] = np.strings.str_len(plain) if is_string else width
        if unknown is not None:
            lengths[unknown] = -1
        begin += lengths.itemsize
        if is_string or unknown is not None:
            kept[:, begin : begin + width] = np.arange(width) < lengths[:, np.newaxis]
        begin += width
    if np.all(kept):
        return rows.tobytes()
    return rows.view(np.uint8).reshape(n_rows, -1)[kept].tobytes()
