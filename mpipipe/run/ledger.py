"""What is committed: the best attempt at every task, over all incarnations of a run."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpipipe.data.errors import BadDataError
from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.run.attempts import Attempt, decode_attempt
from mpipipe.run.plan import Plan
from mpipipe.run.task import Task
from mpipipe.run.validity import Standing, Validity
from mpipipe.store.checkpoint.index import phase_code
from mpipipe.store.checkpoint.reader import CheckpointReader
from mpipipe.store.checksums import write_json_atomically
from mpipipe.store.columns import decode_columns
from mpipipe.store.layout import RunLayout
from mpipipe.store.records import Record, RecordHead

FINAL = frozenset(
    {OutcomeKind.DONE, OutcomeKind.PARTIAL, OutcomeKind.NO_WORK, OutcomeKind.BAD_DATA}
)
"""Outcomes that a later incarnation takes over as they are."""

NO_OUTCOME = -1
_NO_FILE = -1
_PLAIN = {outcome: outcome for outcome in map(Outcome, OutcomeKind)}
_MAX_OPEN = 64


def are_final(kinds: np.ndarray) -> np.ndarray:
    """bool: which of these outcomes (numbers of `OutcomeKind`) are in `FINAL`."""
    return np.isin(kinds, sorted(FINAL))


class Ledger:
    """The committed records of a run. Of a task it keeps some bytes: the rest stays on disk.

    A final record wins; of several, the one of the last incarnation (which did the task again
    because a product was lost), then the first in its files. Records that hold no longer
    (`Validity`) do not count; those of which the image holds are kept beside.

    Attributes
    ----------
    kinds
        int8, an `OutcomeKind` for each task of the plan, `NO_OUTCOME` where there is no record.
    incarnations
        int32, the incarnation that each record is of.
    damage
        What was passed over in the checkpoint files, a line each.
    """

    def __init__(self, layout: RunLayout, plan: Plan) -> None:
        n_tasks = len(plan.tasks)
        self.layout, self.plan = layout, plan
        self.kinds = np.full(n_tasks, NO_OUTCOME, dtype=np.int8)
        self.damage: list[str] = []
        self.incarnations = np.zeros(n_tasks, dtype=np.int32)
        self._file_of = np.zeros(n_tasks, dtype=np.int32)
        self._offsets = np.zeros(n_tasks, dtype=np.int64)
        self._image_file = np.full(n_tasks, _NO_FILE, dtype=np.int32)
        self._image_offsets = np.zeros(n_tasks, dtype=np.int64)
        self._files: list[Path] = []
        self._open: OrderedDict[int, CheckpointReader] = OrderedDict()

    @classmethod
    def read(
        cls,
        layout: RunLayout,
        plan: Plan,
        validity: Validity | None = None,
        since: np.ndarray | None = None,
    ) -> Ledger:
        """Read the index of all records; the records stay on disk until asked for.

        Parameters
        ----------
        validity
            Which records hold still; None for all.
        since
            (n_tasks,) the first incarnation whose record of each task counts; None for all.

        Raises
        ------
        BadDataError
            If a file was written by another version of mpipipe.
        """
        ledger = cls(layout, plan)
        codes = phase_codes(plan)
        for incarnation in layout.incarnations():
            levels = None if validity is None else validity.levels(incarnation)
            for file in layout.checkpoints(incarnation):
                ledger._files.append(file)
                with CheckpointReader(file) as reader:
                    rows = reader.read_new()
                    rows = rows[of_plan(rows, codes)]
                    if since is not None:
                        rows = rows[since[rows["task"]] <= incarnation]
                    if levels is not None:
                        level = levels[rows["task"]]
                        ledger._keep_images(rows[level == Standing.IMAGE_HOLDS])
                        rows = rows[level == Standing.HOLDS]
                    ledger._offer(incarnation, rows)
                    ledger.damage += [
                        f"{file.name}: {d.reason}" for d in reader.damage if d.is_loss
                    ]
        return ledger

    def _offer(self, incarnation: int, rows: np.ndarray) -> None:
        """Take up the records of one more file, as far as they are better than what is known."""
        is_final = are_final(rows["kind"])
        final = _first_of_each(rows[is_final])
        held_final = are_final(self.kinds[final["task"]])
        is_later = self.incarnations[final["task"]] < incarnation
        self._take(incarnation, final[~held_final | is_later])
        others = _first_of_each(rows[~is_final])
        self._take(incarnation, others[self.kinds[others["task"]] == NO_OUTCOME])

    def _keep_images(self, rows: np.ndarray) -> None:
        """Note records whose image holds; those of a later file win."""
        rows = _first_of_each(rows[np.isin(rows["kind"], (OutcomeKind.DONE, OutcomeKind.PARTIAL))])
        self._image_file[rows["task"]] = len(self._files) - 1
        self._image_offsets[rows["task"]] = rows["offset"]

    def _take(self, incarnation: int, rows: np.ndarray) -> None:
        tasks = rows["task"]
        self.kinds[tasks] = rows["kind"]
        self.incarnations[tasks] = incarnation
        self._file_of[tasks] = len(self._files) - 1
        self._offsets[tasks] = rows["offset"]

    def task_ids(self) -> list[int]:
        """Tasks with a record, ascending."""
        found: list[int] = np.flatnonzero(self.kinds != NO_OUTCOME).tolist()
        return found

    @property
    def is_final(self) -> np.ndarray:
        """bool, for each task: whether its outcome is taken over as it is."""
        return are_final(self.kinds)

    def images(self, task_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which of these tasks have a record whose image holds; its file and offset there.

        The file is a place in `files`.
        """
        found = task_ids[self._image_file[task_ids] != _NO_FILE]
        return found, self._image_file[found], self._image_offsets[found]

    def places(self, task_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """File (a place in `files`) and offset of the records of these tasks, which have one."""
        return self._file_of[task_ids], self._offsets[task_ids]

    @property
    def files(self) -> tuple[Path, ...]:
        """The checkpoint files, in the order of reading."""
        return tuple(self._files)

    def attempt(self, task_id: int) -> Attempt:
        """How the best attempt at a task went."""
        return decode_attempt(self.head(task_id).meta)

    def head(self, task_id: int) -> RecordHead:
        """The head of the record of the best attempt at a task."""
        return self._reader(task_id).head_at(int(self._offsets[task_id]))

    def record(self, task_id: int) -> Record:
        """The record of the best attempt at a task, with its payload.

        Raises
        ------
        BadDataError
            If it is damaged.
        """
        return self._reader(task_id).at(int(self._offsets[task_id]))

    def tables(self, task_id: int) -> dict[str, np.ndarray]:
        """The tables that the best attempt at a task gave; empty if it died without any."""
        payload = self.record(task_id).payload
        return decode_columns(payload)[0] if payload else {}

    def _reader(self, task_id: int) -> CheckpointReader:
        """The file of a task's record; those used last stay open."""
        number = int(self._file_of[task_id])
        reader = self._open.pop(number, None) or CheckpointReader(self._files[number])
        self._open[number] = reader
        if len(self._open) > _MAX_OPEN:
            self._open.popitem(last=False)[1].close()
        return reader

    def close(self) -> None:
        """Close the files."""
        while self._open:
            self._open.popitem()[1].close()


def phase_codes(plan: Plan) -> np.ndarray:
    """What stands in the index for the phase of each task."""
    words = np.array([phase_code(word) for word in plan.tasks.words] or [0], dtype=np.uint32)
    found: np.ndarray = words[plan.tasks.column("phase")]
    return found


def of_plan(rows: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Which records are of tasks of the plan."""
    tasks = rows["task"]
    found: np.ndarray = (tasks >= 0) & (tasks < len(codes)) & (rows["kind"] < len(OutcomeKind))
    found[found] = codes[tasks[found]] == rows["phase"][found]
    return found


def _first_of_each(rows: np.ndarray) -> np.ndarray:
    """The first record of each task."""
    _, first = np.unique(rows["task"], return_index=True)
    return rows[first]


class Committed:
    """What the ranks of this incarnation have committed so far; each call reads what is new.

    Parameters
    ----------
    layout, incarnation
        Whose checkpoint to read.
    phases
        Of the tasks that count: those of another plan have the same numbers.
    """

    def __init__(self, layout: RunLayout, incarnation: int, phases: Iterable[str]) -> None:
        self._layout, self._incarnation = layout, incarnation
        self._phases = frozenset(phases)
        self._readers: dict[Path, CheckpointReader] = {}
        self._found: dict[int, Outcome] = {}

    def __call__(self) -> Mapping[int, Outcome]:
        """Task id to outcome; a final one wins, of several the first that was found."""
        for file in self._layout.checkpoints(self._incarnation):
            reader = self._readers.get(file) or CheckpointReader(file)
            self._readers[file] = reader
            for offset in reader.read_new()["offset"].tolist():
                with contextlib.suppress(BadDataError):
                    head = reader.head_at(offset)
                    if head.phase not in self._phases:
                        continue
                    held = self._found.get(head.task_id)
                    if held is None or (held.kind not in FINAL and head.kind in FINAL):
                        outcome = decode_attempt(head.meta).outcome
                        # Equal ones are one object: most have nothing to tell.
                        self._found[head.task_id] = _PLAIN.get(outcome, outcome)
            reader.close()
        return self._found


def write_outcomes(layout: RunLayout, ledgers: Sequence[Ledger]) -> None:
    """Write ``outcomes.json``: how every task ended, with reason, stage and warnings.

    Parameters
    ----------
    ledgers
        Of all plans of the run; the first one's problems are told.
    """
    listed = [_facts(ledger, task) for ledger in ledgers for task in ledger.plan.tasks]
    problems = ledgers[0].plan.problems
    write_json_atomically(layout.outcomes, {"tasks": listed, "problems": problems})


def _facts(ledger: Ledger, task: Task) -> dict[str, Any]:
    """How a task ended."""
    facts = {"task": task.id, "phase": task.phase, "what": task.label}
    if ledger.kinds[task.id] == NO_OUTCOME:
        return facts
    outcome = ledger.attempt(task.id).outcome
    return facts | {
        "visit": task.visit,
        "ccd": task.ccd,
        "outcome": outcome.kind.label,
        "reason": outcome.reason,
        "stage": outcome.stage,
        "traceback": outcome.traceback,
        "warnings": list(outcome.warnings),
    }
