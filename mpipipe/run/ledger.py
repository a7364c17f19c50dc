"""What is committed: the best attempt at every task, over all incarnations of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.run.completion import fault_of, products_of
from mpipipe.run.plan import Plan
from mpipipe.store.checksums import write_json_atomically
from mpipipe.store.columns import decode_columns
from mpipipe.store.layout import RunLayout
from mpipipe.store.records import Record, RecordReader

FINAL = frozenset(
    {OutcomeKind.DONE, OutcomeKind.PARTIAL, OutcomeKind.NO_WORK, OutcomeKind.BAD_DATA}
)
"""Outcomes that a later incarnation takes over as they are."""


@dataclass(frozen=True)
class Entry:
    """Where the record of an attempt stands, and how it ended."""

    incarnation: int
    file: Path
    offset: int
    outcome: Outcome


@dataclass
class Ledger:
    """The committed records of a run.

    Attributes
    ----------
    best
        Task id to its best record. A final one wins; of several, the one of the last incarnation
        (which did the task again because a product was lost), then the first in its files.
    damage
        What was passed over in the record files, a line each.
    """

    layout: RunLayout
    best: dict[int, Entry] = field(default_factory=dict)
    damage: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, layout: RunLayout, plan: Plan) -> Ledger:
        """Read all record files; the tables stay on disk until asked for."""
        phases = {task.id: task.phase for task in plan.tasks}
        ledger = cls(layout)
        for incarnation in layout.incarnations():
            folder = layout.record_file(incarnation, 0).parent
            for file in sorted(folder.glob("rank-*.records")):
                with RecordReader(file) as reader:
                    for record in reader:
                        if phases.get(record.task_id) == record.phase:
                            ledger._offer(incarnation, file, record)
                    ledger.damage += [f"{file.name}: {d.reason}" for d in reader.damage]
        return ledger

    def _offer(self, incarnation: int, file: Path, record: Record) -> None:
        held = self.best.get(record.task_id)
        if held is not None:
            is_later = incarnation > held.incarnation
            if record.kind not in FINAL or (held.outcome.kind in FINAL and not is_later):
                return
        outcome = Outcome.from_json(record.meta)
        self.best[record.task_id] = Entry(incarnation, file, record.offset, outcome)

    def usable(self) -> dict[int, OutcomeKind]:
        """Tasks with a final outcome whose files are all there and as they were written."""
        found: dict[int, OutcomeKind] = {}
        for task_id, entry in self.best.items():
            if entry.outcome.kind not in FINAL:
                continue
            rows = self.tables(task_id).get("products")
            if rows is None or not any(fault_of(self.layout, p) for p in products_of(rows)):
                found[task_id] = entry.outcome.kind
        return found

    def tables(self, task_id: int) -> dict[str, np.ndarray]:
        """The tables that the best attempt at a task gave; empty if it died without any."""
        entry = self.best[task_id]
        with RecordReader(entry.file) as reader:
            payload = reader.at(entry.offset).payload
        return decode_columns(payload)[0] if payload else {}


class Committed:
    """What the ranks of this incarnation have committed so far; each call reads what is new.

    Parameters
    ----------
    layout, incarnation
        Whose record files to read.
    """

    def __init__(self, layout: RunLayout, incarnation: int) -> None:
        self._folder = layout.record_file(incarnation, 0).parent
        self._ends: dict[Path, int] = {}
        self._found: dict[int, Outcome] = {}

    def __call__(self) -> Mapping[int, Outcome]:
        """Task id to outcome; a final one wins, of several the first that was found."""
        for file in sorted(self._folder.glob("rank-*.records")):
            with RecordReader(file) as reader:
                for record in reader.after(self._ends.get(file, 0)):
                    held = self._found.get(record.task_id)
                    if held is None or (held.kind not in FINAL and record.kind in FINAL):
                        self._found[record.task_id] = Outcome.from_json(record.meta)
                self._ends[file] = reader.end
        return self._found


def write_outcomes(layout: RunLayout, plan: Plan, ledger: Ledger) -> None:
    """Write ``outcomes.json``: how every task ended, with reason, stage and warnings."""
    listed = []
    for task in plan.tasks:
        entry = ledger.best.get(task.id)
        if entry is None:
            listed.append({"task": task.id, "phase": task.phase, "what": task.label})
            continue
        outcome = entry.outcome
        listed.append(
            {
                "task": task.id,
                "phase": task.phase,
                "what": task.label,
                "visit": task.visit,
                "ccd": task.ccd,
                "outcome": outcome.kind.label,
                "reason": outcome.reason,
                "stage": outcome.stage,
                "traceback": outcome.traceback,
                "warnings": list(outcome.warnings),
            }
        )
    write_json_atomically(
        layout.root / "outcomes.json", {"tasks": listed, "problems": plan.problems}
    )
