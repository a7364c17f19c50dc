"""Reading the files of events: of a rank, of an incarnation, with the clocks of hosts aligned."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mpipipe.data.schema import Column, Schema
from mpipipe.trace.events import KINDS, LAYOUT

EVENT = np.dtype(
    [
        ("start", "<f8"),
        ("duration", "<f8"),
        ("cpu", "<f4"),
        ("n_faults", "<u4"),
        ("n_bytes", "<i8"),
        ("task", "<i4"),
        ("process", "<i4"),
        ("kind", "u1"),
        ("name", "S31"),
    ]
)
"""An event as `mpipipe.trace.events` writes it."""
assert EVENT.itemsize == LAYOUT.size

EVENTS = Schema(
    "events",
    "What the processes of a run did, from when to when",
    (
        Column("rank", "i4", "", "rank, by its number at the start", "meta.id"),
        Column("start", "f8", "s", "since 1970 (UTC), by the clock of rank 0's host", "time.start"),
        Column("duration", "f8", "s", "how long it took", "time.duration"),
        Column("cpu", "f4", "s", "CPU time of the process; NaN: not measured", "time.duration"),
        Column("nFaults", "u4", "", "page faults meanwhile; 0: not counted", "meta.number"),
        Column("nBytes", "i8", "byte", "bytes that were read, written, sent", "phys.size"),
        Column("task", "i4", "", "number of the task; -1: none", "meta.id"),
        Column("process", "i4", "", "number of the process on its host", "meta.id"),
        Column("kind", "S10", "", "startup, phase, task, stage, read, ...", "meta.code.class"),
        Column("name", "S31", "", "stage, phase, or what was done", "meta.id"),
    ),
)
"""All events of an incarnation, as a table."""


def read_events(path: Path | str) -> np.ndarray:
    """The events of a file, rows of `EVENT`, in the order they were written.

    What is torn or makes no sense is left out.
    """
    content = Path(path).read_bytes()
    rows = np.frombuffer(content[: len(content) // EVENT.itemsize * EVENT.itemsize], dtype=EVENT)
    found: np.ndarray = rows[(rows["kind"] < len(KINDS)) & np.isfinite(rows["start"])]
    return found


def rank_of(path: Path) -> int:
    """The rank whose file this is; -1 if it is none."""
    number = path.stem.removeprefix("events-")
    return int(number) if number.isdecimal() else -1


def event_files(folder: Path) -> list[Path]:
    """The files of an incarnation, by rank; of all incarnations, if it is the folder of them."""
    found = folder.rglob("events-*.bin")
    return sorted(path for path in found if rank_of(path) >= 0)


def read_all(files: Iterable[Path]) -> np.ndarray:
    """All events of these files, rows of `EVENTS`, by rank, then start; clocks are aligned."""
    parts = [EVENTS.empty()]
    for path in files:
        rows = read_events(path)
        clock = rows["duration"][rows["kind"] == KINDS.index("clock")]
        behind = float(clock[-1]) if len(clock) else 0.0
        rows = rows[rows["kind"] != KINDS.index("clock")]
        part = np.zeros(len(rows), dtype=EVENTS.dtype)
        part["rank"] = rank_of(path)
        part["start"] = rows["start"] + behind
        for column, field in _SAME.items():
            part[column] = rows[field]
        part["kind"] = np.array(KINDS, dtype="S10")[rows["kind"]]
        parts.append(part[np.lexsort((-part["duration"], part["start"]))])
    return np.concatenate(parts)


_SAME = {
    "duration": "duration",
    "cpu": "cpu",
    "nFaults": "n_faults",
    "nBytes": "n_bytes",
    "task": "task",
    "process": "process",
    "name": "name",
}
"""Columns of `EVENTS` to fields of `EVENT`."""
