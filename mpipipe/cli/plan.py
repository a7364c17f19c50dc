"""`mpipipe plan`: what run would do, without MPI and without touching pixels."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from mpipipe.cli.options import (
    CalibsOption,
    CameraOption,
    ConfigOption,
    JsonOption,
    RawArgument,
    SetOption,
)

if TYPE_CHECKING:
    from mpipipe.data.inventory import Inventory
    from mpipipe.run.plan import Plan


def plan(
    raw: RawArgument,
    camera: CameraOption = None,
    calibs: CalibsOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    ranks: Annotated[int, typer.Option(help="Ranks to predict the time for.", min=1)] = 1,
    list_tasks: Annotated[bool, typer.Option("--tasks", help="List every task.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what `run` would do with RAW: visits, CCDs, masters, and what is missing or double.

    \b
    Examples:
      mpipipe plan RAW
      mpipipe plan RAW --camera arcsat --tasks
    """
    from pathlib import Path

    from mpipipe.run.prepare import Request, prepare
    from mpipipe.store.layout import RunLayout

    request = Request(raw or Path(), camera, calibs, config, tuple(assignments or ()))
    made, _, inventory = prepare(request, RunLayout.at("RUN"))
    if as_json:
        typer.echo(json.dumps(_facts(made, inventory, ranks)))
        return
    _print(made, inventory, ranks, list_tasks)


def _seconds(made: Plan, ranks: int) -> float:
    """Predicted wall seconds: phases follow each other, a phase ends with its longest task."""
    total = 0.0
    for phase in made.phases:
        costs = [task.cost_s for task in made.in_phase(phase)]
        total += max(sum(costs) / ranks, max(costs))
    return total


def _facts(made: Plan, inventory: Inventory, ranks: int) -> dict[str, object]:
    return {
        "camera": inventory.camera.name,
        "files": inventory.n_files,
        "phases": {phase: len(made.in_phase(phase)) for phase in made.phases},
        "tasks": [
            {"id": task.id, "phase": task.phase, "label": task.label, "cost_s": task.cost_s}
            for task in made.tasks
        ],
        "problems": list(made.problems),
        "seconds": round(_seconds(made, ranks), 1),
    }


def _print(made: Plan, inventory: Inventory, ranks: int, list_tasks: bool) -> None:
    from mpipipe.run.phases import PHASES

    visits = Counter(
        visit.band for visit in {(v.visit, v.band): v for v in inventory.science}.values()
    )
    bands = ", ".join(f"{number} {band}" for band, number in sorted(visits.items()))
    known = f", {inventory.n_cached} known from the index" if inventory.n_cached else ""
    typer.echo(f"camera {inventory.camera.name}: {inventory.n_files} files{known}")
    typer.echo(f"visits: {bands or 'none'}")
    for phase in made.phases:
        tasks = made.in_phase(phase)
        cost = sum(task.cost_s for task in tasks)
        typer.echo(f"  {phase:10} {len(tasks):6} tasks {cost:9.1f} s  {PHASES[phase].title}")
        if list_tasks:
            for task in tasks:
                typer.echo(f"    {task.id:6} {task.cost_s:7.2f} s  {task.label}")
    typer.echo(
        f"about {_seconds(made, ranks):.0f} s on {ranks} {'rank' if ranks == 1 else 'ranks'}"
    )
    if made.problems:
        typer.echo(f"{len(made.problems)} problems:")
        for problem in made.problems:
            typer.echo(f"  {problem}")
