"""From files of any format to a reference catalogue."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import mpipipe
from mpipipe.data.errors import BadDataError, ConfigError
from mpipipe.store.refcat.columns import ColumnMap, Wish, map_columns
from mpipipe.store.refcat.index import Index
from mpipipe.store.refcat.sources import find_sources, open_source
from mpipipe.store.refcat.writing import MAX_ROWS, refuse_used, write_refcat

Watch = Callable[[str, float, int], None]
"""Called with what is done (``reading``, ``writing``), the share of it, and the rows so far."""


@dataclass
class Ingest:
    """What to make a catalogue of, and what was met on the way.

    Attributes
    ----------
    files
        Files and folders.
    wishes
        What the user says about columns.
    epoch
        MJD (TAI) of positions for which no column tells; NaN: unknown.
    n_read, n_unplaced
        Rows that were read, and those without a position, which were left out.
    notes
        What the user should hear, a line each.
    """

    files: Sequence[Path]
    wishes: Sequence[Wish] = ()
    epoch: float = np.nan
    n_read: int = 0
    n_unplaced: int = 0
    notes: list[str] = field(default_factory=list)
    _sources: list[dict[str, Any]] = field(default_factory=list)

    def write(
        self,
        folder: Path,
        name: str,
        *,
        is_absolute: bool = True,
        max_rows: int = MAX_ROWS,
        watch: Watch | None = None,
    ) -> Index:
        """Make the catalogue; see `write_refcat`.

        Raises
        ------
        BadDataError
            If a file is damaged, or lacks a column.
        ConfigError
            If the folder is used already, or a format is not known.
        OutputError
            If the catalogue can not be written.
        """
        refuse_used(folder)
        paths = find_sources(self.files)
        tell = watch or (lambda *_: None)
        bands = self._map(paths[0])[1].bands
        n_written = 0

        def written(n_rows: int) -> None:
            nonlocal n_written
            n_written += n_rows
            tell("writing", n_written / max(self.n_read - self.n_unplaced, 1), n_written)

        return write_refcat(
            folder,
            self._chunks(paths, bands, tell),
            bands,
            name,
            is_absolute=is_absolute,
            max_rows=max_rows,
            made=self._made,
            progress=written,
        )

    def _map(self, path: Path) -> tuple[Any, ColumnMap]:
        source = open_source(path)
        return source, map_columns(path, source.names, source.units, self.wishes, self.epoch)

    def _chunks(
        self, paths: list[Path], bands: tuple[str, ...], tell: Watch
    ) -> Iterator[np.ndarray]:
        sizes = np.array([path.stat().st_size for path in paths], dtype=float)
        shares = np.cumsum(sizes) / max(sizes.sum(), 1.0)
        for number, path in enumerate(paths):
            source, columns = self._map(path)
            if set(columns.bands) != set(bands):
                raise BadDataError(
                    f"has the bands {', '.join(columns.bands) or '(none)'}, "
                    f"{paths[0].name} has {', '.join(bands) or '(none)'}",
                    file=path,
                    way_out="ingest them one by one, or map the columns with --column",
                )
            before, n_before = shares[number - 1] if number else 0.0, self.n_read
            for table, share in source.chunks(columns.sources):
                rows = columns.rows(table, bands)
                n_rows = len(table[columns.picks["ra"].source])
                self.n_read += n_rows
                self.n_unplaced += n_rows - len(rows)
                yield rows
                tell("reading", before + share * (shares[number] - before), self.n_read)
            self._note(path, columns, self.n_read - n_before)

    def _note(self, path: Path, columns: ColumnMap, n_rows: int) -> None:
        picks = {
            target: pick.source
            + (f":{pick.unit}" if pick.unit else "")
            + (f"{pick.offset:+.10g}" if pick.offset else "")
            for target, pick in columns.picks.items()
        }
        self._sources.append({"file": path.name, "n_rows": n_rows, "columns": picks})
        self.notes += [note for note in columns.notes if note not in self.notes]

    def _made(self) -> dict[str, Any]:
        if self.n_read == self.n_unplaced:
            raise ConfigError(
                f"no star with a position in {self.n_read} rows",
                way_out="look at the columns: --column ra=... --column dec=...",
            )
        return {
            "by": f"mpipipe {mpipipe.__version__}",
            "sources": self._sources,
            "rows_read": self.n_read,
            "without_position_left_out": self.n_unplaced,
            "notes": self.notes,
        }
