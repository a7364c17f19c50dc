"""What needs a master that has failed fails, too: without it the product would look whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from mpipipe.data.outcome import OutcomeKind
from mpipipe.run.execute import TaskRunner
from mpipipe.run.handover import Handover
from mpipipe.run.plan import load_run
from mpipipe.store.layout import RunLayout

from .test_same_bits import given, raw, undisturbed  # noqa: F401


def test_a_failed_master_stops_what_may_need_it(raw: Path, undisturbed: str) -> None:  # noqa: F811
    layout = RunLayout.at(raw.parent / "undisturbed")
    plan = load_run(layout)[1]
    flats, visits = list(plan.in_phase("flat")), list(plan.in_phase("calibrate"))
    flat = flats[0]
    same = next(task for task in visits if task.band == flat.band)
    others = [task for task in visits if task.band != flat.band]
    runner = TaskRunner(layout)
    undone = replace(Handover.empty(), undone=np.array([flat.id]))
    runner.prepare("calibrate", undone.encode())
    outcome = runner("calibrate", same.id, 1).outcome
    assert outcome.kind is OutcomeKind.FAILED
    assert flat.label in outcome.reason and "--resume" in outcome.reason
    for task in others[:1]:
        assert runner("calibrate", task.id, 1).outcome.kind is OutcomeKind.DONE
    runner.prepare("calibrate", b"")
    assert runner("calibrate", same.id, 1).outcome.kind is OutcomeKind.DONE
