"""Where the time goes: every process notes what it did, from when to when.

One file a rank, ``events-RANK.bin``, shared by the rank's MPI process and its task process: each
collects events in a buffer that is there from the beginning and appends it whole, by one call, when
it is full, at the end of a phase, and every few seconds. A rank that is killed loses what it had
not appended, nothing else. An event is 72 bytes (`mpipipe.trace.eventfile.EVENT` reads them)::

    start, duration (f8, s), CPU time (f4, s), page faults (u4), bytes (i8),
    task, process (i4), kind (u1, place in KINDS), name (31 bytes)

Starts are seconds since 1970 by the clock of the host, which is read once: later jumps of it do not
show. CPU time is NaN where nobody looked: the clock of a process costs as much as a short event.
Nothing is recorded before `start`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import struct
import time
from pathlib import Path
from typing import Any

KINDS = (
    "startup",
    "phase",
    "task",
    "stage",
    "read",
    "write",
    "checkpoint",
    "send",
    "idle",
    "exchange",
    "collective",
    "serial",
    "clock",
    "sample",
)
"""What an event can be.

startup: from the start of the process to that of the recording. phase, task, stage: they hold those
that happen meanwhile. idle: a rank waits for a task. serial: what rank 0 does while the others
wait. clock: its duration is how much this host's clock is behind rank 0's. sample: no stretch of
time, but a number of bytes: peak memory, bytes really read and written so far.
"""

LAYOUT = struct.Struct("<ddfIqiiB31s")
_CODES = {kind: code for code, kind in enumerate(KINDS)}
_N_EVENTS = 256
_FLUSH_S = 5.0
_NAN = float("nan")

# perf_counter is steady, and the same for all processes of a host; time.time jumps when the clock
# is set: pair them once.
EPOCH = time.time() - time.perf_counter()


class _Recorder:
    """The events of this process, on their way to the file."""

    def __init__(self) -> None:
        self.path = ""
        self.task = -1
        self.fd = -1
        self.pid = os.getpid()
        self.buffer = bytearray(LAYOUT.size * _N_EVENTS)
        self.used = 0
        self.next_flush = 0.0
        self.names: dict[str, bytes] = {}

    def open(self, path: str) -> None:
        """Write to this file from now on; an empty path for nowhere."""
        self.flush()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self.path = path
        if path:
            self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def flush(self) -> None:
        if self.used and self.fd >= 0:
            # A full disk must not end a run for the sake of its statistics.
            with contextlib.suppress(OSError):
                written = os.write(self.fd, memoryview(self.buffer)[: self.used])
                if torn := -written % LAYOUT.size:
                    # So that the next one begins where events do; this one makes no sense.
                    os.write(self.fd, b"\xff" * torn)
        self.used = 0
        self.next_flush = time.perf_counter() + _FLUSH_S

    def after_fork(self) -> None:
        """In the child: what is in the buffer is the parent's."""
        self.pid, self.used = os.getpid(), 0


_recorder = _Recorder()
os.register_at_fork(after_in_child=_recorder.after_fork)


def start(folder: Path | str, rank: int) -> Path:
    """Record into ``folder/events-RANK.bin`` from now on."""
    path = Path(folder) / f"events-{rank:05d}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    _recorder.open(str(path))
    if (began := _process_start()) is not None:
        record("startup", "python, imports, MPI", began, time.process_time())
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


def record(
    kind: str, name: str, start: float, cpu_s: float = _NAN, n_bytes: int = 0, n_faults: int = 0
) -> None:
    """Note something that began at `start` (of `time.perf_counter`) and ends now."""
    end = time.perf_counter()
    _add(kind, name, start, end - start, cpu_s, n_bytes, n_faults, end)


def sample(name: str, n_bytes: int) -> None:
    """Note a number of bytes."""
    now = time.perf_counter()
    _add("sample", name, now, 0.0, _NAN, n_bytes, 0, now)


def note_clock(behind_s: float) -> None:
    """Note how much this host's clock is behind that of rank 0's host."""
    now = time.perf_counter()
    _add("clock", "behind rank 0", now, behind_s, _NAN, 0, 0, now)


def _add(
    kind: str,
    name: str,
    start: float,
    duration: float,
    cpu_s: float,
    n_bytes: int,
    n_faults: int,
    now: float,
) -> None:
    own = _recorder
    if own.fd < 0:
        return
    encoded = own.names.get(name)
    if encoded is None:
        encoded = own.names[name] = name.encode()[:31]
    code = _CODES[kind]
    LAYOUT.pack_into(own.buffer, own.used, start + EPOCH, duration, cpu_s, n_faults, n_bytes,
                     own.task, own.pid, code, encoded)  # fmt: skip
    own.used += LAYOUT.size
    if own.used == len(own.buffer) or now > own.next_flush:
        own.flush()


class span:
    """Note how long a block takes, with its CPU time.

    Attributes
    ----------
    n_bytes
        May be set while it lasts.
    """

    __slots__ = ("_begin", "_cpu", "kind", "n_bytes", "name")

    def __init__(self, kind: str, name: str, n_bytes: int = 0) -> None:
        self.kind, self.name, self.n_bytes = kind, name, n_bytes

    def __enter__(self) -> span:
        self._cpu, self._begin = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        cpu_s = time.process_time() - self._cpu
        record(self.kind, self.name, self._begin, cpu_s, self.n_bytes)


def count_faults() -> int:
    """Page faults of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt + usage.ru_majflt


def sample_process() -> None:
    """Note peak memory, and the bytes that this process has really read and written."""
    sample("peak memory", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/io", encoding="ascii") as lines:
            counts = dict(line.split(":") for line in lines)
        sample("bytes from disk", int(counts["read_bytes"]))
        sample("bytes to disk", int(counts["write_bytes"]))
        sample("bytes read", int(counts["rchar"]))
        sample("bytes written", int(counts["wchar"]))


def _process_start() -> float | None:
    """When this process was started, by `time.perf_counter`; None if the system does not tell."""
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as stream:
            fields = stream.read().rpartition(")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None
    return time.perf_counter() - age
