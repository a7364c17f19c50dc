"""Running one task: whatever happens in it becomes an outcome.

This is the function that the task process calls. It loads the run's plan and configuration from
the run folder at first use, so that nothing but a phase and a number has to travel.
"""

from __future__ import annotations

import resource
import traceback
from collections.abc import Callable

from mpipipe.data.errors import BadDataError, NoWorkError, OutputError
from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.parallel.taskprocess import note_stage
from mpipipe.parallel.tasks import TaskReport
from mpipipe.run.context import RunContext, TaskResultTables
from mpipipe.run.handover import Handover
from mpipipe.run.phases import PHASES
from mpipipe.run.plan import Plan, load_run
from mpipipe.run.sky_plan import SKY_PHASES, read_sky_plan
from mpipipe.run.task import Task
from mpipipe.store.columns import encode_columns
from mpipipe.store.layout import RunLayout
from mpipipe.trace import log

_NO_MEMORY = "out of memory"

TaskFunction = Callable[[Task, RunContext], TaskResultTables]


class TaskRunner:
    """Runs tasks of one run by phase and id.

    Parameters
    ----------
    layout
        The run folder.
    """

    def __init__(self, layout: RunLayout) -> None:
        self.layout = layout
        self._loaded: tuple[RunContext, Plan] | None = None
        self._handover = Handover.empty()
        self._sky_plan: Plan | None = None

    def _load(self) -> tuple[RunContext, Plan]:
        if self._loaded is None:
            context, plan = load_run(self.layout, check=False)
            context.on_stage = note_stage
            _limit_memory(context.config.scheduling.memory_limit)
            self._loaded = context, plan
        return self._loaded

    def prepare(self, phase: str, context: bytes) -> None:
        """Take up what earlier phases have left undone, and what earlier incarnations made."""
        self._handover = Handover.decode(context)
        self._sky_plan = None
        if phase in SKY_PHASES:
            self._sky_plan = read_sky_plan(self.layout).plan("")

    def _waits_for(self, task: Task, plan: Plan) -> Task | None:
        """A task of an earlier phase whose product this one may need, and which has failed."""
        for number in self._handover.undone.tolist():
            other = plan.tasks[number]
            same_ccd = "" in (other.ccd, task.ccd) or other.ccd == task.ccd
            if same_ccd and ("" in (other.band, task.band) or other.band == task.band):
                return other
        return None

    def __call__(self, phase: str, task_id: int, attempt: int) -> TaskReport:
        """Run one attempt at one task.

        Returns
        -------
        TaskReport
            The outcome, and the tables of the task as encoded columns.
        """
        context, plan = self._load()
        plan = self._sky_plan or plan
        task = plan.tasks[task_id]
        context.times.clear()
        with log.labels(task.visit if task.visit >= 0 else "-", task.ccd):
            context.enter("start")
            # If that is what made the first attempt fail, the next one does without.
            context.earlier = self._handover.earlier(task_id) if attempt == 1 else None
            context.handover = self._handover
            if (other := self._waits_for(task, plan)) is None:
                result = guarded(PHASES[phase].function, task, context)
            else:
                # Without it the product would look whole, and be another one than with it.
                reason = f"{other.label} has failed, and may be needed; --resume tries both again"
                result = TaskResultTables(outcome=Outcome(OutcomeKind.FAILED, reason, "masters"))
            _report(result.outcome, task)
        tables = result.all_tables() | {"stages": context.take_times()}
        return TaskReport(result.outcome, encode_columns(tables))


def _limit_memory(gigabytes: float) -> None:
    """Let this process ask for no more address space; 0 for no limit."""
    if gigabytes > 0:
        n_bytes = int(gigabytes * 1e9)
        resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))


def guarded(function: TaskFunction, task: Task, context: RunContext) -> TaskResultTables:
    """Call a task function; turn every exception into an outcome that names the stage."""
    try:
        return function(task, context)
    except NoWorkError as error:
        kind, reason, trace = OutcomeKind.NO_WORK, str(error), ""
    except BadDataError as error:
        kind, reason, trace = OutcomeKind.BAD_DATA, str(error), ""
    except OutputError as error:
        kind, reason, trace = OutcomeKind.FAILED, str(error), ""
    except MemoryError:
        kind, reason, trace = OutcomeKind.FAILED, _NO_MEMORY, traceback.format_exc()
    except Exception as error:
        kind, reason = OutcomeKind.FAILED, f"{type(error).__name__}: {error}"
        trace = traceback.format_exc()
    starved = reason == _NO_MEMORY
    outcome = Outcome(kind, reason, context.stage, trace, task.problems, starved)
    return TaskResultTables(outcome=outcome)


def _report(outcome: Outcome, task: Task) -> None:
    """Say in the log how the task ended; what is odd stands on a line of its own."""
    logger = log.get_logger(__name__)
    for warning in outcome.warnings:
        logger.warning("%s", warning)
    if outcome.kind.is_success or outcome.kind is OutcomeKind.PARTIAL:
        logger.info("%s: %s", task.label, outcome.kind.label)
    else:
        stage = f" in {outcome.stage}" if outcome.stage else ""
        logger.warning("%s: %s%s: %s", task.label, outcome.kind.label, stage, outcome.reason)
    if outcome.traceback:
        logger.warning("%s", outcome.traceback)
