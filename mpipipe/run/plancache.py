"""Task tables of large inputs, kept from one plan to the next.

The header index (`mpipipe.store.scan`) spares opening files; sorting a million of their headers
into visits still takes a minute. So the table of tasks is kept, too, and taken again when there are
the same files, of the same sizes and times of change, and the same code looks at them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import mpipipe
from mpipipe.data.camera import Camera
from mpipipe.data.errors import BadDataError, OutputError
from mpipipe.run.task import TaskTable
from mpipipe.store.columnfile import map_column_file, write_column_file

LEAST_FILES = 1000
"""Fewer files are sorted faster than this is worth."""
_MOST_KEPT = 8
_SEPARATOR = "\0"


@dataclass(frozen=True)
class Found:
    """What RAW was found to hold.

    Attributes
    ----------
    table
        Its tasks, without costs.
    n_files, n_cached
        FITS files, and how many of them were not opened.
    """

    table: TaskTable
    camera: Camera
    n_files: int
    n_cached: int


class PlanCache:
    """The tables that are kept in a folder.

    Parameters
    ----------
    folder
        Made if need be; it is a cache, so that it can not be read or written is no error.
    files
        Absolute paths of the input.
    asked
        What else the table depends on: camera, goal.
    """

    def __init__(self, folder: Path, files: Sequence[str], *asked: str) -> None:
        self._path: Path | None = None
        self._n_files = len(files)
        if len(files) >= LEAST_FILES:
            self._path = folder / f"plan-{fingerprint(files, asked)}.columns"

    def find(self) -> Found | None:
        """The table of these very files, if it is kept."""
        if self._path is None or not self._path.exists():
            return None
        try:
            columns, facts = map_column_file(self._path)
            camera = Camera.model_validate_json(facts["camera"])
            problems = columns.pop("kept_problems").tobytes().decode("utf-8", "surrogateescape")
            listed = problems.split(_SEPARATOR) if problems else []
            table = TaskTable(columns, facts["words"], facts["folders"], listed)
        except (BadDataError, KeyError, TypeError, ValueError):
            return None
        n_tasks = len(table)
        columns["cost"] = np.zeros(n_tasks, dtype="f4")
        columns["memory"] = np.zeros(n_tasks, dtype="i8")
        with contextlib.suppress(OSError):
            os.utime(self._path)
        return Found(table, camera, self._n_files, self._n_files)

    def keep(self, found: Found) -> None:
        """Keep a table; those that were not used for longest make room."""
        if self._path is None:
            return
        columns = {k: v for k, v in found.table.columns.items() if k not in ("cost", "memory")}
        text = _SEPARATOR.join(found.table.problems).encode("utf-8", "surrogateescape")
        columns["kept_problems"] = np.frombuffer(text, dtype="u1")
        facts = {
            "camera": found.camera.model_dump_json(exclude_none=True),
            "words": found.table.words,
            "folders": found.table.folders,
        }
        with contextlib.suppress(OutputError, OSError):
            write_column_file(self._path, columns, facts)
            kept = sorted(self._path.parent.glob("plan-*.columns"), key=lambda p: p.stat().st_mtime)
            for path in kept[:-_MOST_KEPT]:
                path.unlink(missing_ok=True)


def fingerprint(files: Sequence[str], asked: Sequence[str]) -> str:
    """A digest of files by path, size and time of change, of what is asked, and of the code."""
    seen = np.fromiter(_sizes_and_times(files), dtype=np.dtype(("i8", 2)), count=len(files))
    digest = hashlib.sha256(_SEPARATOR.join((*asked, _code_digest())).encode())
    digest.update(_SEPARATOR.join(files).encode("utf-8", "surrogateescape"))
    digest.update(seen.tobytes())
    return digest.hexdigest()[:32]


def _sizes_and_times(files: Sequence[str]) -> Iterator[tuple[int, int]]:
    for path in files:
        try:
            status = os.stat(path)
        except OSError:
            yield -1, -1
        else:
            yield status.st_size, status.st_mtime_ns


def _code_digest() -> str:
    """Of all of mpipipe, camera descriptions included."""
    root = Path(mpipipe.__file__).parent
    digest = hashlib.sha256()
    for pattern in ("data/**/*.py", "data/**/*.toml", "store/*.py", "run/*.py"):
        for path in sorted(root.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()
