"""One phase of a plan, as a run does it: limits, progress, commits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpipipe.data.outcome import OutcomeKind
from mpipipe.parallel.host import memory_bytes
from mpipipe.parallel.launch import Ranks
from mpipipe.parallel.progress import make_progress
from mpipipe.parallel.tasks import NO_AFFINITY, PhaseReport, Policy, SpecTable
from mpipipe.run.checkpoint import committing
from mpipipe.run.context import RunContext
from mpipipe.run.handover import Handover
from mpipipe.run.ledger import NO_OUTCOME, Committed
from mpipipe.run.plan import Plan
from mpipipe.run.task import TaskTable
from mpipipe.store.checkpoint.writer import CheckpointWriter
from mpipipe.trace import events

_MEMORY_SHARE = 0.95
"""Of a node's memory that its tasks may take: the rest is for the ranks' MPI processes."""


@dataclass(frozen=True)
class PhaseWork:
    """What the phases of a run have in common on this rank."""

    ranks: Ranks
    writer: CheckpointWriter
    context: RunContext
    quiet: bool

    def run(
        self,
        phase: str,
        plan: Plan,
        earlier: np.ndarray,
        committed: Committed,
        handover: Handover,
    ) -> PhaseReport:
        """Run the tasks of a phase that are left. Collective.

        Parameters
        ----------
        earlier
            int8, the outcomes of the phase's tasks that are taken over.
        committed
            What this incarnation has committed of this plan.

        Returns
        -------
        PhaseReport
            Of the tasks that were left.
        """

        report = self.ranks.run_phase(
            phase,
            specs_of(plan.in_phase(phase), earlier, self.context),
            committing(self.writer, phase),
            None if self.quiet else make_progress(plan.label, worker=self._worker),
            context=handover.encode(),
            policy=self._policy(),
            committed=committed,
        )
        with events.span("checkpoint", "sync"):
            self.writer.sync()
        return report

    @property
    def _worker(self) -> str:
        return "process" if self.ranks.world.comm is None else "rank"

    def _policy(self) -> Policy:
        scheduling = self.context.config.scheduling
        attempts = scheduling.attempts
        return Policy(
            attempts={
                OutcomeKind.FAILED: min(2, attempts),
                OutcomeKind.TIMED_OUT: min(2, attempts),
                OutcomeKind.LOST: attempts,
            },
            silence_s=scheduling.silence,
            node_memory=scheduling.node_memory * 1e9 or _MEMORY_SHARE * memory_bytes(),
        )


def specs_of(tasks: TaskTable, earlier: np.ndarray, context: RunContext) -> SpecTable:
    """The tasks that are left, for the scheduler; those of a CCD belong together."""
    left = np.flatnonzero(earlier == NO_OUTCOME)
    ccds = tasks.column("ccd")[left]
    known = {detector.name: detector.number for detector in context.camera.detectors}
    numbers = np.full(len(tasks.words), NO_AFFINITY, dtype=np.int64)
    for code in np.unique(ccds).tolist():
        numbers[code] = known.get(tasks.words[code], NO_AFFINITY)
    scheduling = context.config.scheduling
    return SpecTable(
        tasks.start + left,
        tasks.column("cost")[left],
        numbers[ccds],
        scheduling.deadline,
        tasks.column("memory")[left],
        np.isin(tasks.column("visit")[left], scheduling.first),
    )


def left_over(plan: Plan, phase: str, earlier: np.ndarray) -> np.ndarray:
    """Numbers of the tasks of a phase that are not taken over."""
    tasks = plan.in_phase(phase)
    found: np.ndarray = tasks.start + np.flatnonzero(earlier == NO_OUTCOME)
    return found


def counts_of(kinds: np.ndarray) -> dict[str, int]:
    """Number of tasks by label of outcome."""
    numbers = {kind: int(np.count_nonzero(kinds == kind)) for kind in OutcomeKind}
    return {kind.label: number for kind, number in numbers.items() if number}
