"""What a plan will take: wall time, memory and bytes at a number of ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpipipe.data.camera import Camera
from mpipipe.run.costs import DEFAULTS, Costs
from mpipipe.run.plan import Plan, ccd_megapixels

START_S = 2.0
"""Imports, MPI and the plan, until the first task runs; publishing the tables at the end."""


@dataclass(frozen=True)
class PhasePrediction:
    """One phase: tasks, seconds of work, seconds of wall time, bytes of memory and of files.

    Attributes
    ----------
    work_s
        Sum over tasks.
    wall_s
        At the number of ranks that was asked for.
    memory_bytes
        Of all ranks together, when each runs one of the largest tasks.
    read_bytes, written_bytes
        Raw frames and masters; images.
    """

    phase: str
    n_tasks: int
    work_s: float
    wall_s: float
    memory_bytes: int
    read_bytes: int
    written_bytes: int


@dataclass(frozen=True)
class Prediction:
    """All phases of a plan, which follow each other."""

    ranks: int
    phases: tuple[PhasePrediction, ...]

    @property
    def wall_s(self) -> float:
        """Of the whole run."""
        return START_S + sum(phase.wall_s for phase in self.phases)

    @property
    def memory_bytes(self) -> int:
        """Most at any time."""
        return max((phase.memory_bytes for phase in self.phases), default=0)

    @property
    def read_bytes(self) -> int:
        """Of the whole run."""
        return sum(phase.read_bytes for phase in self.phases)

    @property
    def written_bytes(self) -> int:
        """Of the whole run."""
        return sum(phase.written_bytes for phase in self.phases)


def predict(plan: Plan, camera: Camera, ranks: int, costs: Costs = DEFAULTS) -> Prediction:
    """What the plan will take on so many ranks, each with a core of its own."""
    return Prediction(
        ranks, tuple(_phase(plan, phase, camera, ranks, costs) for phase in plan.phases)
    )


def _phase(plan: Plan, phase: str, camera: Camera, ranks: int, costs: Costs) -> PhasePrediction:
    tasks = plan.in_phase(phase)
    cost, memory = tasks.column("cost").astype(float), tasks.column("memory")
    size = ccd_megapixels(tasks, camera)
    # Handed out longest first, a phase ends no later than this (Graham), and hardly earlier.
    busy = min(ranks, len(tasks))
    wall = max(float(cost.sum()) / busy, float(cost.max()))
    keys = np.unique(tasks.column("ccd").astype(np.int64) << 32 | tasks.column("band"))
    loads = min(len(tasks), max(len(keys), ranks))
    model = costs[phase]
    largest = np.sort(memory)[::-1][:busy]
    return PhasePrediction(
        phase,
        len(tasks),
        float(cost.sum()),
        wall,
        int(largest.sum()),
        int(tasks.input_bytes() + loads * model.masters * float(size.mean())),
        int(model.output * float(size.sum())),
    )
