"""What the tests of checkpoints share: small files, and records that can be told apart."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mpipipe.store.checkpoint.geometry import Geometry
from mpipipe.store.checkpoint.reader import CheckpointReader
from mpipipe.store.checkpoint.writer import CheckpointWriter
from mpipipe.store.records import Damage, Record

SMALL = Geometry(4, 1 << 15, 128, 1, attributes={"run": "test"})

Content = tuple[str, int, int, int, bytes, bytes]


def content(task: int, size: int | None = None) -> Content:
    """What `CheckpointWriter.append` takes for a task, always the same."""
    rng = np.random.default_rng(task)
    n_bytes = int(rng.integers(0, 900)) if size is None else size
    return "calibrate", task, 1, task % 7, rng.bytes(n_bytes), b'{"task": %d}' % task


def writer(folder: Path, shared: Path | None, rank: int = 0, n_ranks: int = 1) -> CheckpointWriter:
    return CheckpointWriter(folder, rank, n_ranks, SMALL, None, shared)


def fields(record: Record) -> Content:
    return (
        record.phase,
        record.task_id,
        record.attempt,
        record.kind,
        record.payload,
        record.meta,
    )


def read(path: Path, *, thorough: bool = False) -> tuple[list[Record], list[Damage]]:
    """Whole records of a file and its damage."""
    with CheckpointReader(path) as reader:
        rows = reader.read_new(thorough=thorough)
        return list(reader.records(rows)), reader.damage


def read_folder(folder: Path) -> list[Content]:
    """All records of all files."""
    return [fields(record) for path in sorted(folder.glob("*.h5")) for record in read(path)[0]]


def forked(function: Callable[[], None]) -> int:
    """Call a function in a child process; its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        function()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended_well(pid: int) -> bool:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
