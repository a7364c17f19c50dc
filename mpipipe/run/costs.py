"""What a task costs: seconds, memory and bytes, by phase and by the pixels it works on.

The numbers of `DEFAULTS` were measured (see its comment) and hold for an unknown machine within a
factor of two or so; a run that has ended writes what it found into ``costs.json`` of its folder,
and the next plan takes that (``--costs RUN``).

A task's measure is the megapixels of all frames it reads (one CCD for a task that reads none).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mpipipe.data.errors import BadDataError, ConfigError
from mpipipe.store.checksums import read_json, write_json_atomically
from mpipipe.store.layout import RunLayout

VERSION = 1

_BASE_BYTES = 260e6
"""Memory of a task process before it has read any pixel: the libraries and compiled loops."""
_MIN_SPREAD = 1.3
"""Sizes of tasks have to differ by this factor before a constant part can be told apart."""

_OUTLIER = 4.0
"""Tasks that took so much longer than usual are left out of a fit."""


@dataclass(frozen=True)
class PhaseCost:
    """The cost of one phase's tasks.

    Attributes
    ----------
    fixed_s, seconds
        Seconds of a task: a constant, and per megapixel.
    memory
        Bytes of memory per megapixel, beside those of an empty task process.
    output
        Bytes written per megapixel of its CCD.
    masters
        Bytes of masters read per megapixel of its CCD; a rank keeps them for its next task.
    stages
        Seconds per megapixel by stage, where that is known.
    n_tasks
        Tasks from which this was measured; 0 for the defaults.
    """

    fixed_s: float
    seconds: float
    memory: float
    output: float
    masters: float = 0.0
    stages: Mapping[str, float] = field(default_factory=dict)
    n_tasks: int = 0

    def of(self, megapixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Seconds and memory of tasks of these sizes."""
        return self.fixed_s + self.seconds * megapixels, _BASE_BYTES + self.memory * megapixels


DEFAULTS: Mapping[str, PhaseCost] = {
    "bias": PhaseCost(0.02, 0.16, 20e6, 8e6),
    "gain": PhaseCost(0.02, 0.05, 20e6, 1e4, 8e6),
    "dark": PhaseCost(0.02, 0.12, 20e6, 8e6, 8e6),
    "flat": PhaseCost(0.02, 0.08, 20e6, 8e6, 16e6),
    "normalise": PhaseCost(0.02, 0.06, 20e6, 8e6, 8e6),
    "defects": PhaseCost(0.02, 0.40, 40e6, 1e6, 32e6),
    "calibrate": PhaseCost(0.05, 0.50, 120e6, 4e6, 26e6),
}
"""By phase."""


Costs = Mapping[str, PhaseCost]


@dataclass(frozen=True)
class Measured:
    """One finished task: its phase, megapixels, seconds, peak memory and seconds by stage."""

    phase: str
    megapixels: float
    wall_s: float
    peak_bytes: int
    stages: Mapping[str, float] = field(default_factory=dict)


def measure(tasks: Iterable[Measured], start: Costs = DEFAULTS) -> dict[str, PhaseCost]:
    """The costs of the phases that these tasks were of, the rest as they were in `start`."""
    by_phase: dict[str, list[Measured]] = {}
    for task in tasks:
        by_phase.setdefault(task.phase, []).append(task)
    found = dict(start)
    for phase, members in by_phase.items():
        found[phase] = _measure(members, start.get(phase, PhaseCost(0.0, 0.0, 0.0, 0.0)))
    return found


def _measure(tasks: Sequence[Measured], start: PhaseCost) -> PhaseCost:
    size = np.array([task.megapixels for task in tasks])
    wall = np.array([task.wall_s for task in tasks])
    fixed, per_megapixel = 0.0, float(np.median(wall / size))
    # The first task of a process loads what it needs and says little about the others.
    usual = wall < _OUTLIER * per_megapixel * size
    if size[usual].max() > _MIN_SPREAD * size[usual].min():
        slope, constant = np.polyfit(size[usual], wall[usual], 1)
        if slope > 0 and constant > 0:
            fixed, per_megapixel = float(constant), float(slope)
    peak = np.array([max(task.peak_bytes - _BASE_BYTES, 0.0) for task in tasks])
    known = np.array([task.peak_bytes > 0 for task in tasks])
    memory = float(np.median(peak[known] / size[known])) if known.any() else start.memory
    timed = [task for task in tasks if task.stages]
    names = dict.fromkeys(name for task in timed for name in task.stages)
    stages = {
        name: round(
            float(np.median([task.stages.get(name, 0.0) / task.megapixels for task in timed])), 6
        )
        for name in names
    }
    return replace(
        start,
        fixed_s=round(fixed, 6),
        seconds=round(per_megapixel, 6),
        memory=round(memory),
        stages=stages,
        n_tasks=len(tasks),
    )


def save_costs(path: Path, costs: Costs) -> None:
    """Write costs as JSON."""
    phases = {name: asdict(cost) for name, cost in costs.items()}
    write_json_atomically(path, {"version": VERSION, "phases": phases})


def load_costs(source: Path) -> dict[str, PhaseCost]:
    """The costs that a run has measured; phases that it did not have keep the defaults.

    Parameters
    ----------
    source
        A run folder, or a ``costs.json``.

    Raises
    ------
    ConfigError
        If there are none, or they make no sense.
    """
    file = RunLayout.at(source).costs if source.is_dir() else source
    if not file.exists():
        raise ConfigError(
            "holds no measured costs",
            file=source,
            way_out="give the folder of a run that has ended; it writes costs.json",
        )
    try:
        content = read_json(file)
        if content["version"] != VERSION:
            raise ValueError(f"unknown version {content['version']}")
        return dict(DEFAULTS) | {
            str(name): _from_json(entry) for name, entry in content["phases"].items()
        }
    except (BadDataError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"is no list of costs: {error}", file=file) from error


def _from_json(entry: Mapping[str, Any]) -> PhaseCost:
    numbers = {
        name: float(entry[name]) for name in ("fixed_s", "seconds", "memory", "output", "masters")
    }
    if any(not 0 <= number < 1e15 for number in numbers.values()):
        raise ValueError("a cost is negative or not finite")
    stages = {str(name): float(value) for name, value in entry["stages"].items()}
    return PhaseCost(**numbers, stages=stages, n_tasks=int(entry["n_tasks"]))
