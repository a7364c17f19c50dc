"""A whole run, told on one page.

Every rank executes `drive`. Rank 0 makes the plan (or takes up the one that is there) and writes
it into the run folder; each phase hands its tasks to the ranks; what a task gives back is
committed to the checkpoint before the master hears of it. The sources of all visits are then
brought together by the cells of the sky (`run.association`). When all phases are through, the
tables are published from the records in the order of tasks, so that they do not depend on who ran
what, and the completion record is written last.

Where MPI can survive it, any rank may die at any moment: everything here that all ranks do
together is a step (`parallel.survival`), which the survivors do again, maybe with another rank 0.

Bottlenecks: the plan is made by one process from the header index; publishing reads every record
once; products are hashed by the tasks that write them.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mpipipe.data.errors import BadDataError, MpipipeError, OutputError
from mpipipe.data.outcome import OutcomeKind
from mpipipe.parallel.clocks import behind_master
from mpipipe.parallel.launch import Ranks
from mpipipe.parallel.launcher import is_first
from mpipipe.parallel.together import on_master, together
from mpipipe.parallel.world import World
from mpipipe.run import lease
from mpipipe.run.association import (
    associate_sources,
    makes_objects,
    remove_rows,
    sky_ledger,
)
from mpipipe.run.basis import note_code
from mpipipe.run.checkpoint import begin_checkpoint, open_checkpoint
from mpipipe.run.completion import (
    Product,
    product_of_file,
    products_of,
    read_completion,
    verify_run,
    write_completion,
)
from mpipipe.run.context import RunContext
from mpipipe.run.costs import save_costs
from mpipipe.run.execute import TaskRunner
from mpipipe.run.halt import HaltWatch, beat, end_beat, refuse_superseded
from mpipipe.run.handover import Handover
from mpipipe.run.incarnation import write_incarnation
from mpipipe.run.inspection import has_other_inputs
from mpipipe.run.ledger import (
    FINAL,
    NO_OUTCOME,
    Committed,
    Ledger,
    are_final,
    write_outcomes,
)
from mpipipe.run.measure import costs_of_run
from mpipipe.run.own_files import claim_tables, refuse_others_tables, remove_former_tables
from mpipipe.run.phase_work import PhaseWork, counts_of, left_over
from mpipipe.run.plan import Plan, load_plan, load_run, require_run
from mpipipe.run.publish import publish_exposures, publish_sky_tables, publish_tables
from mpipipe.run.removed import forget_restored
from mpipipe.run.resume import Resume, adopt_options, has_stale, lines_of, survey, with_options
from mpipipe.run.sky_plan import SEAMS
from mpipipe.run.traces import gather_events
from mpipipe.run.validity import Validity
from mpipipe.store.checkpoint.writer import CheckpointWriter
from mpipipe.store.checksums import asides_in
from mpipipe.store.code_state import CodeState, code_state
from mpipipe.store.columns import decode_columns, encode_columns
from mpipipe.store.layout import RunLayout
from mpipipe.trace import events, log

Make = Callable[[], Callable[[], None]]


@dataclass
class RunResult:
    """How a run ended.

    Attributes
    ----------
    is_master
        Whether this is rank 0, which reports.
    outcomes
        Phase to number of tasks by label of outcome.
    interrupted
        Whether it was asked to stop; what is committed stays, `resume` goes on.
    n_resumed
        Tasks whose committed results of earlier incarnations were taken over.
    n_products
        Files listed in the completion record.
    was_done
        Whether the run was complete before, and verified: nothing was done.
    n_lost
        Ranks that died on the way.
    left_badly
        Whether MPI could not be left in order: the process must leave by `os._exit`.
    """

    is_master: bool = True
    outcomes: dict[str, dict[str, int]] = field(default_factory=dict)
    interrupted: bool = False
    n_resumed: int = 0
    n_products: int = 0
    was_done: bool = False
    n_lost: int = 0
    left_badly: bool = False

    @property
    def has_failures(self) -> bool:
        """Whether any task ended in a way that needs a person's attention."""
        fine = {kind.label for kind in OutcomeKind if kind.is_success}
        return any(set(counts) - fine for counts in self.outcomes.values())


