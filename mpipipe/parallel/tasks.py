"""The values that go into and come out of a phase."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol, overload

import numpy as np

from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.parallel.watch import SILENCE_S

NO_AFFINITY = -1


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task as the scheduler sees it.

    Attributes
    ----------
    id
        Number of the task; unique in its phase, not negative.
    cost
        Expected seconds (only the order matters if nothing is known); not negative.
    affinity
        Tasks of one key share something that is costly to load (a CCD's masters), so they go to
        one rank if they can; `NO_AFFINITY` for none.
    deadline_s
        Seconds after which the task process is killed; None for never. A new task process has to
        be made ready (`prepare`) within the deadline of its first task, too.
    memory
        Bytes that its process is expected to take; 0 if unknown.
    priority
        Higher ones are handed out first, whatever they cost.
    """

    id: int
    cost: float = 1.0
    affinity: int = NO_AFFINITY
    deadline_s: float | None = None
    memory: int = 0
    priority: int = 0


class SpecTable(Sequence[TaskSpec]):
    """Many tasks as columns: a million as objects would take some hundred megabytes a process.

    Parameters
    ----------
    ids
        Ascending.
    costs, affinities
        One a task.
    deadline_s
        Of every task.
    memory, priorities
        One a task; None for zero.
    """

    def __init__(
        self,
        ids: np.ndarray,
        costs: np.ndarray,
        affinities: np.ndarray,
        deadline_s: float | None = None,
        memory: np.ndarray | None = None,
        priorities: np.ndarray | None = None,
    ) -> None:
        self.ids = np.asarray(ids, dtype=np.int64)
        if np.any(np.diff(self.ids) <= 0):
            raise ValueError("task ids are not ascending")
        zero = np.broadcast_to(np.int64(0), len(self.ids))
        self.memory = zero if memory is None else np.asarray(memory, dtype=np.int64)
        self.priorities = zero if priorities is None else np.asarray(priorities, dtype=np.int64)
        self.costs = np.asarray(costs, dtype=np.float64)
        self.affinities = np.asarray(affinities, dtype=np.int64)
        self.deadline_s = deadline_s

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, place: int) -> TaskSpec: ...
    @overload
    def __getitem__(self, place: slice) -> SpecTable: ...
    def __getitem__(self, place: int | slice) -> TaskSpec | SpecTable:
        if isinstance(place, slice):
            return SpecTable(
                self.ids[place],
                self.costs[place],
                self.affinities[place],
                self.deadline_s,
                self.memory[place],
                self.priorities[place],
            )
        return TaskSpec(
            int(self.ids[place]),
            float(self.costs[place]),
            int(self.affinities[place]),
            self.deadline_s,
            int(self.memory[place]),
            int(self.priorities[place]),
        )

    @classmethod
    def of(cls, tasks: Sequence[TaskSpec]) -> SpecTable:
        """Any tasks as columns, but for their deadlines.

        Raises
        ------
        ValueError
            If two have the same id.
        """
        if isinstance(tasks, SpecTable):
            return tasks
        ordered = sorted(tasks, key=lambda task: task.id)
        twice = next((a.id for a, b in pairwise(ordered) if a.id == b.id), None)
        if twice is not None:
            raise ValueError(f"task id {twice} occurs twice")
        return cls(
            np.array([task.id for task in ordered], dtype=np.int64),
            np.array([task.cost for task in ordered], dtype=np.float64),
            np.array([task.affinity for task in ordered], dtype=np.int64),
            None,
            np.array([task.memory for task in ordered], dtype=np.int64),
            np.array([task.priority for task in ordered], dtype=np.int64),
        )

    def place_of(self, task_id: int) -> int:
        """Where a task stands; -1 if it is not here."""
        place = int(np.searchsorted(self.ids, task_id))
        return place if place < len(self.ids) and self.ids[place] == task_id else -1


class _ByTask(Mapping[int, float]):
    """A number for each task of a table."""

    def __init__(self, table: SpecTable, values: np.ndarray) -> None:
        self._table, self._values = table, values

    def __getitem__(self, task_id: int) -> float:
        place = self._table.place_of(task_id)
        if place < 0:
            raise KeyError(task_id)
        return float(self._values[place])

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[int]:
        return iter(self._table.ids.tolist())


def deadlines_of(tasks: Sequence[TaskSpec]) -> Mapping[int, float]:
    """Deadlines by task id, of the tasks that have one."""
    if isinstance(tasks, SpecTable):
        if tasks.deadline_s is None:
            return {}
        return _ByTask(tasks, np.broadcast_to(np.float64(tasks.deadline_s), len(tasks)))
    return {task.id: task.deadline_s for task in tasks if task.deadline_s is not None}


