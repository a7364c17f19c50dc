"""A whole run, told on one page.

Every rank executes `drive`. Rank 0 makes the plan (or takes up the one that is there) and writes
it into the run folder; each phase hands its tasks to the ranks; what a task gives back is
committed to the rank's record file before the master hears of it. When all phases are through,
the tables are published from the records in the order of tasks, so that they do not depend on
who ran what, and the completion record is written last.

Bottlenecks: the plan is made by one process from the header index; publishing reads every record
once; hashing the products is spread over the tasks that write them.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mpipipe import __version__
from mpipipe.data.errors import ConfigError, MpipipeError
from mpipipe.data.outcome import OutcomeKind
from mpipipe.parallel.launch import Ranks, launch
from mpipipe.parallel.progress import Progress
from mpipipe.parallel.tasks import Policy, TaskResult, TaskSpec
from mpipipe.run.completion import Product, product_of_file, products_of, write_completion
from mpipipe.run.context import RunContext
from mpipipe.run.execute import Executor
from mpipipe.run.ledger import Ledger
from mpipipe.run.phases import PHASES
from mpipipe.run.plan import Plan, Task, load_run
from mpipipe.store.checksums import write_json_atomically
from mpipipe.store.columns import decode_tables
from mpipipe.store.hdf5 import publish_catalogue
from mpipipe.store.layout import RunLayout
from mpipipe.store.records import RecordWriter


@dataclass
class RunResult:
    """How a run ended.

    Attributes
    ----------
    outcomes
        Phase to number of tasks by label of outcome.
    interrupted
        Whether it was asked to stop; what is committed stays, `resume` goes on.
    n_resumed
        Tasks whose committed results of earlier incarnations were taken over.
    """

    outcomes: dict[str, dict[str, int]] = field(default_factory=dict)
    interrupted: bool = False
    n_resumed: int = 0

    @property
    def has_failures(self) -> bool:
        """Whether any task ended in a way that needs a person's attention."""
        fine = {kind.label for kind in OutcomeKind if kind.is_success}
        return any(set(counts) - fine for counts in self.outcomes.values())


def drive(
    layout: RunLayout,
    make: Callable[[], Plan] | None,
    *,
    quiet: bool = False,
) -> RunResult:
    """Run all phases of a plan. Collective: every rank of the launcher calls it alike.

    Parameters
    ----------
    layout
        The run folder.
    make
        Makes and saves the plan, on rank 0 only; None resumes the plan that is there.
    quiet
        Show no progress.

    Raises
    ------
    MpipipeError
        On every rank alike if the run can not start; the message on rank 0 tells why.
    """
    with launch(Executor(layout.root)) as ranks:
        incarnation = on_master(ranks, lambda: _begin(layout, make, ranks))
        context, plan = load_run(layout)
        result = RunResult()
        ledger = Ledger.read(layout, plan, context.config)
        result.n_resumed = len(ledger.finished)
        with RecordWriter(layout.record_file(incarnation, ranks.world.rank)) as writer:
            for phase in plan.phases:
                _run_phase(ranks, phase, plan, context, ledger, writer, result, quiet=quiet)
                if result.interrupted:
                    return result
        _finish(ranks, layout, plan, context, result)
        return result


def on_master(ranks: Ranks, function: Callable[[], int]) -> int:
    """Call `function` on rank 0 and give its number to all; its error ends all ranks alike.

    Raises
    ------
    MpipipeError
        The error itself on rank 0, an empty one on the others.
    """
    error: MpipipeError | None = None
    value = -1
    if ranks.world.rank == 0:
        try:
            value = function()
        except MpipipeError as caught:
            error = caught
    answer = ranks.world.broadcast(b"" if error is not None else str(value).encode())
    if error is not None:
        raise error
    if not answer:
        raise FailedOnMaster
    return int(answer)


class FailedOnMaster(MpipipeError):
    """Rank 0 has failed and says why; the other ranks end with it, silently."""

    def __init__(self) -> None:
        super().__init__("rank 0 has ended the run")


