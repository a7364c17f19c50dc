"""Exporting tables: formats by name, written aside and renamed."""

from __future__ import annotations

import contextlib
import os
import pkgutil
import shutil
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

from mpipipe.data.errors import ConfigError, OutputError
from mpipipe.data.schema import Schema
from mpipipe.data.validation import nearest
from mpipipe.store.checksums import aside_of
from mpipipe.store.export import formats
from mpipipe.store.export.rows import Rows, Watch, rows_of_catalogue
from mpipipe.store.hdf5 import opened_catalogue

MARK = "hats.properties"
"""In every folder that an export makes."""

_CHOOSE = "choose another with -o"


class Format(Protocol):
    """A module of `mpipipe.store.export.formats`."""

    SUFFIX: str
    """Of its files or folders; empty for a server."""

    HOLDS_MANY: bool
    """Whether one target holds several tables."""

    def write(self, tables: Sequence[Rows], target: str, *, replace: bool) -> None:
        """Write tables to a file or folder that does not exist yet, or to a server.

        `replace` matters to servers only: tables that exist give way.
        """


def format_names() -> list[str]:
    """Names of all formats, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(formats.__path__))


def load_format(name: str) -> Format:
    """The format of a name.

    Raises
    ------
    ConfigError
        If there is none.
    """
    known = format_names()
    if name not in known:
        near = nearest(name, known)
        hint = f"did you mean {near!r}?" if near else f"known are {', '.join(known)}"
        raise ConfigError(f"there is no format {name!r}", key="--to", way_out=hint)
    found: Format = import_module(f"{formats.__name__}.{name}")
    return found


def format_for(target: str | None) -> str:
    """The name of the format that a file of this name has.

    Raises
    ------
    ConfigError
        If its name tells none.
    """
    known = format_names()
    for name in known:
        suffix = load_format(name).SUFFIX
        if target is not None and suffix and target.endswith(suffix):
            return name
    raise ConfigError("is not given", key="--to", way_out=f"one of {', '.join(known)}")


def export_tables(
    paths: Sequence[Path],
    to: Format,
    target: str,
    *,
    columns: Sequence[str] | None = None,
    force: bool = False,
    watch: Watch | None = None,
) -> dict[str, int]:
    """Export catalogues to one file, folder or database.

    A file or folder is written aside and then renamed, a server's tables come in one transaction:
    nothing half-made is to be seen at any time.

    Parameters
    ----------
    paths
        Catalogues.
    to
        From `load_format`.
    target
        File, folder or address of the server.
    columns
        Names of the columns to export, of one catalogue; None for all.
    force
        What is there gives way.
    watch
        Hears how far it is.

    Returns
    -------
    dict
        Name of each table to its number of rows.

    Raises
    ------
    BadDataError
        If a catalogue can not be read, or lacks a column.
    ConfigError
        If the target is there, and not `force`.
    OutputError
        If it can not be written, or the format can not hold the tables.
    """
    if to.SUFFIX:
        refuse_existing(Path(target), force=force)
    with contextlib.ExitStack() as stack:
        tables = []
        for path in paths:
            catalogue = stack.enter_context(opened_catalogue(path))
            schema = catalogue.select(columns)
            _refuse_arrays(schema, path)
            tables.append(rows_of_catalogue(catalogue, schema, watch))
        if to.SUFFIX:
            with placed_aside(Path(target)) as aside:
                to.write(tables, str(aside), replace=True)
        else:
            to.write(tables, target, replace=force)
    return {table.schema.name: table.n_rows or 0 for table in tables}


def refuse_existing(path: Path, *, force: bool = False) -> None:
    """Refuse a target that exists; with `force` only a folder that no export has made.

    Raises
    ------
    ConfigError
        If it does.
    """
    if path.is_dir() and not (path / MARK).is_file():
        raise ConfigError("is a folder that no export has made", file=path, way_out=_CHOOSE)
    if not force and (path.exists() or path.is_symlink()):
        raise ConfigError("exists already", file=path, way_out=f"{_CHOOSE}, or give --force")


def _refuse_arrays(schema: Schema, path: Path) -> None:
    for column in schema.columns:
        if schema.dtype[column.name].shape:
            raise OutputError("columns of arrays can not be exported", file=path, key=column.name)


@contextlib.contextmanager
def placed_aside(path: Path) -> Iterator[Path]:
    """A name to write to that becomes `path` at the end; nothing stays if that fails.

    Raises
    ------
    OutputError
        If it can not be written.
    """
    aside, old = aside_of(path), aside_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        if aside.is_dir() or path.is_dir():
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, old)
        try:
            os.replace(aside, path)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.replace(old, path)
            raise
    except OSError as error:
        raise OutputError(
            f"can not be written: {error.strerror or error}",
            file=path,
            way_out="look at permissions and free space, or choose another place with -o",
        ) from error
    finally:
        for left in (aside, old):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
