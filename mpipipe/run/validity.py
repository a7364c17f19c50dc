"""Which committed records still hold, after options, code, libraries or camera have changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from mpipipe.run.basis import Basis, Changes
from mpipipe.run.incarnation import read_incarnation
from mpipipe.run.plan import CALIB_PHASES, Plan
from mpipipe.run.sky_plan import SKY_PHASES, SOURCES
from mpipipe.store.layout import RunLayout

_UNKNOWN = Changes(others=("what it was made with was not recorded",))


class Standing(IntEnum):
    """What a record is worth still."""

    HOLDS = 0
    IMAGE_HOLDS = 1
    """The sources have to be measured again, on the calexp that is there."""
    STALE = 2


@dataclass(frozen=True)
class Validity:
    """What the records of each incarnation are worth, phase by phase.

    Attributes
    ----------
    standings
        (incarnation, phase) to standing, and what has changed.
    """

    plan: Plan
    standings: dict[tuple[int, str], tuple[Standing, Changes]]

    @classmethod
    def judge(cls, layout: RunLayout, plan: Plan, now: Basis) -> Validity:
        """Compare what every incarnation was made with to what there is now."""
        found = {}
        for incarnation in layout.incarnations():
            was = read_basis(layout, incarnation)
            for phase in plan.phases:
                found[incarnation, phase] = _stand(phase, plan, was, now)
        return cls(plan, found)

    def levels(self, incarnation: int) -> np.ndarray:
        """The `Standing` of a record of this incarnation on each task, int8."""
        levels = np.full(len(self.plan.tasks), Standing.STALE, dtype=np.int8)
        for phase in self.plan.phases:
            tasks = self.plan.in_phase(phase)
            standing = self.standings.get((incarnation, phase), (Standing.STALE, _UNKNOWN))[0]
            levels[tasks.start : tasks.stop] = standing
        return levels

    @property
    def has_changes(self) -> bool:
        """Whether the records of any incarnation do not hold as they are."""
        return any(standing is not Standing.HOLDS for standing, _ in self.standings.values())

    def changes(self) -> Iterator[tuple[int, str, Standing, Changes]]:
        """Incarnation, phase, standing and changes, where records do not hold as they are."""
        for (incarnation, phase), (standing, changes) in self.standings.items():
            if standing is not Standing.HOLDS:
                yield incarnation, phase, standing, changes


def read_basis(layout: RunLayout, incarnation: int) -> Basis | None:
    """What an incarnation noted as its basis; None if it did not."""
    return read_incarnation(layout, incarnation).basis


def _stand(phase: str, plan: Plan, was: Basis | None, now: Basis) -> tuple[Standing, Changes]:
    if was is None:
        return Standing.STALE, _UNKNOWN
    if phase in CALIB_PHASES:
        changes = now.changes(was, ("masters",))
        return (Standing.STALE if changes else Standing.HOLDS), changes
    if phase in (SOURCES, *SKY_PHASES):
        # Sources that have changed are seen by their bytes.
        changes = now.changes(was, ("association",))
        return (Standing.STALE if changes else Standing.HOLDS), changes
    builds_masters = any(name in CALIB_PHASES for name in plan.phases)
    before = ("masters", "image") if builds_masters else ("image",)
    if changes := now.changes(was, before):
        return Standing.STALE, changes
    changes = now.changes(was, ("sources",))
    return (Standing.IMAGE_HOLDS if changes else Standing.HOLDS), changes
