"""How a task ended, as a value.

A task never lets an exception out: whatever happens becomes one `Outcome`. Bad data is never
tried again; the kinds in `RETRYABLE` are, up to a limit.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import IntEnum


class OutcomeKind(IntEnum):
    """The ways in which a task can end; the numbers go over the wire and into files."""

    DONE = 0
    PARTIAL = 1
    NO_WORK = 2
    BAD_DATA = 3
    FAILED = 4
    TIMED_OUT = 5
    LOST = 6

    @property
    def label(self) -> str:
        """The kind in words, e.g. ``bad data``."""
        return self.name.lower().replace("_", " ")

    @property
    def is_success(self) -> bool:
        """Whether nothing needs a person's attention."""
        return self in (OutcomeKind.DONE, OutcomeKind.NO_WORK)


RETRYABLE = frozenset({OutcomeKind.FAILED, OutcomeKind.TIMED_OUT, OutcomeKind.LOST})


@dataclass(frozen=True)
class Outcome:
    """The end of one attempt at one task.

    Attributes
    ----------
    kind
        How it ended.
    reason
        One line for people; empty when done.
    stage
        The stage in which it ended, e.g. ``isr.overscan``; empty when done.
    traceback
        The traceback of an unexpected exception; empty otherwise.
    warnings
        What was left out or simplified on the way (a missing optional master, ...).
    starved
        Whether it died for lack of memory: alone on its node it may succeed.
    """

    kind: OutcomeKind
    reason: str = ""
    stage: str = ""
    traceback: str = ""
    warnings: tuple[str, ...] = field(default=())
    starved: bool = False

    def to_json(self) -> bytes:
        """The outcome as JSON, for files and between processes."""
        return json.dumps(
            {
                "kind": int(self.kind),
                "reason": self.reason,
                "stage": self.stage,
                "traceback": self.traceback,
                "warnings": self.warnings,
                "starved": self.starved,
            }
        ).encode("ascii")

    @classmethod
    def from_json(cls, text: bytes) -> Outcome:
        """The outcome that `to_json` wrote.

        Raises
        ------
        ValueError
            If the text is not such an outcome.
        """
        try:
            found = json.loads(text)
            return cls(
                OutcomeKind(found["kind"]),
                str(found["reason"]),
                str(found["stage"]),
                str(found["traceback"]),
                tuple(str(warning) for warning in found["warnings"]),
                bool(found["starved"]),
            )
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"not an outcome: {error!r}") from error
