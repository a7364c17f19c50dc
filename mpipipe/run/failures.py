"""Stages that could not do their job, but did not stop their task."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field

from mpipipe.data.errors import MpipipeError
from mpipipe.stages.stage import Stage


@dataclass
class Failures:
    """What failed on the way, in order.

    Attributes
    ----------
    stages
        Names of the steps that failed.
    reasons
        A line each, which begins with the name.
    tracebacks
        Of errors that nobody foresaw; empty if there were none.
    """

    stages: list[str] = field(default_factory=list)
    _reasons: list[str] = field(default_factory=list)
    tracebacks: str = ""

    @property
    def first_stage(self) -> str:
        """The step that failed first; empty if none did."""
        return self.stages[0] if self.stages else ""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why, one line each."""
        return tuple(self._reasons)

    def note(self, step: Stage, error: Exception) -> None:
        """A stage failed, and its fallback is taken."""
        if isinstance(error, MpipipeError):
            self.add(step.name, str(error))
        else:
            self.add(step.name, f"{type(error).__name__}: {error}")
            self.tracebacks += "".join(traceback.format_exception(error))

    def add(self, stage: str, reason: str) -> None:
        """A step failed."""
        self.stages.append(stage)
        self._reasons.append(f"{stage}: {reason}")
