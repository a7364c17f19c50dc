"""Who gets which task: a state machine without MPI, clock or files.

Events come in as method calls, actions go out as `Assign` values. A worker is a number. Whatever
comes, in whatever order (an outcome twice, an outcome of an attempt that was given up, a worker
that vanishes), every task ends in exactly one outcome unless the phase is drained first.

Longest first, with affinity: a worker stays with the key (a CCD) it took last until that is used
up, then takes the longest task of a key that nobody owns, and only then one of somebody else's.
It leaves its key for a free task that is more than `_AFFINITY_FACTOR` times longer, because long
tasks started late make the end of a phase long. A task of higher priority goes before all that.

Memory is a matter of the node (`parallel.nodes`): a worker gets nothing that the tasks of its
neighbours leave no room for, and a task that has died of memory is tried again alone.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush, heapreplace
from typing import Any, NamedTuple

import numpy as np

from mpipipe.data.outcome import RETRYABLE, OutcomeKind
from mpipipe.parallel.nodes import Node, Nodes
from mpipipe.parallel.tasks import NO_AFFINITY, Policy, SpecTable, TaskSpec

_AFFINITY_FACTOR = 2.0
_MAX_SPAN = 8
"""Ids whose range is no more than so many times their number are looked up in a table."""

# By number: looking an enumeration's member up in a set takes longer than all the rest of an event.
_IS_RETRYABLE = bytes(kind in RETRYABLE for kind in OutcomeKind)

_WAITING, _HELD, _ENDED, _WAITING_ALONE = 0, 1, 2, 3


class Assign(NamedTuple):
    """Give a worker these tasks, as (task id, attempt), in this order."""

    worker: int
    tasks: tuple[tuple[int, int], ...]


class Ended(NamedTuple):
    """A task has come to its end: this outcome counts, whatever comes later."""

    task_id: int
    attempt: int
    kind: OutcomeKind
    worker: int


Action = Assign | Ended


@dataclass(slots=True)
class _Worker:
    """What the scheduler knows of a worker."""

    held: dict[int, int] = field(default_factory=dict)  # place -> attempt, in order of handing out
    seconds: float = 0.0  # expected for what it holds
    keys: list[int] = field(default_factory=list)  # affinity keys it owns, the newest last


class _Queue:
    """Waiting places in ascending order: first those of the beginning, which are only passed by,
    mixed with a heap of those that came back."""

    __slots__ = ("_back", "_next", "_places")

    def __init__(self, places: Sequence[int]) -> None:
        self._places, self._next = places, 0
        self._back: list[int] = []

    def put_back(self, place: int) -> None:
        """A place waits again."""
        heappush(self._back, place)

    def head(self, state: bytearray) -> int:
        """The first place that waits; those before it that do not are dropped. -1 if none."""
        places, place, size = self._places, self._next, len(self._places)
        while place < size and state[places[place]] != _WAITING:
            place += 1
        self._next = place
        back = self._back
        while back and state[back[0]] != _WAITING:
            heappop(back)
        if place < size and not (back and back[0] < places[place]):
            return places[place]
        return back[0] if back else -1

    def drop_head(self) -> None:
        """Pass by what `head` has just given; to come again it has to be put back."""
        places = self._places
        if self._next < len(places) and not (self._back and self._back[0] < places[self._next]):
            self._next += 1
        else:
            heappop(self._back)


def _array(values: np.ndarray, code: str) -> array[Any]:
    """An array whose single values are read faster than NumPy's."""
    found = array(code)
    found.frombytes(np.ascontiguousarray(values, dtype=np.dtype(code)).tobytes())
    return found


def _by_key(keys: np.ndarray) -> dict[int, _Queue]:
    """Places of each affinity key, ascending."""
    order = np.argsort(keys, kind="stable")
    found, begins = np.unique(keys[order], return_index=True)
    ends = [*begins[1:].tolist(), len(order)][: len(found)]
    return {
        key: _Queue(_array(order[begin:end], "i"))
        for key, begin, end in zip(found.tolist(), begins.tolist(), ends, strict=True)
        if key != NO_AFFINITY
    }


