"""Where the time goes: every process notes what it did, from when to when.

One file a rank, in JSON lines, shared by the rank's MPI process and its task process: each writes
whole lines by one call to a file opened for appending. A line is::

    {"t0": 1700000000.123456, "dt": 0.25, "cpu": 0.24, "kind": "stage", "name": "isr.overscan",
     "task": 17, "bytes": 0, "pid": 4711}

t0 in seconds since 1970 (UTC), dt and cpu in seconds. Nothing is recorded before `start`.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KINDS = ("stage", "read", "write", "commit", "message", "wait", "exchange", "task", "phase")
"""What an event can be."""

_MAX_BUFFER = 256

# perf_counter is steady, time.time jumps when the clock is set: pair them once.
_EPOCH = time.time() - time.perf_counter()


class _Recorder:
    """The events of this process, on their way to the file."""

    def __init__(self) -> None:
        self.path = ""
        self.task = -1
        self._fd = -1
        self._lines: list[str] = []

    def open(self, path: str) -> None:
        """Write to this file from now on; an empty path for nowhere."""
        self.flush()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self.path = path
        if path:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def add(self, kind: str, name: str, t0: float, dt: float, cpu: float, n_bytes: int) -> None:
        if self._fd < 0:
            return
        self._lines.append(
            f'{{"t0": {t0 + _EPOCH:.6f}, "dt": {dt:.6f}, "cpu": {cpu:.6f}, "kind": "{kind}", '
            f'"name": {json.dumps(name)}, "task": {self.task}, "bytes": {n_bytes}, '
            f'"pid": {os.getpid()}}}\n'
        )
        if len(self._lines) >= _MAX_BUFFER:
            self.flush()

    def flush(self) -> None:
        if self._lines and self._fd >= 0:
            # A full disk must not end a run for the sake of its statistics.
            with contextlib.suppress(OSError):
                os.write(self._fd, "".join(self._lines).encode())
        self._lines.clear()


_recorder = _Recorder()


def start(folder: Path | str, rank: int) -> Path:
    """Record into ``folder/events-RANK.jsonl`` from now on."""
    path = Path(folder) / f"events-{rank:05d}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    _recorder.open(str(path))
    return path


def stop() -> None:
    """Write what is left and record no more."""
    _recorder.open("")


def flush() -> None:
    """Write what is left."""
    _recorder.flush()


def settings() -> dict[str, Any]:
    """What another process of this rank needs to record into the same file (`resume`)."""
    return {"path": _recorder.path}


def resume(given: dict[str, Any]) -> None:
    """Record where another process of this rank does."""
    if _recorder.path != given["path"]:
        _recorder.open(given["path"])


def set_task(task_id: int) -> None:
    """The task to which the events from now on belong; -1 for none."""
    _recorder.task = task_id


def record(kind: str, name: str, start: float, cpu_s: float = 0.0, n_bytes: int = 0) -> None:
    """Note something that began at `start` (of `time.perf_counter`) and ends now."""
    _recorder.add(kind, name, start, time.perf_counter() - start, cpu_s, n_bytes)


@contextlib.contextmanager
def span(kind: str, name: str, n_bytes: int = 0) -> Iterator[None]:
    """Note how long the block takes."""
    begin, cpu = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        record(kind, name, begin, time.process_time() - cpu, n_bytes)


def read_events(path: Path | str) -> list[dict[str, Any]]:
    """The events of a file, in the order they were written; broken lines are left out."""
    found = []
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return found
