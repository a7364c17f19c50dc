"""How the tasks of a phase ended, as columns: a million as objects would fill the master."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np

from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.parallel.messages import has_text
from mpipipe.parallel.tasks import SpecTable, TaskSpec, TaskSummary

NOT_ENDED = -1


class SummaryTable:
    """Task id to summary, for the tasks that have ended.

    Parameters
    ----------
    tasks
        All tasks of the phase.

    Attributes
    ----------
    kinds
        int8, an `OutcomeKind` for each task in the order of `tasks`, `NOT_ENDED` without one.
    """

    def __init__(self, tasks: Sequence[TaskSpec]) -> None:
        if isinstance(tasks, SpecTable):
            self._ids = tasks.ids
        else:
            self._ids = np.fromiter((task.id for task in tasks), np.int64, len(tasks))
        # Only tables have their ids in order for sure.
        self._order = np.argsort(self._ids, kind="stable")
        self._sorted = self._ids[self._order]
        size = len(self._ids)
        # Mostly ids are a row of numbers.
        is_row = size > 0 and bool(np.all(np.diff(self._ids) == 1))
        self._first = int(self._ids[0]) if is_row else None
        self.kinds = np.full(size, NOT_ENDED, dtype=np.int8)
        self._attempts, self._ranks = np.zeros((2, size), dtype=np.int32)
        self._wall, self._cpu = np.zeros((2, size))
        self._peak = np.zeros(size, dtype=np.int64)
        self._texts: dict[int, Outcome] = {}

    def __len__(self) -> int:
        return int(np.count_nonzero(self.kinds != NOT_ENDED))

    def __contains__(self, task_id: int) -> bool:
        place = self._place(task_id)
        return place >= 0 and bool(self.kinds[place] != NOT_ENDED)

    def __setitem__(self, task_id: int, summary: TaskSummary) -> None:
        place = self._place(task_id)
        if place < 0:
            raise KeyError(task_id)
        self.kinds[place] = summary.outcome.kind
        self._attempts[place], self._ranks[place] = summary.attempts, summary.rank
        self._wall[place], self._cpu[place] = summary.wall_s, summary.cpu_s
        self._peak[place] = summary.peak_bytes
        if has_text(summary.outcome):
            self._texts[place] = summary.outcome

    def __getitem__(self, task_id: int) -> TaskSummary:
        if task_id not in self:
            raise KeyError(task_id)
        return self.at(self._place(task_id))

    def is_open(self, task_id: int) -> bool:
        """Whether the task is one of these and has not ended."""
        place = self._place(task_id)
        return place >= 0 and bool(self.kinds[place] == NOT_ENDED)

    def ended_ids(self) -> list[int]:
        """Ids of the tasks that have ended, in the order of the tasks."""
        found: list[int] = self._ids[self.kinds != NOT_ENDED].tolist()
        return found

    def at(self, place: int) -> TaskSummary:
        """The summary of the task that stands there in the list of tasks."""
        return TaskSummary(
            int(self._ids[place]),
            int(self._attempts[place]),
            self._texts.get(place) or Outcome(OutcomeKind(int(self.kinds[place]))),
            int(self._ranks[place]),
            float(self._wall[place]),
            float(self._cpu[place]),
            int(self._peak[place]),
        )

    def in_order(self) -> Sequence[TaskSummary]:
        """The summaries of all tasks that have ended, in the order of the tasks."""
        return _InOrder(self, np.flatnonzero(self.kinds != NOT_ENDED))

    def _place(self, task_id: int) -> int:
        if self._first is not None:
            place = task_id - self._first
            return place if 0 <= place < len(self._ids) else -1
        found = int(np.searchsorted(self._sorted, task_id))
        if found < len(self._sorted) and self._sorted[found] == task_id:
            return int(self._order[found])
        return -1


class _InOrder(Sequence[TaskSummary]):
    """Summaries that are made when asked for."""

    def __init__(self, table: SummaryTable, places: np.ndarray) -> None:
        self._table, self._places = table, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, number: int) -> TaskSummary: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[TaskSummary]: ...
    def __getitem__(self, number: int | slice) -> TaskSummary | Sequence[TaskSummary]:
        if isinstance(number, slice):
            return _InOrder(self._table, self._places[number])
        return self._table.at(int(self._places[number]))
