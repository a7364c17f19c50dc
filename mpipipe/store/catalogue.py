"""Reading published catalogues: cones, streams of rows in bounded memory, astropy tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mpipipe.data.errors import BadDataError, ConfigError
from mpipipe.data.schema import Schema
from mpipipe.store.hdf5 import OpenCatalogue, opened_catalogue
from mpipipe.store.refcat.cells import unit_vectors

if TYPE_CHECKING:
    from astropy.table import Table

Columns = dict[str, np.ndarray]
"""Some rows of a table: an array a column, all of one length; masked ones have unknown values."""

CHUNK_BYTES = 16 << 20
"""Of rows that are in memory at a time, about."""


def read_cone(
    path: Path | str,
    ra: float,
    dec: float,
    radius: float,
    columns: Sequence[str] | None = None,
) -> np.ndarray:
    """The rows whose positions are in a cone, in the order of the catalogue.

    Of a catalogue with a sky index only the cells that the cone touches are read; of another one
    all positions, some at a time.

    Parameters
    ----------
    ra, dec, radius
        Middle and radius, degrees (ICRS); the rim belongs to the cone.
    columns
        Names of the columns to read; None for all.

    Raises
    ------
    BadDataError
        If the file is no catalogue, or lacks a column or positions.
    ConfigError
        If there is no such cone.
    """
    if not (np.isfinite(ra) and abs(dec) <= 90.0 and 0.0 <= radius <= 180.0):
        raise ConfigError(f"there is no cone at ra {ra}, dec {dec} of radius {radius} degrees")
    with opened_catalogue(path) as catalogue:
        schema = catalogue.select(columns)
        found = [schema.empty()]
        for rows in _slices(catalogue, ra, dec, radius):
            inside = np.flatnonzero(_separations(catalogue, rows, ra, dec) <= radius)
            if not len(inside):
                continue
            span = slice(rows.start + int(inside[0]), rows.start + int(inside[-1]) + 1)
            part = schema.empty(len(inside))
            for column in schema.columns:
                part[column.name] = catalogue.column(column, span)[inside - inside[0]]
            found.append(part)
    return np.concatenate(found)


def separations(ra: np.ndarray, dec: np.ndarray, at_ra: float, at_dec: float) -> np.ndarray:
    """Degrees between positions and a place (degrees); NaN without a position."""
    a, b = unit_vectors(ra, dec), unit_vectors(at_ra, at_dec)[:, np.newaxis]
    chord, sum_chord = np.linalg.norm(a - b, axis=0), np.linalg.norm(a + b, axis=0)
    return np.asarray(np.degrees(2.0 * np.arctan2(chord, sum_chord)))


def _slices(catalogue: OpenCatalogue, ra: float, dec: float, radius: float) -> Iterator[slice]:
    """Slices of rows that hold all rows of a cone, none longer than a chunk."""
    index, step = catalogue.index(), CHUNK_BYTES // 16
    for rows in [slice(0, catalogue.n_rows)] if index is None else index.near(ra, dec, radius):
        for start in range(rows.start, rows.stop, step):
            yield slice(start, min(start + step, rows.stop))


def _separations(catalogue: OpenCatalogue, rows: slice, ra: float, dec: float) -> np.ndarray:
    try:
        names = catalogue.schema.position
    except KeyError as error:
        raise BadDataError("has no positions on the sky", file=catalogue.path) from error
    ra_column, dec_column = catalogue.select(names).columns
    positions = catalogue.column(ra_column, rows), catalogue.column(dec_column, rows)
    return separations(*positions, ra, dec)


def iterate_catalogue(
    path: Path | str, columns: Sequence[str] | None = None, max_rows: int | None = None
) -> Iterator[Columns]:
    """The rows of a catalogue, some at a time, in order.

    Parameters
    ----------
    columns
        Names of the columns to read; None for all.
    max_rows
        How many at a time; None for as many as `CHUNK_BYTES` hold.

    Raises
    ------
    BadDataError
        If the file is no catalogue or lacks a column.
    """
    with opened_catalogue(path) as catalogue:
        yield from chunks(catalogue, catalogue.select(columns), max_rows)


def chunks(
    catalogue: OpenCatalogue,
    schema: Schema,
    max_rows: int | None = None,
    rows: slice = slice(None),
) -> Iterator[Columns]:
    """The rows of an open catalogue, or a slice of them, some at a time."""
    begin, end, _ = rows.indices(catalogue.n_rows)
    step = max_rows or max(CHUNK_BYTES // max(schema.dtype.itemsize, 1), 1)
    for start in range(begin, end, step):
        part = slice(start, min(start + step, end))
        yield {column.name: catalogue.column(column, part) for column in schema.columns}


def read_table(path: Path | str, columns: Sequence[str] | None = None) -> Table:
    """A catalogue as an astropy Table with units and descriptions; text is str.

    `astropy.table.QTable(read_table(path))` makes quantities of the columns with units.

    Raises
    ------
    BadDataError
        If the file is no catalogue or lacks a column.
    """
    from astropy.table import Column, Table

    table = Table()
    with opened_catalogue(path) as catalogue:
        schema = catalogue.select(columns)
        for column in schema.columns:
            values = catalogue.column(column)
            if values.dtype.kind == "S":
                values = np.strings.decode(values, "utf-8")
            table[column.name] = Column(
                values,
                unit=column.unit or None,
                description=column.description,
                meta={"ucd": column.ucd},
            )
        table.meta |= {"name": schema.name, "description": schema.description}
    return table
