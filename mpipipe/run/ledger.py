"""What is committed: the best attempt at every task, over all incarnations of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mpipipe.data.outcome import OutcomeKind
from mpipipe.run.plan import Plan
from mpipipe.store.layout import RunLayout
from mpipipe.store.records import Record, read_payload, scan_records

FINAL = frozenset({OutcomeKind.DONE, OutcomeKind.PARTIAL, OutcomeKind.NO_WORK, OutcomeKind.BAD_DATA})
"""Outcomes that are not tried again by a later incarnation."""


@dataclass
class Ledger:
    """The committed records of a run.

    Attributes
    ----------
    best
        Task id to its best record and the file it stands in. Of several attempts the final ones
        win, then the earliest (incarnation, attempt): a rule of content, not of arrival.
    """

    best: dict[int, tuple[Path, Record]] = field(default_factory=dict)

    @classmethod
    def read(cls, layout: RunLayout, plan: Plan) -> Ledger:
        """Read the headers of all records; payloads stay on disk until asked for."""
        ids = {task.id for task in plan.tasks}
        ledger = cls()
        for incarnation in layout.incarnations():
            folder = layout.record_file(incarnation, 0).parent
            for file in sorted(folder.glob("rank-*.records")):
                for record in scan_records(file):
                    if record.task_id in ids:
                        ledger._offer(file, record)
        return ledger

    def _offer(self, file: Path, record: Record) -> None:
        held = self.best.get(record.task_id)
        if held is None or (held[1].kind not in FINAL and record.kind in FINAL):
            self.best[record.task_id] = (file, record)

    @property
    def finished(self) -> dict[int, OutcomeKind]:
        """Tasks with a final outcome."""
        return {
            task_id: OutcomeKind(record.kind)
            for task_id, (_, record) in self.best.items()
            if record.kind in FINAL
        }

    def payload(self, task_id: int) -> bytes:
        """What the best attempt at a task gave back."""
        file, record = self.best[task_id]
        return read_payload(file, record)
