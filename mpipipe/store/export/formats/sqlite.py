"""SQLite databases: keys, indices, units and descriptions as comments of the columns (`.schema`).

SQLite has no NaN (and no negative zero): it becomes NULL, as do an object id of none and the sky
cell of a row without a position. Truth values are 0 and 1.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Sequence

import numpy as np

from mpipipe.data.errors import OutputError
from mpipipe.data.schema import Column
from mpipipe.store.export.relational import Relation, description, relations
from mpipipe.store.export.rows import Rows, is_unknown, text_of, whole_signed

SUFFIX = ".sqlite"
HOLDS_MANY = True
_SETTINGS = (
    # The file has no name yet: nobody reads it, and what is left of it after a crash is removed.
    "PRAGMA journal_mode = OFF",
    "PRAGMA synchronous = OFF",
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA page_size = 16384",
    "PRAGMA cache_size = -262144",
    "PRAGMA foreign_keys = OFF",
)


def write(tables: Sequence[Rows], target: str, *, replace: bool) -> None:
    """Write tables to a database file."""
    try:
        with contextlib.closing(sqlite3.connect(target, isolation_level=None)) as connection:
            for setting in _SETTINGS:
                connection.execute(setting)
            connection.execute("BEGIN")
            found = relations(tables)
            for relation in found:
                connection.execute(_create(relation))
                _insert(connection, relation)
            for relation in found:
                _index(connection, relation)
            _check_keys(connection, target)
            connection.execute("COMMIT")
            connection.execute("PRAGMA optimize")
    except sqlite3.Error as error:
        raise OutputError(f"can not be written: {error}", file=target) from error


def _insert(connection: sqlite3.Connection, relation: Relation) -> None:
    marks = ",".join("?" * len(relation.schema.columns))
    insert = f"INSERT INTO {_quoted(relation.schema.name)} VALUES ({marks})"
    for chunk in relation.chunks():
        connection.executemany(insert, zip(*map(_values, chunk.values()), strict=True))


def _values(values: np.ndarray) -> list[object]:
    """Values as SQLite takes them: what Python's module passes on without asking its adapters."""
    unknown, plain = is_unknown(values), np.asarray(values)
    if plain.dtype.kind == "b":
        plain = plain.view(np.uint8)
    found = list(text_of(plain).tolist())
    for i in () if unknown is None else np.flatnonzero(unknown):
        found[i] = math.nan  # which SQLite takes for NULL
    return found


def _create(relation: Relation) -> str:
    lines = []
    for column in relation.schema.columns:
        words = [_quoted(column.name), _type(column)]
        if column.name == relation.primary_key:
            words.append("PRIMARY KEY NOT NULL")
        if column.name in relation.foreign_keys:
            table, key = relation.foreign_keys[column.name]
            words.append(f"REFERENCES {_quoted(table)} ({_quoted(key)})")
        lines.append((" ".join(words), description(column)))
    commas = [","] * (len(lines) - 1) + [""]
    body = "\n".join(
        f"  {words}{comma} -- {text}" for (words, text), comma in zip(lines, commas, strict=True)
    )
    comment = " ".join(relation.schema.description.split())
    return f"CREATE TABLE {_quoted(relation.schema.name)} ( -- {comment}\n{body}\n)"


def _type(column: Column) -> str:
    """A type whose affinity SQLite takes from its name.

    Not INTEGER for the primary key, which would be the order of rows on the disk: they stay in
    that of the sky.
    """
    dtype = np.dtype(column.dtype)
    if dtype.kind in "iu":
        try:
            return {2: "SMALLINT", 4: "INT", 8: "BIGINT"}[whole_signed(dtype).itemsize]
        except TypeError as error:
            raise OutputError(f"has no place in SQLite: {error}", key=column.name) from error
    return {"b": "BOOLEAN", "f": "REAL"}.get(dtype.kind, "TEXT")


def _index(connection: sqlite3.Connection, relation: Relation) -> None:
    table = relation.schema.name
    for name in relation.indexed:
        index = _quoted(f"{table}_{name}")
        connection.execute(f"CREATE INDEX {index} ON {_quoted(table)} ({_quoted(name)})")


def _check_keys(connection: sqlite3.Connection, target: str) -> None:
    for table, row, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        raise OutputError(f"row {row} of {table} belongs to no row of {parent}", file=target)


def _quoted(name: str) -> str:
    """A name as SQL has it, whatever is in it."""
    if "\0" in name:
        raise OutputError(f"{name!r} is no name for SQL")
    return '"' + name.replace('"', '""') + '"'
