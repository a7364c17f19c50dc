"""Rows that a command prints: as a table for people, or in a format for programs."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from mpipipe.data.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from mpipipe.data.schema import Column
    from mpipipe.store.export.rows import Rows

SHOWN = 50
"""Rows of a table for people, unless --limit says another number."""

ToOption = Annotated[
    str | None,
    typer.Option("--to", metavar="FORMAT", help="csv, json or votable instead of a table."),
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", metavar="N", help="Rows, at most.", min=0)
]


def print_rows(rows: Rows, to: str | None, limit: int | None) -> None:
    """Print rows to standard output.

    Raises
    ------
    ConfigError
        If the format does not exist or can not be printed.
    """
    from mpipipe.store.export.exporting import load_format
    from mpipipe.store.query import gathered

    if to is None:
        n_shown = SHOWN if limit is None else limit
        _print_table(gathered(rows, n_shown + 1), n_shown)
        return
    write_stream = getattr(load_format(to), "write_stream", None)
    if write_stream is None:
        raise ConfigError(f"{to} can not be printed", key="--to", way_out="csv, json or votable")
    # VOTable tells before the rows how long text can be.
    write_stream(gathered(rows) if to == "votable" else rows, sys.stdout.buffer)
    sys.stdout.buffer.flush()


def _print_table(rows: Rows, n_shown: int) -> None:
    (chunk,) = rows.chunks()
    blocks = []
    for column in rows.schema.columns:
        texts = [_text(value, column) for value in chunk[column.name][:n_shown].tolist()]
        width = max([len(column.name), *map(len, texts)])
        blocks.append((column.name, texts, width))
    fitting = _fitting([width for _, _, width in blocks])
    lines = zip(*([name, *texts] for name, texts, _ in blocks[:fitting]), strict=True)
    for line in lines:
        cells = zip(line, blocks, strict=False)
        typer.echo("  ".join(text.rjust(width) for text, (_, _, width) in cells))
    n_rows = rows.n_rows or 0
    if n_rows > n_shown:
        typer.echo(f"... and more: the first {n_shown} rows (--limit, or --to csv)")
    elif n_rows == 0:
        typer.echo("no rows")
    if fitting < len(blocks):
        left_out = len(blocks) - fitting
        typer.echo(f"{left_out} columns more than fit here (name some, or --to csv)", err=True)


def _fitting(widths: Sequence[int]) -> int:
    """How many columns the terminal has room for; all where there is none."""
    if not sys.stdout.isatty():
        return len(widths)
    room, used = shutil.get_terminal_size().columns + 2, 0
    for number, width in enumerate(widths):
        used += width + 2
        if used > room:
            return max(number, 1)
    return len(widths)


def _text(value: object, column: Column) -> str:
    """A value as a person reads it: positions to 0.4 mas, other numbers to what they are worth."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float):
        if column.name in ("ra", "dec"):
            return f"{value:.7f}"
        return f"{value:.7g}" if column.dtype == "f4" else f"{value:.10g}"
    return str(value)


def rows_of(table: np.ndarray, schema_columns: Sequence[Column], name: str) -> Rows:
    """Rows of a table in memory, with the schema of the catalogue it is from."""
    from mpipipe.data.schema import Schema
    from mpipipe.store.export.rows import rows_in_memory

    known = {column.name: column for column in schema_columns}
    chosen = tuple(known[field] for field in table.dtype.names or ())
    return rows_in_memory(table, Schema(name, "", chosen))
