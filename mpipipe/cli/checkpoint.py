"""`mpipipe checkpoint`: the committed records of a run; works without MPI."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from mpipipe.cli.exits import Exit
from mpipipe.cli.options import JsonOption, RunArgument

if TYPE_CHECKING:
    from mpipipe.run.upkeep import FileFacts, TaskFacts

app = typer.Typer(
    help="Look after the committed records of a run.\n\nExample: mpipipe checkpoint ls RUN",
    no_args_is_help=True,
)

_SHOWN = 20


@app.command("ls")
def list_files(run: RunArgument, as_json: JsonOption = False) -> None:
    """List files, incarnations, records by outcome, bytes and damage, from the index alone.

    It works while the run goes on, too.

    Example: mpipipe checkpoint ls RUN
    """
    from mpipipe.run.upkeep import list_checkpoints
    from mpipipe.store.layout import RunLayout

    _tell(list_checkpoints(RunLayout.at(run)), as_json)


@app.command()
def verify(run: RunArgument, as_json: JsonOption = False) -> None:
    """Compare every record with its checksums; exit code 4 if anything is damaged.

    A record that was being written when its writer was killed is no damage: nobody was told of it.

    Example: mpipipe checkpoint verify RUN
    """
    from mpipipe.run.upkeep import list_checkpoints
    from mpipipe.store.layout import RunLayout

    found = list_checkpoints(RunLayout.at(run), verify=True)
    _tell(found, as_json)
    if any(facts.damage for facts in found):
        raise typer.Exit(Exit.NOT_VERIFIED)


@app.command()
def show(
    run: RunArgument,
    task: Annotated[
        int | None, typer.Option("--task", metavar="N", help="Number of the task.")
    ] = None,
    visit: Annotated[int | None, typer.Option("--visit", metavar="V", help="Visit.")] = None,
    ccd: Annotated[str | None, typer.Option("--ccd", metavar="C", help="CCD.")] = None,
    cell: Annotated[
        str | None,
        typer.Option("--cell", metavar="NAME", help="Sky cell of the association, or `seams`."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the record that counts for a task: its outcome, and the columns of its tables.

    \b
    Examples:
      mpipipe checkpoint show RUN --task 0
      mpipipe checkpoint show RUN --visit 3 --ccd R22_S11
      mpipipe checkpoint show RUN --cell seams
    """
    from mpipipe.data.errors import ConfigError
    from mpipipe.run.upkeep import find_cell, find_task, read_task
    from mpipipe.store.layout import RunLayout

    layout = RunLayout.at(run)
    if sum([task is not None, visit is not None or ccd is not None, cell is not None]) != 1:
        raise ConfigError("say which task", way_out="--task N, --visit V --ccd C, or --cell NAME")
    if cell is not None:
        task = find_cell(layout, cell)
    elif task is None:
        task = find_task(layout, visit, ccd)
    facts = read_task(layout, task, of_sky=cell is not None)
    typer.echo(json.dumps(asdict(facts)) if as_json else text_of(facts))


@app.command()
def repair(run: RunArgument, as_json: JsonOption = False) -> None:
    """Write a fresh file for each damaged one, with its whole records; the old one is kept.

    What is missing is done again by `mpipipe run --resume`.

    Example: mpipipe checkpoint repair RUN
    """
    from mpipipe.run.upkeep import repair as mend
    from mpipipe.store.layout import RunLayout

    done = mend(RunLayout.at(run))
    if as_json:
        keys = ("damaged", "fresh", "records")
        typer.echo(json.dumps([dict(zip(keys, entry, strict=True)) for entry in done]))
        return
    for damaged, fresh, number in done:
        typer.echo(f"{fresh or 'no file'}: {number} whole records; the old file is {damaged}")
    if not done:
        typer.echo("nothing is damaged")


@app.command()
def compact(run: RunArgument, as_json: JsonOption = False) -> None:
    """Put the record that counts of each task into one file, then remove all others.

    Example: mpipipe checkpoint compact RUN
    """
    from mpipipe.run.upkeep import compact as press
    from mpipipe.store.layout import RunLayout

    done = press(RunLayout.at(run))
    if as_json:
        typer.echo(json.dumps(asdict(done)))
        return
    typer.echo(f"{done.path}: {done.n_records} records, replaces {len(done.removed)} files")
    typer.echo(f"{done.bytes_before / 1e6:.1f} MB before, {done.bytes_after / 1e6:.1f} MB now")


def _tell(found: list[FileFacts], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([asdict(facts) for facts in found]))
        return
    for facts in found:
        kinds = ", ".join(f"{number} {label}" for label, number in facts.kinds.items())
        sizes = f"{facts.n_bytes / 1e6:.3f} MB, {facts.disk_bytes / 1e6:.1f} MB on disk"
        ranks = f"{len(facts.ranks)} ranks"
        typer.echo(f"{facts.path}: {facts.n_records} records ({kinds}), {sizes}, {ranks}")
        for damage in facts.damage[:_SHOWN]:
            typer.echo(f"  damage at byte {damage.offset}, {damage.length} B: {damage.reason}")
        if len(facts.damage) > _SHOWN:
            typer.echo(f"  and {len(facts.damage) - _SHOWN} more")
        if facts.n_torn:
            typer.echo(f"  {facts.n_torn} records were being written; nobody was told of them")
    if not found:
        typer.echo("no records")


def text_of(facts: TaskFacts) -> str:
    """A record for people."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(facts.written))
    lines = [
        f"task {facts.task}, {facts.what}: {facts.outcome}",
        f"  attempt {facts.attempt} on rank {facts.rank}, {when} UTC, "
        f"{facts.wall_s:.3f} s ({facts.cpu_s:.3f} s CPU)",
    ]
    if facts.reason:
        lines.append(f"  {facts.stage}: {facts.reason}" if facts.stage else f"  {facts.reason}")
    lines += [f"  warning: {warning}" for warning in facts.warnings]
    lines += [f"  {line}" for line in facts.traceback.splitlines()]
    for table in facts.tables:
        lines.append(f"  {table.name}: {table.n_rows} rows")
        for name, dtype, shape in table.columns:
            lines.append(f"    {name or '(array)':24} {dtype}{list(shape) if shape else ''}")
    return "\n".join(lines)
