"""What the tasks of a finished run cost, from its records."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mpipipe.data.camera import Camera
from mpipipe.data.errors import BadDataError
from mpipipe.data.outcome import OutcomeKind
from mpipipe.run.costs import DEFAULTS, Measured, PhaseCost, measure
from mpipipe.run.ledger import Ledger
from mpipipe.run.plan import Plan, megapixels

_SAMPLE = 2000
"""Tasks of a phase that are looked at: so many tell as much as a million."""


def costs_of_run(ledger: Ledger, plan: Plan, camera: Camera) -> dict[str, PhaseCost]:
    """Costs by phase and stage from tasks that were done; phases without any keep the defaults."""
    return measure(_measured(ledger, plan, camera))


def _measured(ledger: Ledger, plan: Plan, camera: Camera) -> Iterator[Measured]:
    for phase in plan.phases:
        if phase not in DEFAULTS:  # its tasks are not measured by their pixels
            continue
        tasks = plan.in_phase(phase)
        size = megapixels(tasks, camera)
        kinds = ledger.kinds[tasks.start : tasks.stop]
        done = np.flatnonzero(np.isin(kinds, (OutcomeKind.DONE, OutcomeKind.PARTIAL)))
        for place in done[:: max(1, len(done) // _SAMPLE)].tolist():
            try:
                attempt = ledger.attempt(tasks.start + place)
                rows = ledger.tables(tasks.start + place).get("stages")
            except (BadDataError, ValueError):
                continue
            if attempt.wall_s <= 0:
                continue
            stages: dict[str, float] = {}
            for row in () if rows is None else rows:
                name = row["stage"].decode()
                stages[name] = stages.get(name, 0.0) + float(row["wall"])
            yield Measured(phase, float(size[place]), attempt.wall_s, attempt.peak_bytes, stages)
