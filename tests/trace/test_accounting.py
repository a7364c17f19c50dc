"""Where the time went: every moment counts once, whatever events overlap or hold each other."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpipipe.trace.accounting import account
from mpipipe.trace.eventfile import EVENTS
from mpipipe.trace.perfetto import as_trace

MPI, TASKS = 10, 11
"""Numbers of a rank's two processes."""


def table(*rows: tuple[int, float, float, int, str, str]) -> np.ndarray:
    """(rank, start, duration, process, kind, name)."""
    found = np.zeros(len(rows), dtype=EVENTS.dtype)
    for place, (rank, start, duration, process, kind, name) in enumerate(rows):
        found[place] = (rank, start, duration, np.nan, 0, 0, -1, process, kind, name)
    return found


def test_by_hand() -> None:
    """Ten seconds of one rank: a task with a stage and a read, a commit that it hides in part."""
    found = account(
        table(
            (0, 0.0, 1.0, MPI, "startup", "imports"),
            (0, 1.0, 1.0, MPI, "idle", "no task"),
            (0, 2.0, 4.0, TASKS, "task", "calibrate"),
            (0, 2.0, 1.0, TASKS, "read", "raw"),
            (0, 3.0, 2.0, TASKS, "stage", "isr.bias"),
            (0, 5.0, 2.0, MPI, "checkpoint", "calibrate"),
            (0, 8.0, 2.0, MPI, "write", "publish src"),
            (0, 9.0, 0.5, MPI, "collective", "Iallreduce"),
            (0, 1.0, 6.0, MPI, "phase", "calibrate"),
        )
    )
    (rank,) = found.ranks
    assert rank.wall_s == 10.0
    seconds = {kind: rank.of_kind(kind) for kind in rank.shares}
    assert seconds == pytest.approx(
        {
            "startup": 1.0,
            "idle": 1.0,
            "task": 1.0,
            "read": 1.0,
            "stage": 2.0,
            "checkpoint": 1.0,
            "write": 1.5,
            "collective": 0.5,
            "other": 1.0,
        }
    )
    assert rank.hidden_s["checkpoint"] == pytest.approx(1.0)
    (phase,) = found.phases
    assert (phase.n_tasks, phase.longest_s, phase.balance) == (1, 4.0, 1.0)
    assert found.gains_s["without checkpoint"] == pytest.approx(1.0)


def test_balance_and_its_gain() -> None:
    found = account(
        table(
            (0, 0.0, 4.0, TASKS, "task", "calibrate"),
            (1, 0.0, 2.0, TASKS, "task", "calibrate"),
            (0, 0.0, 4.0, MPI, "phase", "calibrate"),
            (1, 0.0, 4.0, MPI, "phase", "calibrate"),
        )
    )
    assert found.phases[0].balance == pytest.approx(0.75)
    assert found.gains_s["with perfect balance"] == pytest.approx(1.0)


def test_several_task_processes() -> None:
    """Two that overlap are two cores of the rank; a third that follows one of them is none more."""
    found = account(
        table(
            (0, 0.0, 10.0, MPI, "phase", "calibrate"),
            (0, 0.0, 8.0, 21, "task", "calibrate"),
            (0, 1.0, 6.0, 21, "stage", "isr.bias"),
            (0, 2.0, 4.0, 22, "task", "calibrate"),
            (0, 2.0, 4.0, 22, "stage", "isr.flat"),
            (0, 7.0, 3.0, 23, "task", "calibrate"),
        )
    )
    first, second = found.ranks
    assert (first.core, second.core) == (0, 1)
    assert first.shares["stage"] == pytest.approx({"isr.bias": 6.0})
    assert second.shares["stage"] == pytest.approx({"isr.flat": 4.0})
    assert second.of_kind("task") == pytest.approx(3.0)
    for rank in found.ranks:
        assert sum(rank.of_kind(k) for k in rank.shares) == pytest.approx(rank.wall_s)
    assert sorted(found.phases[0].busy_s) == pytest.approx([7.0, 8.0])


def test_no_events() -> None:
    assert account(EVENTS.empty()).ranks == ()


KINDS = ("stage", "task", "read", "checkpoint", "idle", "collective")
EVENT = st.tuples(
    st.integers(0, 2),
    st.floats(0, 100),
    st.floats(0, 50),
    st.sampled_from((MPI, TASKS)),
    st.sampled_from(KINDS),
    st.just("x"),
)


@given(st.lists(EVENT, min_size=1, max_size=40))
def test_shares_add_up(rows: list[tuple[int, float, float, int, str, str]]) -> None:
    """Whatever is recorded, and however it overlaps: no moment is lost, none counts twice."""
    found = account(table(*rows))
    for rank in found.ranks:
        shares = sum(rank.of_kind(kind) for kind in rank.shares)
        assert shares == pytest.approx(rank.wall_s, abs=1e-6)
        assert all(s >= -1e-9 for names in rank.shares.values() for s in names.values())


def test_perfetto_format() -> None:
    """As the format's description asks: a list of events with phases, times in microseconds."""
    rows = table(
        (0, 1000.0, 0.5, TASKS, "task", 'a "name"'),
        (0, 1000.1, 0.2, TASKS, "stage", "isr.bias"),
        (3, 1000.0, 0.0, MPI, "sample", "peak memory"),
    )
    rows["nBytes"][2] = 12345
    rows["task"][0] = 7
    document: dict[str, Any] = json.loads("".join(as_trace(rows)))
    listed = document["traceEvents"]
    for event in listed:
        assert event["ph"] in "XCM"
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert isinstance(event["name"], str)
        if event["ph"] != "M":
            assert event["ts"] >= 0
    task, stage = (event for event in listed if event["ph"] == "X")
    assert task["args"]["task"] == 7
    assert stage["ts"] == pytest.approx(1e5, abs=1)
    assert stage["dur"] == pytest.approx(2e5)
    assert task["ts"] <= stage["ts"] < stage["ts"] + stage["dur"] <= task["ts"] + task["dur"]
    (counter,) = (event for event in listed if event["ph"] == "C")
    assert counter["args"] == {"peak memory": 12345}
    assert counter["name"] == f"peak memory, process {MPI}", "tracks are told apart by name"
    named = {e["args"]["name"] for e in listed if e["name"] == "process_name"}
    assert named == {"rank 0", "rank 3"}


def test_perfetto_of_nothing() -> None:
    assert json.loads("".join(as_trace(EVENTS.empty())))["traceEvents"] == []
