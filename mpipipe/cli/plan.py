"""`mpipipe plan`: what run would do, without MPI and without touching pixels."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpipipe.cli.options import (
    CalibsOption,
    CameraOption,
    ConfigOption,
    CostsOption,
    ForcedOption,
    JsonOption,
    RawArgument,
    RefcatOption,
    SetOption,
)

if TYPE_CHECKING:
    from mpipipe.run.plan import Plan
    from mpipipe.run.plancache import Found
    from mpipipe.run.predict import Prediction


def plan(
    raw: RawArgument,
    camera: CameraOption = None,
    calibs: CalibsOption = None,
    refcat: RefcatOption = None,
    forced: ForcedOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    costs: CostsOption = None,
    ranks: Annotated[int, typer.Option(help="Ranks to predict for.", min=1)] = 1,
    list_tasks: Annotated[bool, typer.Option("--tasks", help="List every task.")] = False,
    graph: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw phases and stages: FILE.svg or FILE.mmd."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what `run` would do with RAW: visits, CCDs, masters, and what is missing or double.

    For each phase: tasks, seconds of work, wall time and memory on so many ranks, bytes read and
    written. Expected costs are those of a machine like the developers'; --costs RUN takes those
    of an earlier run. Headers are read, but no pixel, and nothing is written but the picture.

    \b
    Examples:
      mpipipe plan RAW
      mpipipe plan RAW --camera arcsat --tasks
      mpipipe plan RAW --ranks 64 --costs EARLIER --graph chain.svg
    """
    from mpipipe.run.graph import write_graph
    from mpipipe.run.predict import predict
    from mpipipe.run.prepare import Request, prepare
    from mpipipe.store.layout import RunLayout

    request = Request(
        raw or Path(),
        camera,
        calibs,
        config,
        tuple(assignments or ()),
        costs=costs,
        refcat=refcat,
        forced=forced,
    )
    made, options, found = prepare(request, RunLayout.at("RUN"))
    prediction = predict(made, found.camera, ranks, request.cost_model())
    if graph is not None:
        off = [name for name, stage in options.stage_configs().items() if not stage.enabled]
        write_graph(graph, made.phases, off)
    if as_json:
        typer.echo(json.dumps(_facts(made, found, prediction)))
        return
    _print(made, found, prediction, list_tasks)


def _facts(made: Plan, found: Found, prediction: Prediction) -> dict[str, object]:
    return {
        "camera": found.camera.name,
        "files": found.n_files,
        "phases": {phase: len(made.in_phase(phase)) for phase in made.phases},
        "tasks": [
            {
                "id": task.id,
                "phase": task.phase,
                "label": task.label,
                "cost_s": task.cost_s,
                "memory_bytes": task.memory_bytes,
            }
            for task in made.tasks
        ],
        "problems": list(made.problems),
        "ranks": prediction.ranks,
        "seconds": round(prediction.wall_s, 1),
        "memory_bytes": prediction.memory_bytes,
        "read_bytes": prediction.read_bytes,
        "written_bytes": prediction.written_bytes,
        "prediction": [asdict(phase) for phase in prediction.phases],
    }


def _print(made: Plan, found: Found, prediction: Prediction, list_tasks: bool) -> None:
    from mpipipe.parallel.progress import format_seconds
    from mpipipe.run.phases import PHASES

    science = made.in_phase("calibrate")
    pairs = zip(science.column("visit").tolist(), science.column("band").tolist(), strict=True)
    visits = Counter(science.words[code] for _, code in set(pairs))
    bands = ", ".join(f"{number} {band}" for band, number in sorted(visits.items()))
    known = f", {found.n_cached} known from the index" if found.n_cached else ""
    typer.echo(f"camera {found.camera.name}: {found.n_files} files{known}")
    typer.echo(f"visits: {bands or 'none'}")
    for phase in prediction.phases:
        title = PHASES[phase.phase].title
        typer.echo(f"  {phase.phase:10} {phase.n_tasks:7} tasks {phase.work_s:9.1f} s  {title}")
        if list_tasks:
            for task in made.in_phase(phase.phase):
                memory = _bytes(task.memory_bytes)
                typer.echo(f"    {task.id:7} {task.cost_s:8.2f} s {memory:>8}  {task.label}")
    ranks = f"{prediction.ranks} {'rank' if prediction.ranks == 1 else 'ranks'}"
    typer.echo(
        f"on {ranks}: about {format_seconds(prediction.wall_s)}, "
        f"{_bytes(prediction.memory_bytes)} of memory in all; "
        f"reads {_bytes(prediction.read_bytes)}, writes {_bytes(prediction.written_bytes)}"
    )
    if made.problems:
        typer.echo(f"{len(made.problems)} problems:")
        for problem in made.problems:
            typer.echo(f"  {problem}")


def _bytes(number: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.4g} TB"