def _begin(layout: RunLayout, make: Callable[[], Plan] | None, ranks: Ranks) -> int:
    """Rank 0: plan and provenance are in the run folder; the number of this incarnation."""
    if make is not None:
        make()
    elif not layout.plan.exists():
        raise ConfigError(
            "holds no run", file=layout.root, way_out="start one with: mpipipe run RAW -o RUN"
        )
    layout.completion.unlink(missing_ok=True)
    incarnation = max(layout.incarnations(), default=0) + 1
    layout.record_file(incarnation, 0).parent.mkdir(parents=True)
    facts: dict[str, Any] = {
        "incarnation": incarnation,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "ranks": ranks.world.size,
        "hosts": sorted({peer.host for peer in ranks.world.peers}),
        "user": os.environ.get("USER", ""),
        "machine": platform.platform(),
        "mpipipe": __version__,
        "versions": RunContext.versions(),
    }
    write_json_atomically(layout.provenance(incarnation), facts)
    return incarnation


def _run_phase(
    ranks: Ranks,
    phase: str,
    plan: Plan,
    context: RunContext,
    ledger: Ledger,
    writer: RecordWriter,
    result: RunResult,
    *,
    quiet: bool,
) -> None:
    tasks = [task for task in plan.tasks if task.phase == phase]
    open_tasks = [task for task in tasks if task.id not in ledger.finished]

    def commit(done: TaskResult) -> None:
        writer.append(done)

    specs = [_spec(task, context) for task in open_tasks]
    label = PHASES[phase].title
    progress = None if quiet else Progress(label)
    attempts = context.config.scheduling.attempts
    policy = Policy(
        attempts={
            OutcomeKind.FAILED: min(2, attempts),
            OutcomeKind.TIMED_OUT: min(2, attempts),
            OutcomeKind.LOST: attempts,
        }
    )
    report = ranks.run_phase(phase, specs, commit, progress, policy=policy)
    counts = {kind.label: n for kind, n in report.counts.items()}
    for task in tasks:
        if task.id in ledger.finished:
            earlier = ledger.finished[task.id].label
            counts[earlier] = counts.get(earlier, 0) + 1
    result.outcomes[phase] = counts
    result.interrupted = report.interrupted


def _spec(task: Task, context: RunContext) -> TaskSpec:
    numbers = {detector.name: detector.number for detector in context.camera.detectors}
    return TaskSpec(
        task.id,
        cost=task.cost_s,
        affinity=numbers.get(task.ccd, 0),
        deadline_s=context.config.scheduling.deadline,
    )


def _finish(
    ranks: Ranks, layout: RunLayout, plan: Plan, context: RunContext, result: RunResult
) -> None:
    """Publish every table from the records, then write the completion record."""
    ledger = Ledger.read(layout, plan, context.config)
    tables = sorted({name for phase in plan.phases for name in PHASES[phase].tables})
    for name in tables:
        publish_catalogue(
            ranks.world,
            layout.catalogue(name),
            PHASES.schema(name),
            _rows_of(ledger, name, plan, ranks.world.rank, ranks.world.size),
        )
    on_master(ranks, lambda: _complete(layout, ledger, tables, result))


def _rows_of(
    ledger: Ledger, table: str, plan: Plan, rank: int, size: int
) -> Iterable[tuple[int, np.ndarray]]:
    """(task id, rows) of this rank's share of the tasks that have rows in `table`."""
    raise NotImplementedError


def _complete(layout: RunLayout, ledger: Ledger, tables: list[str], result: RunResult) -> int:
    products: list[Product] = []
    for task_id in sorted(ledger.finished):
        rows = decode_tables(ledger.payload(task_id))
        products += products_of(rows["products"])
    for name in tables:
        relative = layout.relative(layout.catalogue(name))
        products.append(product_of_file("catalogue", layout, relative))
    write_completion(layout, products, result.outcomes)
    return len(products)


__all__ = ["FailedOnMaster", "Path", "RunResult", "drive", "on_master"]
