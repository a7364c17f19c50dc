"""What the workers of a node share: its memory.

A worker needs what the largest of its tasks needs, for it runs them one after the other. A node
never holds more than its capacity, but that one worker by itself may have whatever it takes. A
task that has died for lack of memory runs alone: its node hands out nothing else until it is free,
runs the task, and goes on. Part of the scheduler: no MPI, no clock, no files.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class Node:
    """One node.

    Attributes
    ----------
    needs
        Worker to bytes that its tasks need; absent for one that holds none.
    used
        Their sum.
    alone
        Places of tasks that wait to run alone.
    runs_alone
        The one that does; None if none does.
    blocked
        Workers that got no task for lack of memory, in order.
    """

    workers: dict[int, None] = field(default_factory=dict)
    needs: dict[int, float] = field(default_factory=dict)
    used: float = 0.0
    alone: deque[int] = field(default_factory=deque)
    runs_alone: int | None = None
    blocked: dict[int, None] = field(default_factory=dict)

    def set_need(self, worker: int, n_bytes: float) -> None:
        """A worker holds other tasks than before; -1 if it holds none."""
        self.used -= self.needs.pop(worker, 0.0)
        if n_bytes >= 0:
            self.needs[worker] = n_bytes
            self.used += n_bytes
        if not self.needs:
            self.used = 0.0

    def has_room(self, worker: int, n_bytes: float, capacity: float) -> bool:
        """Whether a worker may be given a task that needs so much."""
        if self.alone or self.runs_alone is not None:
            return False
        has = self.needs.get(worker, 0.0)
        others_hold = len(self.needs) > (worker in self.needs)
        return not others_hold or self.used - has + max(has, n_bytes) <= capacity


class Nodes:
    """The nodes of all workers."""

    def __init__(self) -> None:
        self._nodes: dict[int, Node] = {}
        self._of: dict[int, int] = {}
        self._homeless: deque[int] = deque()

    def of(self, worker: int) -> Node:
        """The node of a worker."""
        return self._nodes[self._of[worker]]

    def join(self, worker: int, number: int) -> Node:
        """A worker has come, on the node of that number."""
        self._of[worker] = number
        node = self._nodes.setdefault(number, Node())
        node.workers[worker] = None
        while self._homeless:
            node.alone.append(self._homeless.popleft())
        return node

    def leave(self, worker: int) -> Node | None:
        """A worker has vanished; the node on which others may go on now.

        What waited to run alone on a node without workers waits on another one.
        """
        number = self._of.pop(worker)
        node = self._nodes[number]
        del node.workers[worker]
        node.blocked.pop(worker, None)
        node.set_need(worker, -1)
        if node.workers:
            return node
        del self._nodes[number]
        if not self._nodes:
            self._homeless.extend(node.alone)
            return None
        heir = self._nodes[min(self._nodes)]
        heir.alone.extend(node.alone)
        return heir
