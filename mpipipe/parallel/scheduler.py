"""Who gets which task: a state machine without MPI, clock or files.

Events come in as method calls, actions go out as `Assign` values. A worker is a number. Whatever
comes, in whatever order (an outcome twice, an outcome of an attempt that was given up, a worker
that vanishes), every task ends in exactly one outcome unless the phase is drained first.

Longest first, with affinity: a worker stays with the key (a CCD) it took last until that is used
up, then takes the longest task of a key that nobody owns, and only then one of somebody else's.
It leaves its key for a free task that is more than `_AFFINITY_FACTOR` times longer, because long
tasks started late make the end of a phase long.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import pairwise

from mpipipe.data.outcome import RETRYABLE, OutcomeKind
from mpipipe.parallel.tasks import NO_AFFINITY, Policy, TaskSpec

_AFFINITY_FACTOR = 2.0

_WAITING, _HELD, _ENDED = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Assign:
    """Give a worker these tasks, as (task id, attempt), in this order."""

    worker: int
    tasks: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """A task has come to its end: this outcome counts, whatever comes later."""

    task_id: int
    attempt: int
    kind: OutcomeKind
    worker: int


Action = Assign | Ended


@dataclass
class _Worker:
    """What the scheduler knows of a worker."""

    held: dict[int, int] = field(default_factory=dict)  # place -> attempt, in order of handing out
    keys: list[int] = field(default_factory=list)  # affinity keys it owns, the newest last


class Scheduler:
    """The tasks of one phase and the workers that run them.

    Parameters
    ----------
    tasks
        In any order; the ids must differ.
    policy
        Prefetch and limits.

    Notes
    -----
    A task is known inside by its place in the order of handing out (longest first, then by id),
    so that a heap of places is a queue.
    """

    def __init__(self, tasks: Sequence[TaskSpec], policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        order = sorted(tasks, key=lambda task: (-task.cost, task.id))
        self._ids = [task.id for task in order]
        self._costs = [task.cost for task in order]
        self._keys = [task.affinity for task in order]
        self._place = {task_id: place for place, task_id in enumerate(self._ids)}
        if len(self._place) != len(order):
            twice = next(a for a, b in pairwise(sorted(self._ids)) if a == b)
            raise ValueError(f"task id {twice} occurs twice")
        self._state = bytearray(len(order))
        self._attempts: dict[int, int] = {}  # place -> number of attempts handed out
        # (place, kind) -> attempts that ended badly in this way
        self._failures: dict[tuple[int, OutcomeKind], int] = {}
        self._workers: dict[int, _Worker] = {}
        self._dry: dict[int, None] = {}  # workers that hold nothing, as an ordered set
        self._owner: dict[int, int] = {}  # affinity key -> worker
        self._any = list(range(len(order)))  # heaps of places; those not waiting are skipped
        self._free = list(self._any)
        self._of_key: dict[int, list[int]] = {}
        for place, key in enumerate(self._keys):
            if key != NO_AFFINITY:
                self._of_key.setdefault(key, []).append(place)
        self.n_ended = 0
        self.n_waiting = len(order)
        self.n_ignored = 0
        self.draining = False

    # -- questions -------------------------------------------------------------------------------

    @property
    def n_held(self) -> int:
        """Number of tasks that are with workers."""
        return len(self._ids) - self.n_ended - self.n_waiting

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen: all tasks ended, or drained and nothing is held."""
        return self.n_held == 0 and (self.draining or self.n_waiting == 0)

    def held_by(self, worker: int) -> list[tuple[int, int]]:
        """The (task id, attempt) that a worker holds, in the order it got them."""
        state = self._workers.get(worker)
        if state is None:
            return []
        return [(self._ids[place], attempt) for place, attempt in state.held.items()]

    # -- events ----------------------------------------------------------------------------------

    def on_committed(self, task_ids: Iterable[int]) -> list[int]:
        """Tasks that were done under another master, before any worker has come."""
        found = []
        for task_id in task_ids:
            place = self._place.get(task_id, -1)
            if place >= 0 and self._state[place] == _WAITING:
                self._state[place] = _ENDED
                self.n_waiting -= 1
                self.n_ended += 1
                found.append(task_id)
        return found

    def on_join(
        self, workers: Iterable[int], held: Mapping[int, Sequence[tuple[int, int]]] | None = None
    ) -> list[Action]:
        """Workers have come; they get their first tasks, one each before a second.

        Parameters
        ----------
        held
            The (task id, attempt) that a worker has from another master and keeps.
        """
        new = [worker for worker in workers if worker not in self._workers]
        for worker in new:
            self._workers[worker] = state = _Worker()
            for task_id, attempt in (held or {}).get(worker, ()):
                self._adopt(state, task_id, attempt)
            if not state.held:
                self._dry[worker] = None
        picked: dict[int, list[tuple[int, int]]] = {worker: [] for worker in new}
        for depth in range(1, self.policy.prefetch + 1):
            for worker in new:
                picked[worker] += self._pick(worker, depth)
        return [Assign(worker, tuple(tasks)) for worker, tasks in picked.items() if tasks]

    def on_outcome(
        self, worker: int, task_id: int, attempt: int, kind: OutcomeKind
    ) -> list[Action]:
        """An attempt has ended. What does not belong to an attempt of that worker is ignored."""
        place = self._place.get(task_id, -1)
        state = self._workers.get(worker)
        if state is None or state.held.get(place) != attempt:
            self.n_ignored += 1
            return []
        del state.held[place]
        if not state.held:
            self._dry[worker] = None
        actions = self._settle(place, attempt, kind, worker)
        # If the task came back, a worker with nothing to do is the one to start it at once.
        return actions + self._feed_idle() + self._refill([worker])

    def on_lost(self, worker: int) -> list[Action]:
        """A worker has vanished: its tasks are lost, its keys are free."""
        state = self._workers.pop(worker, None)
        if state is None:
            return []
        self._dry.pop(worker, None)
        self._disown(state)
        actions: list[Action] = []
        for nth, (place, attempt) in enumerate(state.held.items()):
            if nth == 0:
                actions += self._settle(place, attempt, OutcomeKind.LOST, worker)
            else:  # it had not begun, so it is not to blame
                self._wait_again(place)
        return actions + self._feed_idle()

    def on_drain(self) -> list[Action]:
        """Hand out nothing from now on."""
        self.draining = True
        return []

    def on_given_back(self, worker: int) -> list[Action]:
        """A worker has dropped all that it holds without an outcome (after `on_drain`)."""
        state = self._workers.get(worker)
        if state is None:
            return []
        for place in state.held:
            self._wait_again(place)
        state.held.clear()
        self._dry[worker] = None
        return [] if self.draining else self._refill([worker])

    # -- inside ----------------------------------------------------------------------------------

    def _adopt(self, state: _Worker, task_id: int, attempt: int) -> None:
        """Leave a task with the worker that has it; not if it has ended, or another has it."""
        place = self._place.get(task_id, -1)
        if place >= 0 and self._state[place] == _WAITING:
            state.held[place] = attempt
            self._state[place] = _HELD
            self._attempts[place] = max(attempt, self._attempts.get(place, 0))
            self.n_waiting -= 1

    def _settle(self, place: int, attempt: int, kind: OutcomeKind, worker: int) -> list[Action]:
        """End a task that was held, or let it wait for another attempt."""
        if kind in RETRYABLE:
            # By kind: a task whose rank was killed has not failed.
            n_failures = self._failures.get((place, kind), 0) + 1
            self._failures[place, kind] = n_failures
            if n_failures < self.policy.attempts.get(kind, 1):
                self._wait_again(place)
                return []
        self._state[place] = _ENDED
        self.n_ended += 1
        return [Ended(self._ids[place], attempt, kind, worker)]

    def _wait_again(self, place: int) -> None:
        """Put a task that was held back into the queues."""
        self._state[place] = _WAITING
        self.n_waiting += 1
        heappush(self._any, place)
        heappush(self._free, place)
        key = self._keys[place]
        if key != NO_AFFINITY:
            heappush(self._of_key[key], place)

    def _disown(self, state: _Worker) -> None:
        """Free the keys of a worker that has vanished."""
        for key in state.keys:
            del self._owner[key]
            for place in self._of_key[key]:
                heappush(self._free, place)

    def _refill(self, workers: Iterable[int]) -> list[Action]:
        """Fill these workers up to the prefetch depth."""
        actions: list[Action] = []
        for worker in workers:
            tasks = self._pick(worker, self.policy.prefetch)
            if tasks:
                actions.append(Assign(worker, tuple(tasks)))
        return actions

    def _feed_idle(self) -> list[Action]:
        """Give work to workers that have none: a task may have come back for another attempt."""
        if not self.n_waiting or self.draining:
            return []
        return self._refill(list(self._dry))

    def _pick(self, worker: int, depth: int) -> list[tuple[int, int]]:
        """Take tasks for a worker until it holds `depth`, or more if they are small."""
        if self.draining or worker not in self._workers:
            return []
        state = self._workers[worker]
        policy = self.policy
        seconds = sum(self._costs[place] for place in state.held)
        picked = []
        while self.n_waiting and len(state.held) < max(policy.batch, depth):
            if len(state.held) >= depth and (
                depth < policy.prefetch
                or seconds >= policy.prefetch_s
                or self.n_waiting <= len(self._workers)
            ):
                break
            place = self._next_place(worker, state)
            attempt = self._attempts.get(place, 0) + 1
            self._attempts[place] = attempt
            self._state[place] = _HELD
            self.n_waiting -= 1
            state.held[place] = attempt
            seconds += self._costs[place]
            picked.append((self._ids[place], attempt))
        if picked:
            self._dry.pop(worker, None)
        return picked

    def _next_place(self, worker: int, state: _Worker) -> int:
        """The waiting task that suits a worker best; there is at least one."""
        own = self._head_of_own(state)
        free = self._head_of_free(worker)
        if own is not None and (
            free is None or self._costs[free] <= _AFFINITY_FACTOR * self._costs[own]
        ):
            return own
        if free is not None:
            key = self._keys[free]
            if key != NO_AFFINITY and key not in self._owner:
                self._owner[key] = worker
                state.keys.append(key)
            return free
        stolen = self._head(self._any)
        assert stolen is not None, "a task is waiting, so it is in the queue of all tasks"
        return stolen

    def _head_of_own(self, state: _Worker) -> int | None:
        """First waiting task of the newest key that has any; used-up keys are forgotten."""
        while state.keys:
            place = self._head(self._of_key[state.keys[-1]])
            if place is not None:
                return place
            del self._owner[state.keys.pop()]
        return None

    def _head_of_free(self, worker: int) -> int | None:
        """First waiting task that nobody else owns."""
        heap = self._free
        while (place := self._head(heap)) is not None:
            owner = self._owner.get(self._keys[place], worker)
            if owner == worker:
                return place
            heappop(heap)
        return None

    def _head(self, heap: list[int]) -> int | None:
        """First waiting task of a heap; others are dropped from it."""
        while heap:
            if self._state[heap[0]] == _WAITING:
                return heap[0]
            heappop(heap)
        return None