def drive(
    layout: RunLayout,
    make: Make | None,
    asked: Resume | None = None,
    *,
    quiet: bool = False,
    n_workers: int = 1,
) -> RunResult:
    """Run all phases of a plan. Collective: every rank of the launcher calls it alike.

    Parameters
    ----------
    layout
        The run folder.
    make
        Prepares a run and gives the function that saves it, called on rank 0 only; None resumes
        the run that is there.
    asked
        What the user asks of a resumed run.
    quiet
        Show no progress.
    n_workers
        Task processes of a rank; more than one only without MPI.

    Raises
    ------
    MpipipeError
        If the run can not start or end: on rank 0 with the reason, on the others as
        `FailedOnMasterError`.
    """
    result = RunResult()
    runner = TaskRunner(layout)
    note_code()  # before there are other processes: all of them go by the code that they run
    code = code_state() if is_first(os.environ) else None
    with together(runner, runner.prepare, n_workers) as ranks:
        world = ranks.world
        _warn_of_losses(world, quiet=quiet)
        try:
            _drive(ranks, layout, make, asked or Resume(), result, code, quiet=quiet)
        finally:
            result.is_master, result.n_lost = world.is_master, world.n_lost
            if world.is_master and lease.is_held_by(layout, world.id):
                end_beat(layout)
                lease.release(layout, world.id)
    result.left_badly = world.left_badly
    return result


def _warn_of_losses(world: World, *, quiet: bool) -> None:
    """Say so where the loss of a rank ends the run."""
    if world.size > 1 and world.is_master and not world.can_survive and not quiet:
        text = (
            "mpipipe: this MPI can not survive the loss of a rank (Open MPI 5 can: mpirun "
            "--with-ft ulfm --mca async_mpi_finalize 1); after one, go on with --resume"
        )
        print(text, file=sys.stderr, flush=True)


