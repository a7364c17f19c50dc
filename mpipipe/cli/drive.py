"""From the command line to a run and back: what `run` and `calibs` share."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mpipipe.cli.exits import Exit
from mpipipe.data.errors import ConfigError
from mpipipe.parallel.threads import limit_threads

if TYPE_CHECKING:
    from mpipipe.run.drive import Make, RunResult
    from mpipipe.run.personal import Errand
    from mpipipe.run.plan import Goal
    from mpipipe.run.resume import Resume
    from mpipipe.store.layout import RunLayout


_MOST_TOLD = 20
"""Exposures."""


def start(
    goal: Goal,
    raw: Path | None,
    output: Path | None,
    *,
    camera: str | None,
    calibs: Path | None,
    refcat: Path | None = None,
    forced: Path | None = None,
    config: Path | None,
    assignments: list[str] | None,
    costs: Path | None = None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Make a run and carry it out; leaves with the exit code that says how it went."""
    if raw is None or output is None:
        command = "run" if goal == "calibrate" else goal
        raise ConfigError(
            "needs a folder of raw frames and a folder to make",
            way_out=f"mpipipe {command} RAW -o OUT, or mpipipe {command} --resume OUT",
        )
    warn_of_threads()
    from mpipipe.run.prepare import Request, make_run
    from mpipipe.store.layout import RunLayout

    request = Request(
        raw, camera, calibs, config, tuple(assignments or ()), goal, costs, refcat, forced
    )
    layout = RunLayout.at(output)
    _carry_out(layout, lambda: make_run(request, layout), None, quiet=quiet, as_json=as_json)


def resume(
    folder: Path,
    *others: object,
    assignments: list[str] | None = None,
    refcat: Path | None = None,
    forced: Path | None = None,
    verify: str = "sampled",
    force: bool = False,
    dry_run: bool = False,
    quiet: bool,
    as_json: bool,
) -> None:
    """Go on with a run; `others` are options that only make sense for a new one."""
    if any(others):
        raise ConfigError(
            "--resume takes none of RAW, -o, --camera, --calibs, --config and --costs: "
            "the run folder knows them",
            way_out="--set changes an option, --refcat and --forced a catalogue; for anything else "
            "start a run in a new folder",
        )
    if verify not in ("sampled", "all"):
        raise ConfigError(f"is {verify!r}", key="--verify", way_out="write sampled or all")
    warn_of_threads()
    from mpipipe.run.resume import Resume, describe
    from mpipipe.store.layout import RunLayout

    layout = RunLayout.at(folder)
    asked = Resume(tuple(assignments or ()), force, verify == "all", refcat, forced)
    if dry_run:
        for line in describe(layout, asked):
            typer.echo(line)
        return
    _carry_out(layout, None, asked, quiet=quiet, as_json=as_json)


def warn_of_threads() -> None:
    """Tell of settings that give every rank more threads than one."""
    for warning in limit_threads():
        typer.echo(f"mpipipe: {warning}", err=True)


def carry_out(errand: Errand, n_workers: int, *, quiet: bool, as_json: bool) -> None:
    """Do what was made ready in a folder of a person's; leaves with the exit code."""
    if not quiet:
        for note in errand.notes:
            typer.echo(note, err=True)
    _carry_out(
        errand.layout,
        errand.make,
        errand.asked,
        quiet=quiet,
        as_json=as_json,
        n_workers=n_workers,
        go_on="the same command",
    )


def number_of_workers(asked: int | None) -> int:
    """How many processes to start: as many as asked for, or as cores may be used.

    Raises
    ------
    ConfigError
        Under mpirun, whose ranks are the processes.
    """
    from mpipipe.parallel.host import cores
    from mpipipe.parallel.launcher import detect_launcher

    if (launcher := detect_launcher(os.environ)) is not None:
        raise ConfigError(
            f"{launcher.name} has started this, but it runs on one machine, without MPI",
            way_out="leave mpirun out and say -j N; with MPI: mpipipe run",
        )
    return asked or cores()


def _carry_out(
    layout: RunLayout,
    make: Make | None,
    asked: Resume | None,
    *,
    quiet: bool,
    as_json: bool,
    n_workers: int = 1,
    go_on: str = "",
) -> None:
    from mpipipe.parallel.together import FailedOnMasterError
    from mpipipe.run.drive import drive

    try:
        result = drive(layout, make, asked, quiet=quiet or as_json, n_workers=n_workers)
    except FailedOnMasterError as error:
        raise typer.Exit(Exit.COULD_NOT_RUN) from error
    if result.is_master:
        _report(result, layout, go_on or f"--resume {layout.root}", as_json=as_json)
    code = Exit.WITH_FAILURES if result.has_failures else Exit.DONE
    if result.interrupted:
        code = Exit.RESUME_ME
    if result.left_badly or result.n_lost:
        # What libraries do at the exit of a process may stumble over ranks that are gone.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise typer.Exit(code)


def _report(result: RunResult, layout: RunLayout, go_on: str, *, as_json: bool) -> None:
    if as_json:
        facts = {
            "run": str(layout.root),
            "outcomes": result.outcomes,
            "interrupted": result.interrupted,
            "resumed": result.n_resumed,
            "products": result.n_products,
            "was_done": result.was_done,
            "lost_ranks": result.n_lost,
        }
        typer.echo(json.dumps(facts))
        return
    if result.was_done:
        products = f"{result.n_products} products verify"
        typer.echo(f"{layout.root} is complete and its {products}: nothing to do")
        return
    if result.n_resumed:
        typer.echo(f"{result.n_resumed} tasks were done already and taken over")
    if result.n_lost:
        ranks = "1 rank was" if result.n_lost == 1 else f"{result.n_lost} ranks were"
        typer.echo(f"{ranks} lost on the way; the others did their tasks")
    if result.interrupted:
        typer.echo(f"interrupted; go on with: {go_on}")
        return
    if layout.is_flat:
        _tell_files(layout)
    else:
        typer.echo(f"{result.n_products} products in {layout.root}, listed in completion.json")
    if result.has_failures:
        typer.echo(f"some tasks failed or had bad data: see {layout.outcomes}")


def _tell_files(layout: RunLayout) -> None:
    """Say how every exposure went, and which files there are to look at."""
    from mpipipe.run.completion import read_completion
    from mpipipe.store.checksums import read_json

    tasks = [task for task in read_json(layout.outcomes)["tasks"] if task["phase"] == "calibrate"]
    for task in tasks[:_MOST_TOLD]:
        reason = f": {task['reason']}" if task.get("reason") else ""
        typer.echo(f"{task['what']}: {task.get('outcome', 'not done')}{reason}")
    if len(tasks) > _MOST_TOLD:
        typer.echo(f"and {len(tasks) - _MOST_TOLD} exposures more: {layout.outcomes}")
    kinds: dict[str, list[str]] = {}
    for path in (layout.root / product.path for product in read_completion(layout).products):
        if path.parent == layout.root:
            kind = f"{path.stem.partition('-')[0]}-VISIT-CCD{path.suffix}"
            kinds.setdefault(kind, []).append(path.name)
    listed = [f"{len(n)} {kind}" if len(n) > 1 else n[0] for kind, n in kinds.items()]
    typer.echo(f"in {layout.root}: {', '.join(listed) or 'nothing'}")
