"""A whole simulation: prepare the folder, run the tasks by whatever runs tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mpipipe.sim.survey import Survey
from mpipipe.sim.tasks import SimFolder, SimTask, make_tasks, prepare, run_task

Execute = Callable[[SimTask], bool]
"""Does one task; says whether there was anything to do."""

RunAll = Callable[[Sequence[SimTask], Execute], None]
"""Runs all tasks by a function, in any order, in any number of processes."""


def run_in_order(tasks: Sequence[SimTask], execute: Execute) -> None:
    """Run the tasks one after the other in this process."""
    for task in tasks:
        execute(task)


def simulate_survey(
    survey: Survey, root: Path, truth: Path | None = None, run_all: RunAll = run_in_order
) -> SimFolder:
    """Simulate a survey, or go on where an earlier attempt stopped.

    Parameters
    ----------
    root
        Folder to fill: ``raw``, ``refcat``, ``simulation.toml``.
    truth
        Folder of the truth; by default ``root/truth``.
    run_all
        Runs the tasks; a parallel runner calls `prepare` on one process before, and there only.

    Raises
    ------
    ConfigError
        If the options make no sense or the folder holds something else.
    OutputError
        If something can not be written.
    """
    folder = SimFolder.at(root, truth)
    prepare(survey, folder)
    run_all(make_tasks(survey), lambda task: run_task(survey, task, folder))
    return folder