def _drive(
    ranks: Ranks,
    layout: RunLayout,
    make: Make | None,
    asked: Resume,
    result: RunResult,
    code: CodeState | None,
    *,
    quiet: bool,
) -> None:
    if make is None and on_master(ranks.world, lambda: _is_done(layout, asked)):
        _tell_of_done(layout, result)
        return
    incarnation = on_master(ranks.world, lambda: _begin(layout, make, asked, ranks, code))
    rank = ranks.world.original_rank
    path = str(log.log_path(layout.logs, rank))
    log.start(
        log.LogConfig(path, f"{layout.root.name}/{incarnation}", rank, terminal_level="ERROR")
    )
    events.start(layout.trace_of(incarnation), rank)
    events.note_clock(behind_master(ranks.world))
    context, plan = load_run(layout)
    ranks.world.limit_silence(context.config.scheduling.silence)
    committed = Committed(layout, incarnation, plan.phases)
    finished, earlier_images = _take_over(ranks.world, layout, plan, context, asked, quiet=quiet)
    result.n_resumed = int(np.count_nonzero(finished != NO_OUTCOME))
    ended = np.full(len(plan.tasks), NO_OUTCOME, dtype=np.int8)
    size = ranks.world.size + ranks.world.n_lost
    with open_checkpoint(
        layout, context.config.checkpoint, len(plan.tasks), incarnation, rank, size
    ) as writer:
        halt = HaltWatch(layout, incarnation, lambda: ranks.world.is_master)
        ranks.stop.poll = _looking(halt, writer)
        work = PhaseWork(ranks, writer, context, quiet)
        for phase in plan.phases:
            tasks = plan.in_phase(phase)
            earlier = finished[tasks.start : tasks.stop]
            undone = np.flatnonzero(~are_final(np.maximum(ended, finished)[: tasks.start]))
            handover = replace(earlier_images, undone=undone)
            report = work.run(phase, plan, earlier, committed, handover)
            ended[left_over(plan, phase, earlier)] = report.kinds
            result.outcomes[phase] = counts_of(np.concatenate([report.kinds, earlier]))
            result.interrupted = report.interrupted
            if result.interrupted:
                break
        association = None
        if not result.interrupted and makes_objects(plan, context):
            association = associate_sources(work, layout, plan, incarnation)
            result.outcomes |= association.outcomes
            result.interrupted = association.interrupted
        if result.interrupted:
            on_master(ranks.world, lambda: refuse_superseded(layout, incarnation))
            return
    ledger = Ledger.read(layout, plan, Validity.judge(layout, plan, context.basis))
    ledgers = [ledger]
    world = ranks.world
    on_master(world, lambda: _refuse_lost(layout, ended, ledger))
    names = world.step(lambda: publish_tables(world, layout, ledger, plan, context.basis))
    files: list[Path] = []
    if layout.is_flat:
        files = world.step(lambda: publish_exposures(world, layout, ledger, plan, context.basis))
    if association is not None:
        sky, of_sky = association.sky, sky_ledger(layout, association, context)
        ledgers.append(of_sky)
        on_master(world, lambda: _refuse_lost(layout, association.kinds, of_sky))
        basis = context.basis
        names += world.step(lambda: publish_sky_tables(world, layout, of_sky, sky, basis))

    events.flush()

    def complete() -> int:
        refuse_superseded(layout, incarnation)
        if world.n_lost or incarnation > 1:
            _remove_torn(layout)
        remove_rows(layout)
        forget_restored(layout)
        tables = [*files, *map(layout.catalogue, names)]
        remove_former_tables(layout, names)
        n_products = _complete(layout, ledgers, tables, result)
        with contextlib.suppress(MpipipeError, OSError):  # statistics must not end a run
            gather_events(layout, incarnation)
        return n_products

    # A rank leaves only after the agreement that ends this: the record is there by then.
    result.n_products = on_master(world, complete, "final")


# -- the master's part ----------------------------------------------------------------------------


def _begin(
    layout: RunLayout, make: Make | None, asked: Resume, ranks: Ranks, code: CodeState | None
) -> int:
    """Plan and provenance into the run folder; the number of this incarnation."""
    if make is not None:
        _make_once(layout, make, ranks.world)
    else:
        require_run(layout)
        _take_lease(layout, ranks.world)
    if layout.is_flat:
        context, plan = load_run(layout)
        refuse_others_tables(layout, plan)
        wanted = makes_objects(plan, with_options(context, asked))
        claim_tables(layout, makes_objects=wanted)
    if make is None:
        adopt_options(layout, asked)
    layout.completion.unlink(missing_ok=True)
    incarnation = max(layout.incarnations(), default=0) + 1
    layout.record_folder(incarnation).mkdir(parents=True)
    context, plan = load_run(layout)
    hosts = [peer.host for peer in ranks.world.peers]
    write_incarnation(layout, incarnation, hosts, context.basis, code)
    n_tasks, n_ranks = len(plan.tasks), ranks.world.size
    begin_checkpoint(layout, context.config.checkpoint, n_tasks, incarnation, n_ranks)
    beat(layout)
    return incarnation


def _make_once(layout: RunLayout, make: Make, world: World) -> None:
    """Make the plan, unless a rank 0 of these same ranks has made it and died."""
    if layout.plan.exists() and lease.is_held_by(layout, world.id):
        return
    save = make()
    layout.create()
    _take_lease(layout, world)
    save()


def _take_lease(layout: RunLayout, world: World) -> None:
    """See to it that nobody else works on the run."""
    peers = world.peers if world.size > 1 else (lease.myself(),)
    lease.take(layout, world.id, peers, lambda text: print(text, file=sys.stderr, flush=True))
    beat(layout)


