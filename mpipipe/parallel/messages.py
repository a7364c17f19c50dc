"""What ranks tell each other during a phase: fixed NumPy records, one dtype a message.

Every record begins with the number of the phase in this run (`epoch`), so that a message that
comes late into the next phase is known as stale.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum

import numpy as np

from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.parallel.tasks import TaskResult

BATCH = 64
"""Most records in a message; keeps every message small enough to be sent without a handshake."""

_MAX_TEXT = 3500


class Tag(IntEnum):
    """The kinds of message; used as MPI tags."""

    ASSIGN = 1
    """Master to worker: tasks to run (`ASSIGN`, up to `BATCH`)."""
    DRAIN = 2
    """Master to worker: drop what has not started (`LEVEL`; 2: what runs, too)."""
    STOP = 3
    """Master to worker: the phase is over (`LEVEL`)."""
    OUTCOME = 4
    """Worker to master: attempts have ended and are committed (`OUTCOME`, up to `BATCH`)."""
    TEXT = 5
    """Worker to master, before the OUTCOME: stage, reason, traceback (`TEXT` and UTF-8 bytes)."""
    GIVEN_BACK = 6
    """Worker to master, after DRAIN: nothing is held any more (`LEVEL`)."""
    ASK_STOP = 7
    """Worker to master: this rank was asked to stop (`LEVEL`; 2: at once)."""
    HELLO = 8
    """Worker to master, first of all: what it holds already (`HELLO`, up to `BATCH`, the last
    message with `more` 0; task id -1 if nothing)."""
    BEAT = 9
    """Worker to master: a sign of life (`LEVEL`)."""
    PULSE = 10
    """Master to worker: a sign of life (`LEVEL`)."""
    KILL = 11
    """Master to worker: kill this silent rank beside you (`LEVEL`)."""


ASSIGN = np.dtype([("epoch", "i4"), ("attempt", "i4"), ("task_id", "i8")])
LEVEL = np.dtype([("epoch", "i4"), ("level", "i4")])
HELLO = np.dtype(
    [("epoch", "i4"), ("attempt", "i4"), ("task_id", "i8"), ("more", "i4"), ("drain", "i4")]
)
OUTCOME = np.dtype(
    [
        ("epoch", "i4"),
        ("attempt", "i4"),
        ("task_id", "i8"),
        ("kind", "i4"),
        ("has_text", "i4"),
        ("starved", "i4"),
        ("wall_s", "f8"),
        ("cpu_s", "f8"),
        ("peak_bytes", "i8"),
    ]
)
TEXT = np.dtype([("epoch", "i4"), ("attempt", "i4"), ("task_id", "i8")])

TO_WORKER = frozenset({Tag.ASSIGN, Tag.DRAIN, Tag.STOP, Tag.PULSE, Tag.KILL})

_DTYPES = {
    Tag.ASSIGN: ASSIGN,
    Tag.DRAIN: LEVEL,
    Tag.STOP: LEVEL,
    Tag.OUTCOME: OUTCOME,
    Tag.GIVEN_BACK: LEVEL,
    Tag.ASK_STOP: LEVEL,
    Tag.HELLO: HELLO,
    Tag.BEAT: LEVEL,
    Tag.PULSE: LEVEL,
    Tag.KILL: LEVEL,
}


def assign(epoch: int, tasks: Iterable[tuple[int, int]]) -> np.ndarray:
    """An ASSIGN message of (task id, attempt) pairs."""
    return np.array([(epoch, attempt, task_id) for task_id, attempt in tasks], dtype=ASSIGN)


def level(epoch: int, value: int) -> np.ndarray:
    """A message that is one number: DRAIN, STOP, GIVEN_BACK, ASK_STOP, BEAT, PULSE, KILL."""
    return np.array([(epoch, value)], dtype=LEVEL)


def hello(epoch: int, held: Sequence[tuple[int, int]], drain: int) -> list[np.ndarray]:
    """HELLO messages of a rank that holds these (task id, attempt), drained to this level."""
    found = []
    for first in range(0, max(len(held), 1), BATCH):
        batch = held[first : first + BATCH] or [(-1, 0)]
        more = int(first + BATCH < len(held))
        rows = [(epoch, attempt, task_id, more, drain) for task_id, attempt in batch]
        found.append(np.array(rows, dtype=HELLO))
    return found


def outcomes(epoch: int, results: Iterable[TaskResult]) -> np.ndarray:
    """An OUTCOME message."""
    rows = [
        (
            epoch,
            result.attempt,
            result.task_id,
            result.outcome.kind,
            has_text(result.outcome),
            result.outcome.starved,
            result.wall_s,
            result.cpu_s,
            result.peak_bytes,
        )
        for result in results
    ]
    return np.array(rows, dtype=OUTCOME)


def has_text(found: Outcome) -> bool:
    """Whether a TEXT message goes before the OUTCOME."""
    return bool(found.reason or found.stage or found.traceback or found.warnings)


def text(epoch: int, result: TaskResult) -> np.ndarray:
    """A TEXT message (uint8); of a long traceback it has the end, which tells most."""
    found = result.outcome
    parts = [found.stage[:100], found.reason[:600], "\n".join(found.warnings)[:600]]
    room = _MAX_TEXT - sum(len(part.encode(errors="replace")) + 1 for part in parts)
    cut = found.traceback.encode(errors="replace")[-max(room, 1) :].decode(errors="ignore")
    body = "\0".join(part.replace("\0", " ") for part in (*parts, cut))
    head = np.array([(epoch, result.attempt, result.task_id)], dtype=TEXT)
    return np.frombuffer(head.tobytes() + body.encode(errors="replace"), dtype=np.uint8)


def split_text(message: np.ndarray, kind: OutcomeKind) -> tuple[int, int, int, Outcome]:
    """Epoch, task id, attempt and the outcome of a TEXT message."""
    raw = message.tobytes()
    head = np.frombuffer(raw[: TEXT.itemsize], dtype=TEXT)[0]
    body = raw[TEXT.itemsize :].decode(errors="replace")
    stage, reason, warnings, trace = (body.split("\0", 3) + [""] * 3)[:4]
    found = Outcome(kind, reason, stage, trace, tuple(warnings.splitlines()))
    return int(head["epoch"]), int(head["task_id"]), int(head["attempt"]), found


def decode(tag: Tag, raw: np.ndarray) -> np.ndarray:
    """Records of a message from the bytes (uint8) that came."""
    dtype = _DTYPES.get(tag)
    return raw if dtype is None else raw.view(dtype)
