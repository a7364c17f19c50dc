"""What a record says of an attempt at a task besides its tables: outcome, time, memory."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from mpipipe.data.outcome import Outcome
from mpipipe.parallel.tasks import TaskResult


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt.

    Attributes
    ----------
    wall_s, cpu_s
        Seconds in the task process.
    peak_bytes
        Highest memory of the task process until then; 0 if unknown.
    ended
        When it was committed, seconds since 1970 by the clock of its host; 0 if unknown.
    """

    outcome: Outcome
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int = 0
    ended: float = 0.0


def encode_attempt(result: TaskResult) -> bytes:
    """An attempt that ends now, as JSON: the outcome's, with more keys."""
    more = {
        "wall": round(result.wall_s, 6),
        "cpu": round(result.cpu_s, 6),
        "peak": result.peak_bytes,
        "ended": round(time.time(), 3),
    }
    outcome = result.outcome.to_json()
    return outcome[:-1] + b", " + json.dumps(more).encode("ascii")[1:]


def decode_attempt(meta: bytes) -> Attempt:
    """The attempt that `encode_attempt` wrote.

    Raises
    ------
    ValueError
        If it is not one.
    """
    outcome = Outcome.from_json(meta)
    found = json.loads(meta)
    try:
        return Attempt(
            outcome,
            float(found.get("wall", 0.0)),
            float(found.get("cpu", 0.0)),
            int(found.get("peak", 0)),
            float(found.get("ended", 0.0)),
        )
    except TypeError as error:
        raise ValueError(f"not an attempt: {error}") from error