def _remove_torn(layout: RunLayout) -> None:
    """Remove what processes that died were writing; nobody writes any more."""
    found = asides_in(layout.books, below=True)
    if layout.is_flat:
        found += asides_in(layout.root, below=False)
    for path in (*found, *layout.records.glob("*/*.part")):
        path.unlink(missing_ok=True)


def _take_over(
    world: World,
    layout: RunLayout,
    plan: Plan,
    context: RunContext,
    asked: Resume,
    *,
    quiet: bool,
) -> tuple[np.ndarray, Handover]:
    """What earlier incarnations have done: outcomes that stay, attempts whose image holds.

    Rank 0 looks, and tells the others. Collective.
    """

    def look() -> bytes:
        found = survey(layout, plan, context, asked)
        if not quiet:
            for line in lines_of(found) if len(layout.incarnations()) > 1 else ():
                print(line, file=sys.stderr, flush=True)
        handover = np.frombuffer(found.handover.encode(), dtype=np.uint8)
        return encode_columns({"kinds": found.kinds, "handover": handover})

    raw = world.step(lambda: world.broadcast(look() if world.is_master else None))
    arrays = decode_columns(raw)[0]
    return arrays["kinds"], Handover.decode(arrays["handover"].tobytes())


def _is_done(layout: RunLayout, asked: Resume) -> int:
    """1 if the run is complete, verifies, and has nothing that another attempt could mend."""
    if not layout.completion.exists():
        return 0
    if asked.may_change:
        context, plan = load_run(layout)
        if has_stale(layout, plan, with_options(context, asked).basis):
            return 0
    try:
        if layout.is_flat and has_other_inputs(Ledger.read(layout, load_plan(layout))):
            return 0
        verdict = verify_run(layout)
    except BadDataError:
        return 0
    if asked.may_change:
        refuse_others_tables(layout, plan)
        wanted = makes_objects(plan, with_options(context, asked))
        if wanted != (SEAMS in verdict.outcomes):
            return 0
    final = {kind.label for kind in FINAL}
    ended = all(set(counts) <= final for counts in verdict.outcomes.values())
    return int(verdict.is_verified and ended)


def _tell_of_done(layout: RunLayout, result: RunResult) -> None:
    content = read_completion(layout)
    result.was_done = True
    result.outcomes, result.n_products = content.outcomes, len(content.products)


def _looking(halt: HaltWatch, writer: CheckpointWriter) -> Callable[[], int]:
    """What each round of a phase's loop calls."""

    def look() -> int:
        writer.sync_if_due()
        return halt()

    return look


def _refuse_lost(layout: RunLayout, ended: np.ndarray, ledger: Ledger) -> int:
    """See to it that what ended well is on disk: a node that died may have taken it along.

    Raises
    ------
    OutputError
        If it is not.
    """
    n_lost = int(np.count_nonzero(are_final(ended) & ~ledger.is_final))
    if n_lost:
        raise OutputError(
            f"records of {n_lost} tasks were lost, with a node or by the disk",
            file=layout.records,
            way_out=f"go on with: mpipipe run --resume {layout.root}",
        )
    return 0


def _complete(
    layout: RunLayout, ledgers: list[Ledger], tables: list[Path], result: RunResult
) -> int:
    """The list of outcomes, then, last of all, the completion record; the number of products."""
    products: list[Product] = []
    ledger = ledgers[0]
    for task_id in ledger.task_ids():
        if (rows := ledger.tables(task_id).get("products")) is not None:
            products += products_of(rows)
    for path in tables:
        products.append(product_of_file("catalogue", layout, layout.relative(path)))
    write_outcomes(layout, ledgers)
    save_costs(layout.costs, costs_of_run(ledger, ledger.plan, load_run(layout)[0].camera))
    write_completion(layout, products, result.outcomes)
    return len(products)
