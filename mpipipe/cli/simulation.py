"""The tasks of a simulation on all ranks, by the same scheduler that runs the pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.parallel.progress import make_progress
from mpipipe.parallel.tasks import TaskReport, TaskResult, TaskSpec
from mpipipe.parallel.together import on_master, together
from mpipipe.sim.survey import Survey
from mpipipe.sim.tasks import SimFolder, SimTask, make_tasks, prepare, remove_torn, run_task

PHASE = "simulate"


@dataclass(frozen=True)
class SimulationResult:
    """How it ended: whether this is rank 0, was interrupted, and how many tasks failed."""

    is_master: bool
    interrupted: bool
    n_failed: int


class _Runner:
    """Runs one task by its number, in the task process."""

    def __init__(self, survey: Survey, folder: SimFolder, tasks: list[SimTask]) -> None:
        self.survey, self.folder, self.tasks = survey, folder, tasks

    def __call__(self, phase: str, task_id: int, attempt: int) -> TaskReport:
        """Run one attempt; what is done already is no work."""
        worked = run_task(self.survey, self.tasks[task_id], self.folder)
        return TaskReport(Outcome(OutcomeKind.DONE if worked else OutcomeKind.NO_WORK))


def simulate_on_ranks(survey: Survey, folder: SimFolder, *, quiet: bool) -> SimulationResult:
    """Simulate a survey. Collective: every rank of the launcher calls it alike.

    Raises
    ------
    MpipipeError
        If the options make no sense or the folder holds something else.
    """
    tasks = make_tasks(survey)

    def begin() -> int:
        prepare(survey, folder)
        return 0

    with together(_Runner(survey, folder, tasks)) as ranks:
        on_master(ranks.world, begin)
        specs = [
            TaskSpec(number, task.cost, affinity=crc32(task.ccd.encode()))
            for number, task in enumerate(tasks)
        ]
        progress = None if quiet else make_progress(lambda number: tasks[number].key)
        report = ranks.run_phase(PHASE, specs, _nothing_to_commit, progress)
        if ranks.world.is_master:
            remove_torn(folder)
        n_failed = (
            len(tasks)
            - report.n_left
            - sum(number for kind, number in report.counts.items() if kind.is_success)
        )
        return SimulationResult(ranks.world.is_master, report.interrupted, n_failed)


def _nothing_to_commit(result: TaskResult) -> None:
    """A simulation's tasks mark themselves as done beside their files."""
