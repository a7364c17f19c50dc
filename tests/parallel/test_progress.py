"""What a person reads: the first failure of a kind in full, the others counted."""

import io

import numpy as np
import pytest

from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.parallel.progress import (
    LineProgress,
    LiveProgress,
    RunningTask,
    format_seconds,
    make_progress,
)
from mpipipe.parallel.tasks import PhaseReport, TaskSummary


def feed(progress):
    progress.begin("calibrate", 6, 2)
    for task in range(3):
        progress.ended(TaskSummary(task, 1, Outcome(OutcomeKind.DONE), 0))
    for task, reason in ((3, "first reason"), (4, "second reason")):
        outcome = Outcome(OutcomeKind.FAILED, reason, "isr.flat", f"Traceback of {task}")
        progress.retried(TaskSummary(task, 1, outcome, 1))
        progress.ended(TaskSummary(task, 2, outcome, 1))
    progress.update(lambda: [RunningTask(5, 1, 61.0)])
    kinds = np.array([0, 0, 0, 4, 4, -1], dtype=np.int8)
    progress.finish(PhaseReport("calibrate", kinds, True, (), 75.0))


def test_lines():
    stream = io.StringIO()
    feed(LineProgress(stream, 0.0, lambda task: f"visit {task}"))
    text = stream.getvalue()
    assert "calibrate: 6 tasks on 2 ranks" in text
    assert "visit 3: failed in isr.flat (rank 1, attempt 2): first reason" in text
    assert "Traceback of 3" in text and "Traceback of 4" not in text
    assert "5/6 (3 done, 2 failed, 2 tried again)" in text
    assert "longest running: visit 5 on rank 1, 1 min 01 s" in text
    assert "interrupted after 1 min 15 s: 3 done, 2 failed, 1 not done, 2 tried again" in text
    assert "failed: 2 tasks, the first visit 3: first reason" in text


def test_seldom_lines():
    stream = io.StringIO()
    progress = LineProgress(stream, 1000.0)
    progress.begin("calibrate", 6, 1)
    for _ in range(100):
        progress.update(lambda: pytest.fail("asked although nothing is shown"))
    assert stream.getvalue().count("\n") == 1


def test_live_display(capsys):
    progress = LiveProgress()
    progress._every_s = 0.0
    feed(progress)
    assert "first reason" in capsys.readouterr().err


def test_no_terminal_no_live_display(monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert type(make_progress()) is LineProgress


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (61, "1 min 01 s"),
        (3600, "1 h 00 min"),
        (9e4, "25 h 00 min"),
    ],
)
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text


def test_time_left_goes_by_cost_when_it_is_known() -> None:
    """The longest tasks run first: by their number, the time left would look far too long."""
    progress = LineProgress(io.StringIO())
    progress.begin("calibrate", 11, 1, {0: 10.0, **dict.fromkeys(range(1, 11), 1.0)})
    progress._begin -= 10.0
    progress.ended(TaskSummary(0, 1, Outcome(OutcomeKind.DONE), 0))
    assert progress.eta_s == pytest.approx(10.0, rel=0.1)
