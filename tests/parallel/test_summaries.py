"""Tasks and outcomes as columns are the same values as objects."""

from __future__ import annotations

import numpy as np
import pytest

from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.parallel.scheduler import Assign, Scheduler
from mpipipe.parallel.signals import StopRequest
from mpipipe.parallel.summaries import NOT_ENDED, SummaryTable
from mpipipe.parallel.tasks import SpecTable, TaskSpec, TaskSummary, costs_of, deadlines_of

IDS = [3, 5, 8, 1000]


@pytest.fixture
def table() -> SpecTable:
    return SpecTable(np.array(IDS), np.array([1.0, 9.0, 2.0, 4.0]), np.array([0, 1, 0, -1]), 7.0)


def test_tables_are_sequences_of_tasks(table: SpecTable) -> None:
    assert list(table) == [
        TaskSpec(3, 1.0, 0, 7.0),
        TaskSpec(5, 9.0, 1, 7.0),
        TaskSpec(8, 2.0, 0, 7.0),
        TaskSpec(1000, 4.0, -1, 7.0),
    ]
    assert list(table[1:3]) == list(table)[1:3]
    assert dict(costs_of(table)) == costs_of(list(table))
    assert dict(deadlines_of(table)) == deadlines_of(list(table))
    assert deadlines_of(table).get(4) is None
    assert deadlines_of(SpecTable(*(np.zeros(0),) * 3)) == {}


def test_ids_ascend() -> None:
    with pytest.raises(ValueError, match="not ascending"):
        SpecTable(np.array([1, 1]), np.ones(2), np.ones(2))


def test_the_scheduler_takes_both_alike(table: SpecTable) -> None:
    found = [Scheduler(tasks).on_join(range(2)) for tasks in (table, list(table))]
    assert found[0] == found[1]
    assert all(isinstance(action, Assign) for action in found[0])


@pytest.mark.parametrize("as_table", [True, False])
def test_summaries_come_back(table: SpecTable, as_table: bool) -> None:
    tasks = table if as_table else list(table)[::-1]
    summaries = SummaryTable(tasks)
    told = Outcome(OutcomeKind.FAILED, "no disk", "cs.reject", "Traceback", ("late",))
    given = [
        TaskSummary(8, 2, told, 1, 0.5, 0.25, 10**10),
        TaskSummary(3, 1, Outcome(OutcomeKind.DONE), 0, 1.5),
    ]
    for summary in given:
        summaries[summary.task_id] = summary
        assert summaries[summary.task_id] == summary
    assert len(summaries) == 2 and 8 in summaries and 5 not in summaries and 4 not in summaries
    order = [task.id for task in tasks if task.id in (3, 8)]
    assert [summary.task_id for summary in summaries.in_order()] == order
    assert sorted(summaries.kinds.tolist()) == [NOT_ENDED, NOT_ENDED, 0, 4]
    for task_id in (4, 5):
        with pytest.raises(KeyError):
            summaries[task_id]
    with pytest.raises(KeyError):
        summaries[4] = given[0]


def test_a_stop_may_be_polled() -> None:
    stop = StopRequest()
    assert stop.level == 0 and not stop.asked
    stop.poll = lambda: 1
    assert stop.level == 1 and stop.asked and not stop.at_once
    stop.poll = lambda: 2
    assert stop.at_once
    stop.poll = lambda: 0
    stop.ask()
    stop.ask()
    stop.ask()
    assert stop.level == 2, "signals count up to at once"
