"""The phases of the association, behind those of the visits: gather, cells, seams.

Cells of which an earlier incarnation has a record are not done again if their sources are the
same, byte by byte; nor are sources gathered again while the files of all cells are there.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field

import numpy as np

from mpipipe.data.errors import BadDataError, MpipipeError
from mpipipe.data.outcome import OutcomeKind
from mpipipe.parallel.together import fail_together, on_master
from mpipipe.run.context import RunContext
from mpipipe.run.gathering import Gathering, halo_for, sources_digest
from mpipipe.run.halt import refuse_superseded
from mpipipe.run.handover import Handover
from mpipipe.run.ledger import NO_OUTCOME, Committed, Ledger, are_final
from mpipipe.run.phase_work import PhaseWork, counts_of, left_over
from mpipipe.run.plan import Plan
from mpipipe.run.sky_plan import (
    ASSOCIATE,
    SEAMS,
    SKY_PHASES,
    SkyPlan,
    read_sky_plan,
    write_sky_plan,
)
from mpipipe.run.validity import Validity
from mpipipe.store.layout import RunLayout
from mpipipe.trace import log


@dataclass(eq=False)
class Association:
    """How the association of a run went.

    Attributes
    ----------
    sky
        Its cells.
    plan
        Its tasks.
    kinds
        int8, the outcome of each.
    since
        The first incarnation whose record of each counts: what was done again, and has failed,
        has none.
    outcomes
        Phase to number of tasks by label of outcome.
    interrupted
        Whether it was asked to stop before all were done.
    """

    sky: SkyPlan
    plan: Plan
    kinds: np.ndarray
    since: np.ndarray
    outcomes: dict[str, dict[str, int]] = field(default_factory=dict)
    interrupted: bool = False


def associate_sources(
    work: PhaseWork, layout: RunLayout, plan: Plan, incarnation: int
) -> Association:
    """Associate the sources of all visits that are done. Collective.

    Parameters
    ----------
    plan
        Of the visits.

    Raises
    ------
    MpipipeError
        On every rank, if the sources can not be gathered.
    """
    world, context = work.ranks.world, work.context
    world.agree(True)  # every rank has written what it had to
    sky = _gathered(work, layout, plan, incarnation)
    sky_plan = sky.plan(plan.raw)
    validity = Validity.judge(layout, sky_plan, context.basis)
    finished = world.step(
        lambda: np.frombuffer(
            world.broadcast(
                _taken_over(layout, sky, sky_plan, validity).tobytes() if world.is_master else None
            ),
            dtype=np.int8,
        )
    )
    since = np.where(finished == NO_OUTCOME, incarnation, 0)
    done = Association(sky, sky_plan, finished.copy(), since)
    committed = Committed(layout, incarnation, SKY_PHASES)
    for phase in sky_plan.phases:
        tasks = sky_plan.in_phase(phase)
        handover = Handover.empty()
        if phase == SEAMS:
            handover = _handed_on(layout, validity, done)
        earlier = done.kinds[tasks.start : tasks.stop]
        left = left_over(sky_plan, phase, earlier)
        report = work.run(phase, sky_plan, earlier, committed, handover)
        done.kinds[left] = report.kinds
        done.outcomes[phase] = counts_of(done.kinds[tasks.start : tasks.stop])
        world.agree(True)
        if report.interrupted:
            done.interrupted = True
            break
    return done


def makes_objects(plan: Plan, context: RunContext) -> bool:
    """Whether a run ends in objects."""
    return plan.goal != "calibs" and context.config.associate.enabled


def sky_ledger(layout: RunLayout, association: Association, context: RunContext) -> Ledger:
    """The records of the association's tasks."""
    plan = association.plan
    validity = Validity.judge(layout, plan, context.basis)
    return Ledger.read(layout, plan, validity, association.since)


def remove_rows(layout: RunLayout) -> None:
    """Remove the files of the cells, once what was made of them is published."""
    shutil.rmtree(layout.cell_rows("any").parent, ignore_errors=True)


# -- gathering ------------------------------------------------------------------------------------


def _gathered(work: PhaseWork, layout: RunLayout, plan: Plan, incarnation: int) -> SkyPlan:
    """The cells of the run's sources, whose files are there. Collective."""
    world, context, stop = work.ranks.world, work.context, work.ranks.stop
    ledger = Ledger.read(layout, plan, Validity.judge(layout, plan, context.basis))
    try:
        if not on_master(world, lambda: _is_gathered(layout, ledger, context)):
            # No plan while its files are not all there.
            on_master(world, lambda: _forget(layout, incarnation))
            gathering = Gathering(world, ledger, context, incarnation, lambda: stop.level)

            def gather() -> SkyPlan:
                try:
                    return gathering.run()
                except MpipipeError as error:
                    fail_together(error)

            made = world.step(gather)
            on_master(world, lambda: _keep(layout, incarnation, made))
            log.get_logger(__name__).info("the sources are gathered by sky cell")
        world.agree(True)
        return read_sky_plan(layout)
    finally:
        ledger.close()


def _forget(layout: RunLayout, incarnation: int) -> int:
    refuse_superseded(layout, incarnation)
    layout.cells.unlink(missing_ok=True)
    return 0


def _keep(layout: RunLayout, incarnation: int, made: SkyPlan) -> int:
    refuse_superseded(layout, incarnation)
    write_sky_plan(layout, made)
    return 0


def _is_gathered(layout: RunLayout, ledger: Ledger, context: RunContext) -> int:
    """1 if the files of all cells are there, and follow from these records and options."""
    try:
        sky = read_sky_plan(layout)
    except BadDataError:
        return 0
    if sky.halo_deg != halo_for(context, sky.fwhm, sky.years):
        return 0
    if sky.max_rows != context.config.associate.max_rows:
        return 0
    names = [sky.name(number) for number in range(sky.seams_task + 1)]
    if not all(layout.cell_rows(name).exists() for name in names):
        return 0
    return int(sky.sources == sources_digest(ledger))


# -- taking over ----------------------------------------------------------------------------------


def _taken_over(layout: RunLayout, sky: SkyPlan, plan: Plan, validity: Validity) -> np.ndarray:
    """int8: outcomes of earlier records that were made of the same sources."""
    ledger = Ledger.read(layout, plan, validity)
    kinds = np.full(len(plan.tasks), NO_OUTCOME, dtype=np.int8)
    for task_id in np.flatnonzero(ledger.is_final).tolist():
        if _has_input(ledger, task_id, sky.made_of(task_id)):
            kinds[task_id] = ledger.kinds[task_id]
    if not are_final(kinds[: sky.seams_task]).all():
        kinds[sky.seams_task] = NO_OUTCOME
    ledger.close()
    return kinds


def _has_input(ledger: Ledger, task_id: int, digest: bytes) -> bool:
    """Whether a record was made of the file with this checksum."""
    try:
        inputs = ledger.tables(task_id).get("inputs")
    except BadDataError:
        return False
    return inputs is not None and len(inputs) == 1 and inputs["sha256"][0] == digest


def _handed_on(layout: RunLayout, validity: Validity, association: Association) -> Handover:
    """Where the records of the cells are, for the task that goes on with them."""
    plan = association.plan
    ledger = Ledger.read(layout, plan, validity, association.since)
    tasks = plan.in_phase(ASSOCIATE)
    ids = np.arange(tasks.start, tasks.stop)
    done = ids[association.kinds[ids] == OutcomeKind.DONE]
    undone = np.setdiff1d(ids, done)
    handover = Handover(undone, done, *ledger.places(done), files=ledger.files)
    ledger.close()
    return handover
