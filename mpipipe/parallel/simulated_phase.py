"""A phase on ranks that do not exist: the real scheduler, with time that is only counted.

A discrete-event simulation. Tasks take the seconds they are given and move bytes over a shared file
system; messages, commits and the master's work take what was measured; ranks are lost at random.
The scheduler is `mpipipe.parallel.scheduler`, not a model of it, so that order, affinity and
prefetch are those of a run.

What is simplified: a transfer has the bandwidth that it gets when it begins; an outcome is handled
by the master by itself, not with others of the same batch; rank 0's core does not feel that it is
the master, whose load is told instead.
"""

from __future__ import annotations

import gc
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

import numpy as np

from mpipipe.data.outcome import OutcomeKind
from mpipipe.parallel.scheduler import Action, Assign, Scheduler
from mpipipe.parallel.tasks import Policy, SpecTable

_END, _TASKS, _LOST, _BACK = 0, 1, 2, 3
_LIFE, _NUMBER = 32, (1 << 32) - 1
"""An event is for a rank in one of its lives: both in one number."""


@dataclass(frozen=True)
class Machine:
    """What everything but the tasks costs, in seconds, and how large files are moved.

    Attributes
    ----------
    latency_s
        Of a message.
    master_s
        CPU time of the master for an outcome and what follows from it.
    commit_s
        Of a record; the next task runs meanwhile.
    start_s
        From the start of the phase to the first assignment.
    gap_s
        From the end of a task to the beginning of the next one, if that is there already.
    bandwidth, rank_bandwidth
        Bytes a second of the file system for all ranks, and for one.
    file_s
        To open and close a file.
    lifetime_s
        Mean time between losses of a rank; infinite for none.
    recovery_s
        For which the master hands nothing out after a loss.
    spares
        Whether a rank that is lost comes back after the recovery (a job that goes on with as many).
    """

    latency_s: float = 5e-5
    master_s: float = 1e-5
    commit_s: float = 0.0
    start_s: float = 0.0
    gap_s: float = 0.0
    bandwidth: float = math.inf
    rank_bandwidth: float = math.inf
    file_s: float = 0.0
    lifetime_s: float = math.inf
    recovery_s: float = 1.0
    spares: bool = True


@dataclass(frozen=True)
class Load:
    """The tasks: what the scheduler expects of them, and what they really take.

    Attributes
    ----------
    specs
        As the plan has them.
    seconds
        (n_tasks,) of work of each, in the order of `specs`.
    n_bytes
        (n_tasks,) that each reads and writes.
    n_files
        Files that a task opens.
    """

    specs: SpecTable
    seconds: np.ndarray
    n_bytes: np.ndarray
    n_files: float = 0.0


@dataclass
class Simulated:
    """How it went.

    Attributes
    ----------
    wall_s
        Of the phase.
    work_s, files_s
        Of all ranks: in tasks that count, and reading and writing.
    lost_s
        In attempts that were lost with their ranks.
    idle_s
        Of all ranks: without a task although the phase went on.
    master_busy_s
        What the master was busy for.
    n_lost
        Ranks that were lost.
    n_ended
        Tasks that have ended.
    """

    n_ranks: int
    n_tasks: int
    wall_s: float = 0.0
    work_s: float = 0.0
    files_s: float = 0.0
    lost_s: float = 0.0
    idle_s: float = 0.0
    master_busy_s: float = 0.0
    n_lost: int = 0
    n_ended: int = 0

    @property
    def efficiency(self) -> float:
        """Work over ranks times wall time."""
        whole = self.n_ranks * self.wall_s
        return self.work_s / whole if whole else 1.0

    @property
    def master_load(self) -> float:
        """Share of the wall time that the master was busy."""
        return self.master_busy_s / self.wall_s if self.wall_s else 0.0


@dataclass(slots=True)
class _Rank:
    queue: deque[tuple[int, int]] = field(default_factory=deque)
    running: tuple[int, int] | None = None
    begun: float = 0.0
    files_s: float = 0.0
    life: int = 0  # counts losses: events of a former life are void


def simulate_phase(
    load: Load,
    n_ranks: int,
    machine: Machine,
    policy: Policy | None = None,
    seed: int = 0,
) -> Simulated:
    """Run a phase that is not there.

    Parameters
    ----------
    seed
        Of the losses.

    Returns
    -------
    Simulated
        The same for the same arguments.
    """
    found = _Phase(load, n_ranks, machine, policy or Policy(), seed)
    # Millions of tuples come and go, none in a cycle: the collector would only walk over them.
    was_on = gc.isenabled()
    gc.disable()
    try:
        return found.run()
    finally:
        if was_on:
            gc.enable()


