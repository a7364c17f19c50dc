"""`run_phase`: all tasks of one kind, on all ranks."""

from __future__ import annotations

from collections.abc import Sequence

from mpipipe.parallel.executor import Executor
from mpipipe.parallel.progress import Progress
from mpipipe.parallel.tasks import Commit, PhaseReport, Policy, TaskSpec
from mpipipe.parallel.world import World


def run_phase(
    world: World,
    executor: Executor,
    phase: str,
    tasks: Sequence[TaskSpec],
    commit: Commit,
    progress: Progress | None = None,
    *,
    context: bytes = b"",
    policy: Policy | None = None,
) -> PhaseReport:
    """Run every task of a phase. Collective: every rank calls it with the same list.

    Parameters
    ----------
    commit
        Called in this rank's MPI process with every attempt that ran here, before the master
        hears of it.
    progress
        What rank 0 shows; None for nothing.
    context
        Handed to the task processes (`prepare`) before their first task of this phase.
    """
    raise NotImplementedError
