"""What a database makes of a table: keys, indices, and values that are not there."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from mpipipe.data.association import NO_OBJECT
from mpipipe.data.errors import OutputError
from mpipipe.data.schema import Column, Schema
from mpipipe.store.catalogue import Columns
from mpipipe.store.export.rows import Rows
from mpipipe.store.sky_index import SKY_ORDER, UNPLACED, sky_cells

OBJECT, OBJECT_ID = "object", "objectId"
_OF_OBJECTS = frozenset({"source", "badSource", "sourceHist"})
"""Tables whose `objectId` is that of an object; that of `forcedSrc` is of another catalogue."""
SKY_CELL = Column(
    "skyCell", "i8", "", f"HEALPix cell, nested, order {SKY_ORDER}; NULL without a position"
)


@dataclass(frozen=True)
class Relation:
    """A table as a database has it.

    Attributes
    ----------
    rows
        The table.
    schema
        Its columns, and the sky cell if it has positions.
    primary_key
        Column with a different value in each row; None if no column is known to be such.
    foreign_keys
        Column to the table and column that hold its value, too.
    indexed
        Columns to be found by.
    """

    rows: Rows
    schema: Schema
    primary_key: str | None
    foreign_keys: dict[str, tuple[str, str]]
    indexed: tuple[str, ...]

    @classmethod
    def of(cls, rows: Rows, tables: Collection[str]) -> Relation:
        """The relation of a table that comes together with `tables`.

        Raises
        ------
        OutputError
            If names of columns differ only by case, which databases do not tell apart.
        """
        names = [column.name for column in rows.schema.columns]
        columns = rows.schema.columns
        if _position(rows.schema) is not None:
            columns = (*columns, SKY_CELL)
        _refuse_alike(rows.schema.name, [column.name for column in columns])
        primary = _primary_key(rows.schema)
        foreign = {}
        if rows.schema.name in _OF_OBJECTS and OBJECT_ID in names and OBJECT in tables:
            foreign[OBJECT_ID] = (OBJECT, OBJECT_ID)
        indexed = [
            column.name
            for column in columns
            if column.name in (OBJECT_ID, SKY_CELL.name, "id") and column.name != primary
        ]
        schema = Schema(rows.schema.name, rows.schema.description, columns)
        return cls(rows, schema, primary, foreign, tuple(indexed))

    def chunks(self) -> Iterator[Columns]:
        """The rows with their sky cells; what is not there is masked."""
        position = _position(self.rows.schema)
        for chunk in self.rows.chunks():
            if position is not None:
                cells = sky_cells(chunk[position[0]], chunk[position[1]])
                chunk[SKY_CELL.name] = np.ma.masked_equal(cells, UNPLACED)
            if OBJECT_ID in chunk:
                chunk[OBJECT_ID] = np.ma.masked_equal(chunk[OBJECT_ID], NO_OBJECT)
            yield chunk


def relations(tables: Collection[Rows]) -> list[Relation]:
    """Tables that come together, objects first.

    Raises
    ------
    OutputError
        If a database can not hold them.
    """
    has_ids = any(_primary_key(rows.schema) == OBJECT_ID for rows in tables)
    names = {rows.schema.name for rows in tables if rows.schema.name != OBJECT or has_ids}
    found = [Relation.of(rows, names) for rows in tables]
    return sorted(found, key=lambda relation: relation.schema.name != OBJECT)


def _position(schema: Schema) -> tuple[str, str] | None:
    try:
        return schema.position
    except KeyError:
        return None


def _primary_key(schema: Schema) -> str | None:
    """`id`, or of objects `objectId`; the rows of a history may share one."""
    wanted = OBJECT_ID if schema.name == OBJECT else "id"
    if schema.name.endswith("Hist"):
        return None
    return next((column.name for column in schema.columns if column.name == wanted), None)


def _refuse_alike(table: str, names: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(name.lower(), name)) != name:
            raise OutputError(f"table {table!r} has {other!r} and {name!r}: databases see no case")


def description(column: Column) -> str:
    """What people are told of a column, on one line."""
    unit = f"[{column.unit}] " if column.unit else ""
    return " ".join(f"{unit}{column.description}".split())
