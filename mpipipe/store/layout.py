"""Where things lie in a run folder. Every path of a run is made here and stays inside it.

There are two arrangements. A run of a survey has a folder for each kind of product. A folder for a
person (`mpipipe process`, `mpipipe associate`) is flat: what people look for stands side by side,
all else in the folder `BOOKS`, where an empty file is the mark of this arrangement.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

from mpipipe.data.errors import ConfigError, OutputError

CHECKPOINT_SUFFIXES = (".h5", ".ckpt")
"""Of a checkpoint that is HDF5, and of one that was made where there is no h5py."""

BOOKS = "run"
"""In a flat folder: how its products came about."""

_FLAT = "flat"
"""The mark."""

ON_TOP = ("object", "source", "badSource", "sourceHist", "badSourceHist")
"""Tables that stand beside the images in a flat folder."""

_UNSAFE = re.compile(r"[^A-Za-z0-9_.+-]")


def safe_name(text: str) -> str:
    """`text` (a detector, a band) as a file-name part: no separators, no leading dot."""
    return _UNSAFE.sub("_", text).lstrip(".") or "_"


def index_folder() -> Path:
    """Where headers that were read once are remembered: in the user's cache."""
    home_cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home_cache) / "mpipipe" / "index"


@dataclass(frozen=True)
class RunLayout:
    """The folder of one run.

    Attributes
    ----------
    root
        The run folder, absolute.
    is_flat
        Whether products stand side by side.
    """

    root: Path
    is_flat: bool = False

    @classmethod
    def at(cls, folder: Path | str, *, is_flat: bool = False) -> RunLayout:
        """The layout of `folder`; of one that does not exist yet as it is asked for."""
        root = Path(folder).absolute()
        return cls(root, is_flat or (root / BOOKS / _FLAT).is_file())

    @property
    def books(self) -> Path:
        """Where everything lies that is no product."""
        return self.root / BOOKS if self.is_flat else self.root

    @property
    def config(self) -> Path:
        """The resolved configuration (TOML)."""
        return self.books / "config.toml"

    @property
    def camera(self) -> Path:
        """The camera description as the run used it (JSON)."""
        return self.books / "camera.json"

    @property
    def plan(self) -> Path:
        """The tasks of the run, as columns."""
        return self.books / "plan.columns"

    @property
    def costs(self) -> Path:
        """What the tasks of the run cost, for the plans of others (JSON)."""
        return self.books / "costs.json"

    @property
    def halt(self) -> Path:
        """Written by somebody who wants the run to stop."""
        return self.books / "halt.json"

    @property
    def heartbeat(self) -> Path:
        """Touched every few seconds while the run goes on."""
        return self.books / "heartbeat"

    @property
    def lease(self) -> Path:
        """Who works on the run."""
        return self.books / "lease.json"

    @property
    def completion(self) -> Path:
        """The completion record: written last; a run is done when it verifies."""
        return self.books / "completion.json"

    @property
    def outcomes(self) -> Path:
        """How every task ended, and why (JSON)."""
        return self.books / "outcomes.json"

    @property
    def slimmed(self) -> Path:
        """Products that were removed since they can be made again (JSON)."""
        return self.books / "slimmed.json"

    @property
    def own_tables(self) -> Path:
        """Which tables on top of a flat folder are the run's own (JSON)."""
        return self.books / "own_tables.json"

    @property
    def calibs(self) -> Path:
        """Masters, when the run builds them itself."""
        return self.books / "calibs"

    @property
    def logs(self) -> Path:
        """One log a rank."""
        return self.books / "logs"

    @property
    def trace(self) -> Path:
        """Events, a folder an incarnation."""
        return self.books / "trace"

    def trace_of(self, incarnation: int) -> Path:
        """Events of one incarnation, a file a rank, and all of them as a table."""
        return self.trace / f"{incarnation:04d}"

    @property
    def records(self) -> Path:
        """Committed task records, a folder an incarnation."""
        return self.books / "records"

    def record_folder(self, incarnation: int) -> Path:
        """Where the records of one incarnation are."""
        return self.records / f"{incarnation:04d}"

    def checkpoint(self, incarnation: int) -> Path:
        """The file of all ranks' records; where it can not be, each rank has its own beside it."""
        return self.record_folder(incarnation) / "checkpoint.h5"

    def checkpoints(self, incarnation: int) -> list[Path]:
        """All files of records of one incarnation, in a fixed order."""
        folder = self.record_folder(incarnation)
        return sorted(path for path in folder.glob("*") if path.suffix in CHECKPOINT_SUFFIXES)

    def provenance(self, incarnation: int) -> Path:
        """Who ran the incarnation, when, where, with what."""
        return self.books / "provenance" / f"{incarnation:04d}.json"

    @property
    def cells(self) -> Path:
        """The sky cells of the association, and what each holds, as columns."""
        return self.books / "association" / "cells.columns"

    def cell_rows(self, name: str) -> Path:
        """The sources of one sky cell and its halo, as long as the association goes on."""
        return self.books / "association" / "rows" / f"{safe_name(name)}.columns"

    def catalogue(self, name: str) -> Path:
        """A published table."""
        if self.is_flat and name in ON_TOP:
            return self.root / f"{name}.h5"
        return self.books / "catalogs" / f"{safe_name(name)}.h5"

    def catalogues(self) -> dict[str, Path]:
        """All published tables, by name."""
        found = [*(self.books / "catalogs").glob("*.h5"), *map(self.catalogue, ON_TOP)]
        return {path.stem: path for path in sorted(set(found)) if path.exists()}

    def exposure_table(self, name: str, visit: int, ccd: str) -> Path:
        """The part of a table that is of one visit and CCD, in a flat folder."""
        return self.root / f"{safe_name(name)}-{visit}-{safe_name(ccd)}.h5"

    def published(self, name: str) -> Path:
        """A table that has been published.

        Raises
        ------
        ConfigError
            If it has not.
        """
        known = self.catalogues()
        if name not in known:
            tables = f"it has {', '.join(known)}" if known else "no table is published yet"
            raise ConfigError(f"has no table {name!r}", file=self.root, way_out=tables)
        return known[name]

    def image(self, kind: str, visit: int, ccd: str, suffix: str = "") -> Path:
        """An image product of one visit and CCD, e.g. kind ``calexp``."""
        name = f"{safe_name(kind)}-{visit}-{safe_name(ccd)}{suffix}.fits"
        if self.is_flat:
            return self.root / name
        return self.root / safe_name(kind) / str(int(visit)) / name

    def images(self, kind: str) -> dict[tuple[int, str], Path]:
        """Image products of a kind that are there, by visit and CCD, this as `safe_name` has it."""
        prefix = f"{safe_name(kind)}-"
        folder = self.root if self.is_flat else self.root / safe_name(kind)
        found = {}
        for path in sorted(folder.glob(f"{'' if self.is_flat else '*/'}{prefix}*-*.fits")):
            visit, _, ccd = path.stem.removeprefix(prefix).partition("-")
            if visit.isdecimal() and ccd:
                found[int(visit), ccd] = path
        return found

    def relative(self, path: Path) -> str:
        """`path` relative to the run folder, with forward slashes, for records."""
        return path.relative_to(self.root).as_posix()

    def inside(self, relative: str) -> Path:
        """The path of a product named in a record; refuses to leave the run folder.

        Raises
        ------
        ConfigError
            If `relative` points outside.
        """
        path = (self.root / relative).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise ConfigError(f"{relative!r} leaves the run folder", file=self.root)
        return path

    def create(self) -> None:
        """Make the folder (it may exist and be empty).

        Raises
        ------
        OutputError
            If it can not be made or written to.
        """
        try:
            self.books.mkdir(parents=True, exist_ok=True)
            if self.is_flat:
                (self.books / _FLAT).touch()
            probe = self.root / ".write-probe"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise self._unwritable(error.strerror) from error

    def check_parent(self) -> None:
        """See whether the folder could be made, without making it.

        Raises
        ------
        OutputError
            If it can not.
        """
        nearest = next(path for path in (self.root, *self.root.parents) if path.exists())
        if not nearest.is_dir():
            raise self._unwritable(f"{nearest} is a file")
        if not os.access(nearest, os.W_OK | os.X_OK):
            is_fixed = os.statvfs(nearest).f_flag & os.ST_RDONLY
            raise self._unwritable(os.strerror(errno.EROFS if is_fixed else errno.EACCES))

    def _unwritable(self, reason: str | None) -> OutputError:
        return OutputError(
            f"the run folder can not be written: {reason}",
            file=self.root,
            way_out="choose another folder with -o, or mend its permissions",
        )

    def incarnations(self) -> list[int]:
        """Numbers of the incarnations that have started, ascending."""
        if not self.records.is_dir():
            return []
        return sorted(int(p.name) for p in self.records.iterdir() if p.name.isdigit())
