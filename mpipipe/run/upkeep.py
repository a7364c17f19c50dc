"""Looking after the checkpoint of a run: what is in it, is it whole, mend it, make it small."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mpipipe.data.errors import BadDataError, ConfigError
from mpipipe.data.outcome import OutcomeKind
from mpipipe.run.ledger import NO_OUTCOME, Ledger
from mpipipe.run.plan import Plan, load_plan, require_run
from mpipipe.run.sky_plan import ASSOCIATE, plans_of
from mpipipe.run.status import ALIVE_S
from mpipipe.run.validity import Validity, read_basis
from mpipipe.store.checkpoint.create import sync_folder
from mpipipe.store.checkpoint.pool import FOLDER
from mpipipe.store.checkpoint.reader import CheckpointReader
from mpipipe.store.checkpoint.rewrite import write_checkpoint
from mpipipe.store.layout import RunLayout
from mpipipe.store.records import Damage

DAMAGED_SUFFIX = ".damaged"
"""Put behind the name of a file that was repaired."""
_SOME = 20
"""Names that are listed, at most."""


@dataclass
class FileFacts:
    """One file of records.

    Attributes
    ----------
    path
        Relative to the run folder.
    kinds
        Number of records by label of outcome.
    ranks
        Who wrote them.
    n_bytes, disk_bytes
        What the records take, and what the file takes of the disk.
    damage
        Stretches without a whole record.
    n_torn
        Ends of regions where a writer was stopped in the middle of a record; nothing was lost.
    """

    path: str
    incarnation: int
    n_records: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    ranks: list[int] = field(default_factory=list)
    n_bytes: int = 0
    disk_bytes: int = 0
    damage: list[Damage] = field(default_factory=list)
    n_torn: int = 0


def list_checkpoints(layout: RunLayout, *, verify: bool = False) -> list[FileFacts]:
    """What is in the checkpoint files of all incarnations.

    Parameters
    ----------
    verify
        Read every payload and compare it with its checksum, and look everywhere for records.

    Raises
    ------
    ConfigError
        If the folder holds no run.
    BadDataError
        If a file is of another version.
    """
    if not layout.incarnations():
        require_run(layout)
    return [
        _facts(layout, incarnation, path, verify)
        for incarnation in layout.incarnations()
        for path in layout.checkpoints(incarnation)
    ]


def _facts(layout: RunLayout, incarnation: int, path: Path, verify: bool) -> FileFacts:
    facts = FileFacts(layout.relative(path), incarnation)
    facts.disk_bytes = path.stat().st_blocks * 512
    with CheckpointReader(path) as reader:
        rows = reader.read_new(thorough=verify)
        facts.damage = [damage for damage in reader.damage if damage.is_loss]
        facts.n_torn = len(reader.damage) - len(facts.damage)
        if verify:
            whole = np.array([_is_whole(reader, row, facts) for row in rows], dtype=bool)
            rows = rows[whole]
    facts.n_records = len(rows)
    facts.n_bytes = int(_sizes(rows).sum())
    facts.kinds = _by_label(rows["kind"])
    facts.ranks = np.unique(rows["rank"]).tolist()
    return facts


def _is_whole(reader: CheckpointReader, row: np.void, facts: FileFacts) -> bool:
    """Whether a record can be read; otherwise it is noted as damage."""
    try:
        reader.at(int(row["offset"]))
    except BadDataError:
        length = int(row["n_head"]) + int(row["n_payload"])
        facts.damage.append(Damage(int(row["offset"]), length, f"record of task {row['task']}"))
        return False
    return True


def _sizes(rows: np.ndarray) -> np.ndarray:
    found: np.ndarray = rows["n_head"] + rows["n_payload"]
    return found


def _by_label(kinds: np.ndarray) -> dict[str, int]:
    counts = Counter(kinds.tolist())
    known = {kind.label: counts.pop(int(kind)) for kind in OutcomeKind if counts[int(kind)]}
    unknown = sum(counts.values())
    return known | ({"unknown": unknown} if unknown else {})


@dataclass(frozen=True)
class TableFacts:
    """One table of a record: its columns as (name, dtype, shape)."""

    name: str
    n_rows: int
    columns: tuple[tuple[str, str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class TaskFacts:
    """The record that counts for a task."""

    task: int
    phase: str
    what: str
    attempt: int
    rank: int
    written: float
    outcome: str
    reason: str
    stage: str
    traceback: str
    warnings: tuple[str, ...]
    wall_s: float
    cpu_s: float
    tables: tuple[TableFacts, ...]


def find_task(layout: RunLayout, visit: int | None, ccd: str | None) -> int:
    """The task that calibrates a visit and CCD; the first, of several.

    Raises
    ------
    ConfigError
        If there is none.
    """
    plan = load_plan(layout)
    for task_id in range(len(plan.tasks)):
        phase, its_visit, its_ccd, _ = plan.tasks.labels_at(task_id)
        if phase == "calibrate" and visit in (None, its_visit) and ccd in (None, its_ccd):
            return task_id
    raise ConfigError(f"its plan has no visit {visit} with CCD {ccd}", file=layout.root)


def find_cell(layout: RunLayout, name: str) -> int:
    """The task that associates a sky cell, among those of the association; "seams" for the last.

    Raises
    ------
    ConfigError
        If there is none.
    """
    plan = _sky_plan(layout)
    labels = [plan.tasks.labels_at(task_id) for task_id in range(len(plan.tasks))]
    names = [cell if phase == ASSOCIATE else phase for phase, _, cell, _ in labels]
    if name not in names:
        some = ", ".join(names[-_SOME:])
        raise ConfigError(f"no sky cell {name}", file=layout.cells, way_out=f"take one of {some}")
    return names.index(name)


def _sky_plan(layout: RunLayout) -> Plan:
    plans = plans_of(layout)
    if len(plans) == 1:
        raise ConfigError("its sources are in no sky cells yet", file=layout.root)
    return plans[1]


def read_task(layout: RunLayout, task_id: int, *, of_sky: bool = False) -> TaskFacts:
    """What is committed of a task.

    Parameters
    ----------
    of_sky
        Whether it is one of the association's tasks, which are counted by themselves.

    Raises
    ------
    ConfigError
        If the plan has no such task, or it has no record.
    BadDataError
        If the record is damaged.
    """
    plan = _sky_plan(layout) if of_sky else load_plan(layout)
    ledger = Ledger.read(layout, plan)
    if task_id not in range(len(plan.tasks)):
        last = len(plan.tasks) - 1
        raise ConfigError(f"has no task {task_id}: they go from 0 to {last}", file=layout.root)
    if ledger.kinds[task_id] < 0:
        raise ConfigError(f"has no record of task {task_id}", file=layout.root)
    head, attempt = ledger.head(task_id), ledger.attempt(task_id)
    tables = ledger.tables(task_id)
    ledger.close()
    outcome = attempt.outcome
    return TaskFacts(
        task=task_id,
        phase=head.phase,
        what=plan.label(task_id),
        attempt=head.attempt,
        rank=head.rank,
        written=head.written,
        outcome=outcome.kind.label,
        reason=outcome.reason,
        stage=outcome.stage,
        traceback=outcome.traceback,
        warnings=outcome.warnings,
        wall_s=attempt.wall_s,
        cpu_s=attempt.cpu_s,
        tables=tuple(_table_facts(name, rows) for name, rows in tables.items()),
    )


def _table_facts(name: str, rows: np.ndarray) -> TableFacts:
    if rows.dtype.names is None:
        return TableFacts(name, len(rows) if rows.ndim else 1, (("", rows.dtype.str, rows.shape),))
    fields = ((field, rows.dtype[field]) for field in rows.dtype.names)
    columns = tuple((field, dtype.base.str, dtype.shape) for field, dtype in fields)
    return TableFacts(name, len(rows), columns)


def repair(layout: RunLayout) -> list[tuple[str, str, int]]:
    """Write a fresh file for each damaged one, with all of its whole records.

    Returns
    -------
    list of (str, str, int)
        The damaged file under its new name, the fresh one (empty if there was nothing to save),
        and the number of records in it.

    Raises
    ------
    ConfigError
        If the run goes on.
    OutputError
        If the disk is full; the old file is untouched then.
    """
    refuse_running(layout)
    done = []
    for facts in list_checkpoints(layout, verify=True):
        if not facts.damage:
            continue
        old = layout.root / facts.path
        fresh = ""
        if facts.n_records:
            with CheckpointReader(old) as reader:
                rows = reader.read_new(thorough=True)
                new = _free_name(old.with_name(f"{old.stem}-repaired.h5"))
                sizes = facts.n_records, facts.n_bytes
                new = write_checkpoint(new, facts.incarnation, *sizes, reader.records(rows))
            fresh = layout.relative(new)
        aside = _free_name(old.with_name(old.name + DAMAGED_SUFFIX))
        old.rename(aside)
        sync_folder(old.parent)
        done.append((layout.relative(aside), fresh, facts.n_records))
    return done


@dataclass(frozen=True)
class Compacted:
    """What `compact` did: the new file, what it replaces, and bytes on disk before and after."""

    path: str
    n_records: int
    removed: tuple[str, ...]
    bytes_before: int
    bytes_after: int


def compact(layout: RunLayout) -> Compacted:
    """Write one file with the record that counts of each task, then remove all others.

    Raises
    ------
    ConfigError
        If the run goes on, there are no records, or some hold no longer.
    BadDataError
        If a record is damaged: repairing comes first.
    OutputError
        If the disk is full; nothing is removed then.
    """
    refuse_running(layout)
    before = list_checkpoints(layout, verify=True)
    if any(facts.damage for facts in before):
        raise BadDataError(
            "its checkpoint is damaged",
            file=layout.root,
            way_out=f"mpipipe checkpoint repair {layout.root}",
        )
    newest = max(layout.incarnations(), default=0)
    ledgers = [Ledger.read(layout, plan) for plan in plans_of(layout)]
    tasks = [(ledger, task) for ledger in ledgers for task in ledger.task_ids()]
    if not tasks:
        raise ConfigError("has no records to compact", file=layout.root)
    heads = (ledger.head(task) for ledger, task in tasks)
    n_bytes = sum(head.end - head.offset for head in heads)
    for ledger in ledgers:
        _refuse_mixture(layout, ledger, newest)
    path = _free_name(layout.record_folder(newest) / "compact.h5")
    records = (ledger.record(task) for ledger, task in tasks)
    path = write_checkpoint(path, newest, len(tasks), n_bytes, records)
    for ledger in ledgers:
        ledger.close()
    for facts in before:
        (layout.root / facts.path).unlink()
    for incarnation in layout.incarnations():
        shutil.rmtree(layout.record_folder(incarnation) / FOLDER, ignore_errors=True)
    size = path.stat().st_blocks * 512
    removed = tuple(facts.path for facts in before)
    disk_bytes = sum(facts.disk_bytes for facts in before)
    return Compacted(layout.relative(path), len(tasks), removed, disk_bytes, size)


def _refuse_mixture(layout: RunLayout, ledger: Ledger, newest: int) -> None:
    """Records that are moved to the newest incarnation must have been made as its own are."""
    basis = read_basis(layout, newest)
    if basis is None:
        return  # then nothing of the run can be taken over, before or after
    plan = ledger.plan
    holding = Ledger.read(layout, plan, Validity.judge(layout, plan, basis))
    holding.close()
    same = (holding.kinds != NO_OUTCOME) & (holding.incarnations == ledger.incarnations)
    if np.any((ledger.kinds != NO_OUTCOME) & ~same):
        raise ConfigError(
            "holds records that were made with other options or code than its last ones",
            file=layout.root,
            way_out=f"bring it to its end first: mpipipe run --resume {layout.root}",
        )


def _free_name(path: Path) -> Path:
    """This name, or one with a number that nobody has."""
    number, found = 1, path
    while found.exists() or found.with_suffix(".ckpt").exists():
        number += 1
        found = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return found


def refuse_running(layout: RunLayout) -> None:
    """Refuse to touch a run that somebody works on.

    Raises
    ------
    ConfigError
        If its master has given a sign of life just now.
    """
    try:
        silent = time.time() - layout.heartbeat.stat().st_mtime
    except OSError:
        return
    if silent < ALIVE_S:
        raise ConfigError(
            f"the run goes on, or did so {silent:.0f} s ago",
            file=layout.root,
            way_out=f"end it with: mpipipe stop {layout.root}",
        )