class _Places:
    """Task id to place; -1 for an unknown id."""

    def __init__(self, ids: np.ndarray) -> None:
        self._first = int(ids.min()) if len(ids) else 0
        span = int(ids.max()) - self._first + 1 if len(ids) else 0
        self._table: array[Any] | None = None
        self._dict: dict[int, int] = {}
        if span <= _MAX_SPAN * len(ids):
            table = np.full(span, -1, dtype=np.intc)
            table[ids - self._first] = np.arange(len(ids))
            self._table = _array(table, "i")
        else:
            self._dict = {task_id: place for place, task_id in enumerate(ids.tolist())}

    def of(self, task_id: int) -> int:
        """The place of a task."""
        if self._table is None:
            return self._dict.get(task_id, -1)
        number = task_id - self._first
        return self._table[number] if 0 <= number < len(self._table) else -1


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
    so that a queue has its places in ascending order. Every event takes constant time, but for
    tasks that come back (the logarithm of their number) and for places passed by, each of which a
    queue passes once. A task takes about 40 bytes, a worker some hundred.
    """

    def __init__(self, tasks: Sequence[TaskSpec], policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        # Of small tasks one batch runs while the next one is on its way.
        n_small = 2 * self.policy.batch if self.policy.batch > 1 else 1
        self._most_held = max(n_small, self.policy.prefetch)
        table = SpecTable.of(tasks)
        order = np.lexsort((table.ids, -table.costs, -table.priorities))
        ids, keys = table.ids[order], table.affinities[order]
        n_tasks = len(ids)
        self._ids = _array(ids, "q")
        self._costs = _array(table.costs[order], "d")
        self._memory = _array(table.memory[order], "q")
        self._priorities = _array(table.priorities[order], "i") if table.priorities.any() else None
        # Whether memory can be short; unless it can nobody counts it.
        self.is_tight = bool(self.policy.node_memory < np.inf and table.memory.any())
        self._nodes = Nodes()
        self._keys = _array(keys, "q")
        self._places = _Places(ids)
        self._state = bytearray(n_tasks)
        self._attempts = array("i", bytes(4 * n_tasks))  # attempts handed out, by place
        # (place, kind) -> attempts that ended badly in this way
        self._failures: dict[tuple[int, OutcomeKind], int] = {}
        self._workers: dict[int, _Worker] = {}
        self._idle: deque[int] = deque()  # workers that may hold nothing, the longest idle first
        self._owner: dict[int, int] = {}  # affinity key -> worker
        self._any, self._free = _Queue(range(n_tasks)), _Queue(range(n_tasks))
        self._freed: list[tuple[int, int]] = []  # (first place, key) whose owner has vanished
        self._of_key = _by_key(keys)
        self.n_ended = 0
        self.n_waiting = n_tasks
        self.n_waiting_alone = 0
        self.n_ignored = 0
        self.draining = False

    # -- questions -------------------------------------------------------------------------------

    @property
    def n_held(self) -> int:
        """Number of tasks that are with workers."""
        return len(self._ids) - self.n_ended - self.n_waiting - self.n_waiting_alone

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen: all tasks ended, or drained and nothing is held."""
        n_left = self.n_waiting + self.n_waiting_alone
        return self.n_held == 0 and (self.draining or n_left == 0)

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
            place = self._places.of(task_id)
            if place >= 0 and self._state[place] == _WAITING:
                self._state[place] = _ENDED
                self.n_waiting -= 1
                self.n_ended += 1
                found.append(task_id)
        return found

    def on_join(
        self,
        workers: Iterable[int],
        held: Mapping[int, Sequence[tuple[int, int]]] | None = None,
        nodes: Mapping[int, int] | None = None,
    ) -> list[Action]:
        """Workers have come; they get their first tasks, one each before a second.

        Parameters
        ----------
        held
            The (task id, attempt) that a worker has from another master and keeps.
        nodes
            Number of the node that a worker is on; 0 if absent.
        """
        new = [worker for worker in workers if worker not in self._workers]
        for worker in new:
            self._workers[worker] = state = _Worker()
            node = self._nodes.join(worker, (nodes or {}).get(worker, 0))
            for task_id, attempt in (held or {}).get(worker, ()):
                self._adopt(state, task_id, attempt)
            if self.is_tight:
                self._count_memory(node, worker, state)
        picked: dict[int, list[tuple[int, int]]] = {worker: [] for worker in new}
        for depth in range(1, self.policy.prefetch + 1):
            for worker in new:
                picked[worker] += self._pick(worker, depth)
        self._idle.extend(worker for worker in new if not self._workers[worker].held)
        actions: list[Action] = [Assign(w, tuple(tasks)) for w, tasks in picked.items() if tasks]
        if self.is_tight:
            for node in {id(node): node for node in map(self._nodes.of, new)}.values():
                self._relieve(node, actions)
        return actions

    def on_outcome(
        self, worker: int, task_id: int, attempt: int, kind: OutcomeKind, *, starved: bool = False
    ) -> list[Action]:
        """An attempt has ended. What does not belong to an attempt of that worker is ignored.

        Parameters
        ----------
        starved
            Whether it died for lack of memory: if it is tried again, then alone on its node.
        """
        place = self._places.of(task_id)
        state = self._workers.get(worker)
        if state is None or state.held.get(place) != attempt:
            self.n_ignored += 1
            return []
        del state.held[place]
        if state.held:
            state.seconds -= self._costs[place]
        else:
            state.seconds = 0.0
            self._idle.append(worker)
        actions: list[Action] = []
        alone_on = self._nodes.of(worker) if starved else None
        self._settle(place, attempt, kind, worker, actions, alone_on)
        if self.is_tight:
            node = self._nodes.of(worker)
            if node.runs_alone == place:
                node.runs_alone = None
            self._count_memory(node, worker, state)
            self._relieve(node, actions)
        # If the task came back, a worker with nothing to do is the one to start it at once.
        if self.n_waiting and not self.draining:
            if self._idle:
                self._feed_idle(actions)
            if len(state.held) < self._most_held:
                self._refill(worker, actions)
        return actions

    def on_lost(self, worker: int) -> list[Action]:
        """A worker has vanished: its tasks are lost, its keys are free."""
        state = self._workers.pop(worker, None)
        if state is None:
            return []
        self._disown(state)
        actions: list[Action] = []
        old = self._nodes.of(worker)
        if old.runs_alone in state.held:
            old.runs_alone = None
        node = self._nodes.leave(worker)
        for nth, (place, attempt) in enumerate(state.held.items()):
            if nth == 0:
                self._settle(place, attempt, OutcomeKind.LOST, worker, actions)
            else:  # it had not begun, so it is not to blame
                self._wait_again(place)
        if self.is_tight and node is not None:
            self._relieve(node, actions)
        self._feed_idle(actions)
        return actions

    def on_drain(self) -> list[Action]:
        """Hand out nothing from now on."""
        self.draining = True
        return []

    def on_given_back(self, worker: int) -> list[Action]:
        """A worker has dropped all that it holds without an outcome (after `on_drain`)."""
        state = self._workers.get(worker)
        if state is None:
            return []
        held = set(state.held)
        for place in held:
            self._wait_again(place)
        state.held.clear()
        state.seconds = 0.0
        self._idle.append(worker)
        actions: list[Action] = []
        if self.is_tight:
            node = self._nodes.of(worker)
            node.runs_alone = None if node.runs_alone in held else node.runs_alone
            self._count_memory(node, worker, state)
            self._relieve(node, actions)
        self._feed_idle(actions)
        return actions

    # -- inside ----------------------------------------------------------------------------------

    def _adopt(self, state: _Worker, task_id: int, attempt: int) -> None:
        """Leave a task with the worker that has it; not if it has ended, or another has it."""
        place = self._places.of(task_id)
        if place >= 0 and self._state[place] == _WAITING:
            state.held[place] = attempt
            state.seconds += self._costs[place]
            self._state[place] = _HELD
            self._attempts[place] = max(attempt, self._attempts[place])
            self.n_waiting -= 1

    def _settle(
        self,
        place: int,
        attempt: int,
        kind: OutcomeKind,
        worker: int,
        actions: list[Action],
        alone_on: Node | None = None,
    ) -> None:
        """End a task that was held, or let it wait for another attempt, alone on a node or not."""
        if _IS_RETRYABLE[kind]:
            # By kind: a task whose rank was killed has not failed.
            n_failures = self._failures.get((place, kind), 0) + 1
            self._failures[place, kind] = n_failures
            if n_failures < self.policy.attempts.get(kind, 1):
                if alone_on is None:
                    self._wait_again(place)
                else:
                    self._wait_alone(place, alone_on)
                return
        self._state[place] = _ENDED
        self.n_ended += 1
        actions.append(Ended(self._ids[place], attempt, kind, worker))

    def _wait_again(self, place: int) -> None:
        """Put a task that was held back into the queues."""
        self._state[place] = _WAITING
        self.n_waiting += 1
        self._any.put_back(place)
        self._free.put_back(place)
        key = self._keys[place]
        if key != NO_AFFINITY:
            self._of_key[key].put_back(place)

    def _wait_alone(self, place: int, node: Node) -> None:
        """Keep a task that was held until its node can run it and nothing else."""
        self._state[place] = _WAITING_ALONE
        self.n_waiting_alone += 1
        node.alone.append(place)
        if not self.is_tight:
            self.is_tight = True
            for worker, state in self._workers.items():
                self._count_memory(self._nodes.of(worker), worker, state)

    def _count_memory(self, node: Node, worker: int, state: _Worker) -> None:
        """What a worker holds has changed."""
        memory = self._memory
        node.set_need(worker, max((float(memory[place]) for place in state.held), default=-1.0))

    def _relieve(self, node: Node, actions: list[Action]) -> None:
        """Tasks of a node have ended: go on with what had to wait for that."""
        if self.draining or node.runs_alone is not None:
            return
        if node.alone:
            if not node.needs:
                self._run_alone(node, actions)
            return
        blocked, node.blocked = node.blocked, {}
        for worker in blocked:
            self._refill(worker, actions)
            if not self._workers[worker].held and worker not in node.blocked:
                self._idle.append(worker)

    def _run_alone(self, node: Node, actions: list[Action]) -> None:
        """Give the node's first task that has to run alone to one of its workers."""
        place, worker = node.alone.popleft(), next(iter(node.workers))
        node.runs_alone = place
        self.n_waiting_alone -= 1
        self.n_waiting += 1
        taken = self._take(place, self._workers[worker])
        self._count_memory(node, worker, self._workers[worker])
        actions.append(Assign(worker, (taken,)))

    def _disown(self, state: _Worker) -> None:
        """Free the keys of a worker that has vanished."""
        for key in state.keys:
            del self._owner[key]
            place = self._of_key[key].head(self._state)
            if place >= 0:
                heappush(self._freed, (place, key))

    def _refill(self, worker: int, actions: list[Action]) -> None:
        """Fill a worker up to the prefetch depth."""
        tasks = self._pick(worker, self.policy.prefetch)
        if tasks:
            actions.append(Assign(worker, tuple(tasks)))

    def _feed_idle(self, actions: list[Action]) -> None:
        """Give work to workers that have none: a task may have come back for another attempt."""
        while self._idle and self.n_waiting and not self.draining:
            worker = self._idle.popleft()
            state = self._workers.get(worker)
            # One that got something meanwhile, or left, is still in the line.
            if state is not None and not state.held:
                self._refill(worker, actions)

    def _pick(self, worker: int, depth: int) -> list[tuple[int, int]]:
        """Take tasks for a worker until it holds `depth`, or more if they are small."""
        picked: list[tuple[int, int]] = []
        state = self._workers.get(worker)
        if self.draining or state is None:
            return picked
        policy, held = self.policy, state.held
        most = self._most_held if depth == policy.prefetch else depth
        while self.n_waiting and len(held) < most:
            if len(held) >= depth and (
                depth < policy.prefetch
                or state.seconds >= policy.prefetch_s
                or self.n_waiting <= len(self._workers)
            ):
                break
            place = self._next_place(worker, state)
            if self.is_tight and not self._has_room(worker, place):
                break
            picked.append(self._take(place, state))
        return picked

    def _take(self, place: int, state: _Worker) -> tuple[int, int]:
        """Let a worker hold a task: (task id, attempt)."""
        attempt = self._attempts[place] + 1
        self._attempts[place] = attempt
        self._state[place] = _HELD
        self.n_waiting -= 1
        state.held[place] = attempt
        state.seconds += self._costs[place]
        return self._ids[place], attempt

    def _has_room(self, worker: int, place: int) -> bool:
        """Whether a worker's node has memory for a task, which is its own then."""
        node, need = self._nodes.of(worker), float(self._memory[place])
        if not node.has_room(worker, need, self.policy.node_memory):
            node.blocked[worker] = None
            return False
        node.set_need(worker, max(need, node.needs.get(worker, 0.0)))
        return True

    def _next_place(self, worker: int, state: _Worker) -> int:
        """The waiting task that suits a worker best; there is at least one."""
        if self._priorities is None:
            return self._best_place(worker, state)
        best, first = self._best_place(worker, state), self._any.head(self._state)
        return first if self._priorities[first] > self._priorities[best] else best

    def _best_place(self, worker: int, state: _Worker) -> int:
        """The same, if all had the same priority."""
        own = self._head_of_own(state)
        free = self._head_of_free(worker)
        if own >= 0 and (free < 0 or self._costs[free] <= _AFFINITY_FACTOR * self._costs[own]):
            return own
        if free >= 0:
            key = self._keys[free]
            if key != NO_AFFINITY and key not in self._owner:
                self._owner[key] = worker
                state.keys.append(key)
            return free
        stolen = self._any.head(self._state)
        assert stolen >= 0, "a task is waiting, so it is in the queue of all tasks"
        return stolen

    def _head_of_own(self, state: _Worker) -> int:
        """First waiting task of the newest key that has any; used-up keys are forgotten."""
        while state.keys:
            place = self._of_key[state.keys[-1]].head(self._state)
            if place >= 0:
                return place
            del self._owner[state.keys.pop()]
        return -1

    def _head_of_free(self, worker: int) -> int:
        """First waiting task that nobody else owns."""
        queue, state = self._free, self._state
        while (place := queue.head(state)) >= 0:
            if self._owner.get(self._keys[place], worker) == worker:
                break
            queue.drop_head()
        freed = self._head_of_freed() if self._freed else -1
        return place if freed < 0 or 0 <= place < freed else freed

    def _head_of_freed(self) -> int:
        """First waiting task of the keys whose owners have vanished.

        The queue of free tasks has passed by those. One that comes back is in that queue again.
        """
        while self._freed:
            place, key = self._freed[0]
            head = -1 if key in self._owner else self._of_key[key].head(self._state)
            if head < 0:
                heappop(self._freed)
            elif head != place:
                heapreplace(self._freed, (head, key))
            else:
                return place
        return -1