class _Phase:
    def __init__(
        self, load: Load, n_ranks: int, machine: Machine, policy: Policy, seed: int
    ) -> None:
        self.machine = machine
        self.scheduler = Scheduler(load.specs, policy)
        self.seconds = load.seconds.tolist()
        self.n_bytes = load.n_bytes.tolist()
        self.n_files = load.n_files
        ids = load.specs.ids
        self.first = int(ids[0]) if len(ids) else 0
        self.is_dense = len(ids) == 0 or int(ids[-1]) - self.first + 1 == len(ids)
        self.place = {} if self.is_dense else {n: k for k, n in enumerate(ids.tolist())}
        self.ranks = [_Rank() for _ in range(n_ranks)]
        self.random = random.Random(seed)
        self.heap: list[tuple[float, int, int, int, Sequence[tuple[int, int]]]] = []
        self.master_free = machine.start_s
        self.n_transfers = 0
        self.result = Simulated(n_ranks, len(ids))
        self.n_events = 0
        self.now = 0.0

    def run(self) -> Simulated:
        """All of it."""
        self._carry_out(self.scheduler.on_join(range(len(self.ranks))))
        if math.isfinite(self.machine.lifetime_s):
            for number in range(len(self.ranks)):
                self._draw_loss(number, 0.0)
        heap, ranks = self.heap, self.ranks
        while heap and not self.scheduler.finished:
            self.now, _, what, whose, tasks = heappop(heap)
            number, rank = whose & _NUMBER, ranks[whose & _NUMBER]
            if rank.life != whose >> _LIFE:
                continue
            if what == _END:
                self._end(number, rank)
            elif what == _TASKS:
                rank.queue.extend(tasks)
                if rank.running is None:
                    self._begin(number, rank)
            elif what == _LOST:
                self._lose(number, rank)
            else:
                self._carry_out(self.scheduler.on_join([number]))
                self._draw_loss(number, self.now)
        result = self.result
        result.wall_s = max(self.now, self.master_free)
        result.n_ended = self.scheduler.n_ended
        spent = result.work_s + result.files_s + result.lost_s
        result.idle_s = max(len(ranks) * result.wall_s - spent, 0.0)
        return result

    def _push(
        self, when: float, what: int, rank: int, tasks: Sequence[tuple[int, int]] = ()
    ) -> None:
        self.n_events += 1  # events of the same time come in the order in which they were made
        whose = self.ranks[rank].life << _LIFE | rank
        heappush(self.heap, (when, self.n_events, what, whose, tasks))

    def _begin(self, number: int, rank: _Rank, gap_s: float = 0.0) -> None:
        """A rank takes its next task, after a gap."""
        task, attempt = rank.queue.popleft()
        place = task - self.first if self.is_dense else self.place[task]
        rank.running, rank.begun = (task, attempt), self.now + gap_s
        rank.files_s = self._transfer(self.n_bytes[place])
        self.n_transfers += 1
        self._push(rank.begun + self.seconds[place] + rank.files_s, _END, number)

    def _transfer(self, n_bytes: float) -> float:
        """Seconds for a task's files, with the bandwidth that is left by those that run."""
        machine = self.machine
        share = min(machine.rank_bandwidth, machine.bandwidth / (self.n_transfers + 1))
        return (n_bytes / share if n_bytes else 0.0) + self.n_files * machine.file_s

    def _end(self, number: int, rank: _Rank) -> None:
        """A task has ended: the next one begins, the master hears of it after the commit."""
        assert rank.running is not None
        (task, attempt), rank.running = rank.running, None
        self.n_transfers -= 1
        self.result.files_s += rank.files_s
        self.result.work_s += self.now - rank.begun - rank.files_s
        if rank.queue:
            self._begin(number, rank, self.machine.gap_s)
        machine = self.machine
        self._serve(self.now + machine.commit_s + machine.latency_s)
        self._carry_out(self.scheduler.on_outcome(number, task, attempt, OutcomeKind.DONE))

    def _serve(self, arrival: float) -> None:
        """The master takes a message when it is through with those before."""
        self.master_free = max(self.master_free, arrival) + self.machine.master_s
        self.result.master_busy_s += self.machine.master_s

    def _carry_out(self, actions: Sequence[Action]) -> None:
        arrival = self.master_free + self.machine.latency_s
        for action in actions:
            if isinstance(action, Assign):
                self._push(arrival, _TASKS, action.worker, action.tasks)

    def _draw_loss(self, number: int, after: float) -> None:
        self._push(after + self.random.expovariate(1.0 / self.machine.lifetime_s), _LOST, number)

    def _lose(self, number: int, rank: _Rank) -> None:
        """A rank is lost, and what it was at."""
        if rank.running is not None:
            self.n_transfers -= 1
            self.result.lost_s += max(self.now - rank.begun, 0.0)
        rank.running, rank.life = None, rank.life + 1
        rank.queue.clear()
        self.result.n_lost += 1
        self.master_free = max(self.master_free, self.now) + self.machine.recovery_s
        self._carry_out(self.scheduler.on_lost(number))
        if self.machine.spares:
            self._push(self.master_free, _BACK, number)
