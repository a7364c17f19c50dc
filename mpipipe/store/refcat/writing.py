"""Writing a reference catalogue from a stream of rows, in bounded memory.

The rows go into spill files, one for each cell of a coarse order. A cell with few stars becomes a
shard, together with its neighbours if they fit into the cell above; one with many is divided, in
memory if it fits, else by spill files of a finer order. Everything happens in a folder aside, which
gets its name when the catalogue is whole.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mpipipe.data.errors import ConfigError, OutputError
from mpipipe.data.refcat import reference_schema
from mpipipe.data.schema import Schema
from mpipipe.data.sky_cells import FINEST, finest_cells, parents
from mpipipe.store.checksums import aside_of
from mpipipe.store.fits import write_bytes_atomically
from mpipipe.store.fits_tables import table_hdu
from mpipipe.store.refcat.cells import unit_vectors
from mpipipe.store.refcat.index import Index, Shards, shard_path

MAX_ROWS = 100_000
_COARSE_ORDER = 3
_ORDERS_AT_ONCE = 3
_MOST_BYTES = 64 << 20
"""Of rows that are divided in memory."""

_BLOCK = 2880
"""Bytes of a FITS block."""

_SAME_PLACE = np.radians(1.0 / 3600.0)
"""Within which two rows of one id are one star."""

Progress = Callable[[int], None]
"""Called with the number of rows of each shard that has been written."""


def write_refcat(
    folder: Path,
    chunks: Iterable[np.ndarray],
    bands: Sequence[str],
    name: str,
    *,
    is_absolute: bool = True,
    max_rows: int = MAX_ROWS,
    made: Callable[[], Mapping[str, Any]] = dict,
    progress: Progress | None = None,
) -> Index:
    """Write a reference catalogue.

    The same rows in the same order give the same bytes, however they are cut into chunks. A row
    less than an arcsecond from an earlier one of the same id is left out.

    Parameters
    ----------
    folder
        What to make; it must not exist, or be empty.
    chunks
        Rows of `reference_schema(bands)` with finite positions, some at a time.
    name
        Of the catalogue, for people.
    is_absolute
        False: it was made from a run's own frames.
    max_rows
        Of a shard.
    made
        Gives what the index tells about how the catalogue was made; called after the last chunk.
    progress
        Called after every shard.

    Raises
    ------
    ConfigError
        If the folder is used already.
    OutputError
        If it can not be written. Nothing stays then, nor after an interrupt.
    """
    refuse_used(folder)
    schema, aside = reference_schema(bands), aside_of(folder)
    try:
        with _naming(folder):
            aside.mkdir(parents=True)
            spill = _Spill(aside / "spill", schema, _COARSE_ORDER)
        for rows in chunks:
            placed = _placed(rows)
            with _naming(folder):
                spill.add(placed)
        facts = dict(made())
        with _naming(folder):
            writer = _ShardWriter(aside, schema, max_rows, progress)
            for cell in range(12):
                writer.divide(spill, 0, cell)
            shutil.rmtree(aside / "spill")
            facts["duplicates_left_out"] = writer.n_duplicates
            index = Index(name, tuple(bands), is_absolute, max_rows, writer.shards(), facts)
            index.write(aside)
            os.replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return index


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Tell which catalogue can not be written, and what to do about it."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"can not be written: {error.strerror or error}",
            file=folder,
            way_out="make space or mend permissions, or choose another folder with -o",
        ) from error


def refuse_used(folder: Path) -> None:
    """Refuse a folder that holds something.

    Raises
    ------
    ConfigError
        If it does.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            "exists already", file=folder, way_out="choose another folder with -o, or remove it"
        )


def _placed(rows: np.ndarray) -> np.ndarray:
    """Rows with the cell of order 29 that each is in."""
    placed = np.empty(len(rows), dtype=_spilled(rows.dtype))
    for name in rows.dtype.names or ():
        placed[name] = rows[name]
    placed["finest"] = finest_cells(rows["ra"], rows["dec"])
    return placed


def _spilled(dtype: np.dtype) -> np.dtype:
    return np.dtype([*dtype.descr, ("finest", "<i8")])