def costs_of(tasks: Sequence[TaskSpec]) -> Mapping[int, float]:
    """Costs by task id."""
    if isinstance(tasks, SpecTable):
        return _ByTask(tasks, tasks.costs)
    return {task.id: task.cost for task in tasks}


@dataclass(frozen=True, slots=True)
class TaskReport:
    """What a task gives back: how it ended, and bytes for its MPI process to commit."""

    outcome: Outcome
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """One attempt at a task, as it is handed to `commit`.

    Attributes
    ----------
    phase, task_id, attempt
        Which attempt it was; attempts count from 1.
    outcome, payload
        What it gave back; a task whose process died has no payload.
    wall_s, cpu_s
        Seconds in the task process.
    peak_bytes
        Highest resident memory of the task process so far; 0 if unknown.
    """

    phase: str
    task_id: int
    attempt: int
    outcome: Outcome
    payload: bytes = b""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int = 0


@dataclass(frozen=True, slots=True)
class TaskSummary:
    """How a task ended after all its attempts, as the master knows it.

    Texts of `outcome` may be cut: the whole outcome is in what `commit` got.
    """

    task_id: int
    attempts: int
    outcome: Outcome
    rank: int
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int = 0


@dataclass(frozen=True)
class PhaseReport:
    """How a phase ended.

    Attributes
    ----------
    phase
        Its name.
    kinds
        int8, one `OutcomeKind` a task in the order of the task list, -1 for a task without an
        outcome (the phase was interrupted). The same on every rank.
    interrupted
        Whether a signal or `stop` ended it early. The same on every rank.
    summaries
        Every task with an outcome, in the order of the task list. On rank 0 only.
    wall_s
        Seconds from the first to the last of it on this rank.
    """

    phase: str
    kinds: np.ndarray
    interrupted: bool
    summaries: Sequence[TaskSummary] = ()
    wall_s: float = 0.0

    @property
    def counts(self) -> dict[OutcomeKind, int]:
        """Number of tasks by outcome; tasks without an outcome are not in it."""
        found = Counter(self.kinds.tolist())
        return {kind: found[kind.value] for kind in OutcomeKind if found[kind.value]}

    @property
    def n_left(self) -> int:
        """Number of tasks without an outcome."""
        return int(np.count_nonzero(self.kinds < 0))

    @property
    def all_well(self) -> bool:
        """Whether every task ended and none needs a person's attention."""
        return self.n_left == 0 and all(kind.is_success for kind in self.counts)


class Execute(Protocol):
    """Runs one task, in the task process: touches neither MPI nor HDF5.

    It may return an outcome of any kind or raise: `BadDataError` becomes bad data, `NoWorkError`
    no work, anything else failed.
    """

    def __call__(self, phase: str, task_id: int, attempt: int) -> TaskReport:
        """Run one attempt at a task."""


Prepare = Callable[[str, bytes], None]
"""``prepare(phase, context)``, called in the task process before its first task of a phase, and
again in every replacement."""

Committed = Callable[[], Mapping[int, Outcome]]
"""What all ranks of this run have committed for good so far, dead ones included, by task id. A new
master, or one that has lost a worker, asks it, in its MPI process."""

Commit = Callable[[TaskResult], None]
"""Makes an attempt last, in the MPI process of the rank that ran it, before the master hears of
it. Called for every attempt, whatever its outcome. If it raises, the attempt counts as failed."""


@dataclass(frozen=True)
class Policy:
    """How a phase is run.

    Attributes
    ----------
    attempts
        Most attempts at a task that end in this way; 1 for kinds that are absent.
    prefetch
        Tasks that a rank holds: one runs, the rest wait beside it.
    prefetch_s, batch
        Small tasks: a rank is given more, until they are worth `prefetch_s` seconds or number
        twice `batch` (at most `messages.BATCH`): one runs, the other waits.
    grace_s
        Seconds that running tasks have to finish once the phase is asked to stop.
    node_memory
        Bytes that the tasks of a node may take together; infinite for no limit.
    silence_s
        Seconds without a sign of life after which a rank is killed and counts as lost.
    """

    attempts: dict[OutcomeKind, int] = field(
        default_factory=lambda: {
            OutcomeKind.FAILED: 2,
            OutcomeKind.TIMED_OUT: 2,
            OutcomeKind.LOST: 3,
        }
    )
    prefetch: int = 2
    prefetch_s: float = 0.02
    batch: int = 64
    grace_s: float = 20.0
    node_memory: float = math.inf
    silence_s: float = SILENCE_S
