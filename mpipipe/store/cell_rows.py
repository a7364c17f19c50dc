"""The rows of sky cells on their way from an exchange into files, one a cell.

Rows that arrive are held until they take more than a fixed number of bytes, then appended to a
file for each cell; so memory does not depend on how many there are. A finished file has its cell's
rows in the order of ids: it is the same, whatever way they came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mpipipe.data.association import SOURCE
from mpipipe.data.errors import BadDataError, OutputError
from mpipipe.store.checksums import sha256_file
from mpipipe.store.columnfile import map_column_file, write_column_file

TRAVELLING = np.dtype([("cell", "<i4"), ("own", "?"), ("row", SOURCE.dtype)])
"""A row of `SOURCE` on its way: the number of its cell, and whether the cell owns it."""


class CellRowsWriter:
    """Takes rows of many cells, in any order.

    Parameters
    ----------
    files
        Number of a cell to the file that its rows end in.
    buffer_bytes
        What is held before it is appended.
    facts
        What JSON can say of all cells: it is written into the files, beside their names, and so
        part of their checksums.
    token
        Keeps the rows that wait apart from those of others who write the same files.

    Raises
    ------
    OutputError
        From all methods, if the files can not be written.
    """

    def __init__(
        self,
        files: dict[int, Path],
        buffer_bytes: int,
        facts: Mapping[str, Any] | None = None,
        token: str = "0",
    ) -> None:
        self._facts, self._token = dict(facts or {}), token
        self._files, self._most = files, max(buffer_bytes // TRAVELLING.itemsize, 1)
        self._held: list[np.ndarray] = []
        self._n_held = 0
        for path in files.values():
            with _writing(path):
                self._spill(path).unlink(missing_ok=True)

    def _spill(self, path: Path) -> Path:
        """Where rows wait in the order of arrival; swept up with what other writers leave."""
        return path.with_name(f"{path.name}.{self._token}.spill.part")

    def add(self, rows: np.ndarray) -> None:
        """Take rows of dtype `TRAVELLING`."""
        self._held.append(rows.copy())
        self._n_held += len(rows)
        if self._n_held >= self._most:
            self._append()

    def _append(self) -> None:
        """Append what is held to the files."""
        if not self._held:
            return
        held = np.concatenate(self._held)
        self._held, self._n_held = [], 0
        held = held[np.argsort(held["cell"], kind="stable")]
        first = np.flatnonzero(np.diff(held["cell"], prepend=-1))
        for cell, rows in zip(held["cell"][first], np.split(held, first[1:]), strict=True):
            path = self._spill(self._files[int(cell)])
            with _writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "ab") as stream:
                    stream.write(rows.tobytes())

    def finish(self, cell: int) -> tuple[int, int, str]:
        """Write a cell's file, aside and renamed.

        Returns
        -------
        n_own, n_halo, sha256
            Rows that the cell owns, rows around it, and the checksum of the file.
        """
        self._append()
        path = self._files[cell]
        spill = self._spill(path)
        found = np.empty(0, dtype=TRAVELLING)
        if spill.exists():
            found = np.fromfile(spill, dtype=TRAVELLING)
        found = found[np.argsort(found["row"]["id"], kind="stable")]
        facts = self._facts | {"cell": path.stem}
        write_column_file(path, {"rows": found["row"], "own": found["own"]}, facts)
        spill.unlink(missing_ok=True)
        n_own = int(np.count_nonzero(found["own"]))
        return n_own, len(found) - n_own, sha256_file(path)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"can not be written: {error.strerror}",
            file=path,
            way_out="look at permissions and free space, then resume",
        ) from error


def read_cell_rows(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a cell and its halo in the order of ids, and which of them it owns.

    Raises
    ------
    BadDataError
        If the file is missing or damaged.
    """
    arrays, _ = map_column_file(path)
    if set(arrays) != {"rows", "own"} or arrays["rows"].dtype != SOURCE.dtype:
        raise BadDataError("does not hold the rows of a sky cell", file=path)
    return arrays["rows"], arrays["own"]