class _Spill:
    """Rows in files, one for each cell of an order, in the order in which they came."""

    def __init__(self, folder: Path, schema: Schema, order: int) -> None:
        self.order = order
        self._folder = folder
        self._dtype = _spilled(schema.dtype)
        self._n_rows: Counter[int] = Counter()
        folder.mkdir()

    def add(self, rows: np.ndarray) -> None:
        if not len(rows):
            return
        cells = parents(rows["finest"], self.order)
        by_cell = np.argsort(cells, kind="stable")
        found, starts = np.unique(cells[by_cell], return_index=True)
        for cell, members in zip(found.tolist(), np.split(by_cell, starts[1:]), strict=True):
            with open(self._path(cell), "ab") as stream:
                stream.write(rows[members].tobytes())
            self._n_rows[cell] += len(members)

    def count(self, order: int, cell: int) -> int:
        """Rows in a cell of a coarser order, or the same."""
        return sum(self._n_rows[part] for part in self._parts(order, cell))

    def take(self, order: int, cell: int) -> np.ndarray:
        """The rows in a cell of a coarser order, or the same; their files are removed."""
        parts = [np.zeros(0, dtype=self._dtype)]
        for part in self._parts(order, cell):
            if self._n_rows[part]:
                parts.append(np.fromfile(self._path(part), dtype=self._dtype))
                self._path(part).unlink()
        return np.concatenate(parts)

    def finer(self, schema: Schema, cell: int) -> _Spill:
        """The rows of one cell, spilled again by cells of a finer order."""
        order = min(self.order + _ORDERS_AT_ONCE, FINEST)
        spill = _Spill(self._folder / f"{self.order}-{cell}", schema, order)
        n_at_once = _MOST_BYTES // self._dtype.itemsize
        with open(self._path(cell), "rb") as stream:
            while len(rows := np.fromfile(stream, dtype=self._dtype, count=n_at_once)):
                spill.add(rows)
        self._path(cell).unlink()
        return spill

    def _parts(self, order: int, cell: int) -> range:
        shift = 2 * (self.order - order)
        return range(cell << shift, (cell + 1) << shift)

    def _path(self, cell: int) -> Path:
        return self._folder / f"{self.order}-{cell}.rows"


class _ShardWriter:
    """Divides cells until each has few enough stars, and writes them."""

    def __init__(
        self, folder: Path, schema: Schema, max_rows: int, progress: Progress | None
    ) -> None:
        from astropy.io import fits

        self.n_duplicates = 0
        self._folder = folder
        self._schema = schema
        self._max_rows = max_rows
        self._in_memory = max(max_rows, _MOST_BYTES // schema.dtype.itemsize)
        self._progress = progress
        # Headers through astropy take as long as some thousand rows, so they are made once.
        self._primary = fits.PrimaryHDU().header.tostring().encode()
        self._header = table_hdu(schema, schema.empty()).header
        self._written: list[tuple[int, int, int, str]] = []

    def divide(self, spill: _Spill, order: int, cell: int) -> None:
        """Write the shards inside a cell, whose rows are in spill files."""
        n_rows = spill.count(order, cell)
        if not n_rows:
            return
        if n_rows <= self._max_rows or order == FINEST:
            self._divide_rows(self._unique(spill.take(order, cell)), order, cell)
        elif order < spill.order:
            for child in range(4 * cell, 4 * cell + 4):
                self.divide(spill, order + 1, child)
        elif n_rows <= self._in_memory:
            self._divide_rows(self._unique(spill.take(order, cell)), order, cell)
        else:
            finer = spill.finer(self._schema, cell)
            for child in range(4 * cell, 4 * cell + 4):
                self.divide(finer, order + 1, child)

    def shards(self) -> Shards:
        """What has been written, in nested order."""
        order, cell, n_rows = (
            np.array([shard[i] for shard in self._written], dtype=np.int64) for i in range(3)
        )
        return Shards(order, cell, n_rows, tuple(shard[3] for shard in self._written))

    def _unique(self, rows: np.ndarray) -> np.ndarray:
        """Rows by place and id, without those that stand twice.

        Stars of one id in two places are two: catalogues in several files may begin to count anew.
        """
        _, first, which = np.unique(rows["id"], return_index=True, return_inverse=True)
        apart = unit_vectors(rows["ra"], rows["dec"])
        apart -= apart[:, first[which]]
        is_repeated = np.sum(apart**2, axis=0) < _SAME_PLACE**2
        is_repeated[first] = False
        self.n_duplicates += int(np.count_nonzero(is_repeated))
        rows = rows[~is_repeated]
        return rows[np.lexsort((rows["id"], rows["finest"]))]

    def _divide_rows(self, rows: np.ndarray, order: int, cell: int) -> None:
        """Write the shards inside a cell of these rows, which are sorted by place."""
        if not len(rows):
            return
        if len(rows) <= self._max_rows or order == FINEST:
            self._write(rows, order, cell)
            return
        children = np.arange(4 * cell, 4 * cell + 5)
        edges = np.searchsorted(rows["finest"], children << (2 * (FINEST - order - 1)))
        for child, begin, end in zip(children[:4].tolist(), edges[:-1], edges[1:], strict=True):
            self._divide_rows(rows[begin:end], order + 1, child)

    def _write(self, rows: np.ndarray, order: int, cell: int) -> None:
        header = self._header.copy()
        header["NAXIS2"] = len(rows)
        header["HPXORDER"] = (order, "order of the HEALPix cell (nested, ICRS)")
        header["HPXPIXEL"] = (cell, "number of the HEALPix cell")
        table = np.empty(len(rows), dtype=self._schema.dtype.newbyteorder(">"))
        for name in table.dtype.names or ():
            table[name] = rows[name]
        padding = bytes(-table.nbytes % _BLOCK)
        content = b"".join([self._primary, header.tostring().encode(), table.tobytes(), padding])
        digest = write_bytes_atomically(shard_path(self._folder, order, cell), content)
        self._written.append((order, cell, len(rows), digest))
        if self._progress is not None:
            self._progress(len(rows))
