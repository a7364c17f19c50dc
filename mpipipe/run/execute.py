"""Running one task: whatever happens in it becomes an outcome.

This is the function that the task process calls. It loads the run's plan and configuration from
the run folder at first use, so that nothing but a phase and a number has to travel.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

from mpipipe.data.errors import BadDataError, NoWorkError, OutputError
from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.parallel.tasks import TaskReport
from mpipipe.run.context import RunContext, TaskResultTables
from mpipipe.store.layout import RunLayout

TaskFunction = Callable[..., TaskResultTables]


class Executor:
    """Runs tasks of one run by phase and id.

    Parameters
    ----------
    root
        The run folder.
    """

    def __init__(self, root: Path) -> None:
        self.layout = RunLayout.at(root)
        self._loaded: tuple[RunContext, dict[int, object]] | None = None

    def _load(self) -> tuple[RunContext, dict[int, object]]:
        if self._loaded is None:
            from mpipipe.run.plan import load_run

            context, plan = load_run(self.layout)
            self._loaded = context, {task.id: task for task in plan.tasks}
        return self._loaded

    def __call__(self, phase: str, task_id: int, attempt: int) -> TaskReport:
        """Run one attempt at one task.

        Returns
        -------
        TaskReport
            The outcome, and the tables of the task as encoded columns.
        """
        from mpipipe.run.phases import PHASES
        from mpipipe.store.columns import encode_tables

        context, tasks = self._load()
        context.times.clear()
        context.stage = "start"
        result = guarded(PHASES[phase].function, tasks[task_id], context)
        tables = result.tables | {"products": result.products, "stages": context.take_times()}
        return TaskReport(result.outcome, encode_tables(tables))


def guarded(function: TaskFunction, task: object, context: RunContext) -> TaskResultTables:
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
        kind, reason, trace = OutcomeKind.FAILED, "out of memory", traceback.format_exc()
    except Exception as error:
        kind, reason = OutcomeKind.FAILED, f"{type(error).__name__}: {error}"
        trace = traceback.format_exc()
    return TaskResultTables(outcome=Outcome(kind, reason, context.stage, trace))
