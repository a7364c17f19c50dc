"""HATS: a folder of Parquet files, each of one HEALPix cell (Norder=K/Dir=D/Npix=N.parquet).

The layout is that of IVOA's note on HATS 1.0, which LSDB and others read. A cell is as large as
its rows allow. Rows without a position have no cell; they are in `unplaced.parquet`, beside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpipipe import __version__
from mpipipe.data.errors import OutputError
from mpipipe.data.schema import Column, Schema
from mpipipe.data.sky_cells import finest_cells
from mpipipe.store.catalogue import Columns
from mpipipe.store.export.exporting import MARK
from mpipipe.store.export.formats.parquet import arrow_schema, open_writer, write_group
from mpipipe.store.export.rows import Rows
from mpipipe.store.sky_index import SKY_ORDER, UNPLACED, SkyIndex

SUFFIX = ".hats"
HOLDS_MANY = False
MAX_BYTES = 128 << 20
"""Of the rows of a file in memory, unless one cell of the sky index has more."""

_CELL = Column("_healpix_29", "i8", "", "HEALPix cell, nested, order 29")
_DIR = 10_000


def write(tables: Sequence[Rows], target: str, *, replace: bool) -> None:
    """Write one table to a folder."""
    (table,) = tables
    if table.index is None:
        raise OutputError(
            f"{table.schema.name} is not in the order of the sky, so it can not be cut into cells",
            way_out="--to parquet makes one file; object and source are in the order of the sky",
        )
    _position(table.schema)
    max_rows = max(MAX_BYTES // table.schema.dtype.itemsize, 1)
    folder, found = Path(target), list(partitions(table.index, max_rows))
    (folder / "dataset").mkdir(parents=True)
    collector: list[Any] = []
    for order, cell, rows in found:
        _write_cell(folder / "dataset", order, cell, _read(table, rows), table.schema, collector)
    _write_summary(folder, table.schema, [(order, cell) for order, cell, _ in found], collector)
    n_placed = sum(rows.stop - rows.start for _, _, rows in found)
    _write_properties(folder, table, n_placed, found, max_rows)
    n_rows = int(table.index.first[-1])
    if n_placed < n_rows:
        with open_writer(str(folder / "unplaced.parquet"), table.schema) as writer:
            for chunk in table.slices(slice(n_placed, n_rows), max_rows):
                write_group(writer, chunk)


def partitions(index: SkyIndex, max_rows: int) -> Iterator[tuple[int, int, slice]]:
    """The largest cells with at most so many rows: order, cell, rows; in nested order."""
    placed = index.cells[index.cells != UNPLACED]

    def divide(order: int, cell: int) -> Iterator[tuple[int, int, slice]]:
        shift = 2 * (SKY_ORDER - order)
        begin, end = np.searchsorted(placed, [cell << shift, (cell + 1) << shift])
        rows = slice(int(index.first[begin]), int(index.first[end]))
        if rows.start == rows.stop:
            return
        if rows.stop - rows.start <= max_rows or order == SKY_ORDER:
            yield order, cell, rows
            return
        for child in range(4 * cell, 4 * cell + 4):
            yield from divide(order + 1, child)

    for cell in range(12):
        yield from divide(0, cell)


def _position(schema: Schema) -> tuple[str, str]:
    try:
        return schema.position
    except KeyError as error:
        raise OutputError("HATS needs the columns of the position", key="--columns") from error


def _read(table: Rows, rows: slice) -> Columns:
    pieces = list(table.slices(rows, None))
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _write_cell(
    folder: Path, order: int, cell: int, rows: Columns, schema: Schema, collector: list[Any]
) -> None:
    """Write the rows of a cell, in the order of their finest cells."""
    ra, dec = schema.position
    finest = finest_cells(rows[ra], rows[dec])
    by_place = np.argsort(finest, kind="stable")
    relative = f"Norder={order}/Dir={cell // _DIR * _DIR}/Npix={cell}.parquet"
    (folder / relative).parent.mkdir(parents=True, exist_ok=True)
    metadata: list[Any] = []
    with open_writer(str(folder / relative), _with_cell(schema), metadata) as writer:
        placed = {_CELL.name: finest[by_place]}
        write_group(writer, placed | {name: values[by_place] for name, values in rows.items()})
    for one in metadata:
        one.set_file_path(relative)
    collector += metadata


def _with_cell(schema: Schema) -> Schema:
    return Schema(schema.name, schema.description, (_CELL, *schema.columns))


def _write_summary(
    folder: Path, schema: Schema, cells: list[tuple[int, int]], collector: list[Any]
) -> None:
    """Write what lets a reader find the files without looking at all."""
    from pyarrow import parquet

    arrow = arrow_schema(_with_cell(schema))
    parquet.write_metadata(arrow, folder / "dataset" / "_common_metadata")
    parquet.write_metadata(arrow, folder / "dataset" / "_metadata", metadata_collector=collector)
    lines = ["Norder,Npix", *(f"{order},{cell}" for order, cell in cells)]
    (folder / "partition_info.csv").write_text("\n".join(lines) + "\n")


def _write_properties(
    folder: Path,
    table: Rows,
    n_rows: int,
    found: list[tuple[int, int, slice]],
    max_rows: int,
) -> None:
    ra, dec = table.schema.position
    properties = {
        "obs_collection": table.schema.name,
        "obs_description": " ".join(table.schema.description.split()),
        "dataproduct_type": "object" if table.schema.name == "object" else "source",
        "hats_nrows": n_rows,
        "hats_col_ra": ra,
        "hats_col_dec": dec,
        "hats_max_rows": max_rows,
        "hats_order": max((order for order, _, _ in found), default=0),
        "hats_npix_suffix": ".parquet",
        "moc_sky_fraction": f"{sum(4.0**-order for order, _, _ in found) / 12:.8g}",
        "hats_builder": f"mpipipe {__version__}",
        "hats_version": "1.0",
    }
    text = "".join(f"{key}={value}\n" for key, value in properties.items())
    for name in ("properties", MARK):
        (folder / name).write_text(text)
