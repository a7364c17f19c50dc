"""`mpipipe trace`: what every process of a run did, from when to when."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpipipe.cli.options import IncarnationOption, RunArgument

_PERFETTO = "perfetto"


def trace(
    run: RunArgument,
    to: Annotated[
        str, typer.Option("--to", metavar="perfetto|csv|parquet", help="Or any format of export.")
    ] = _PERFETTO,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Left out: trace.json, trace.csv, ..."),
    ] = None,
    incarnation: IncarnationOption = None,
    force: Annotated[bool, typer.Option("--force", help="A file that is there gives way.")] = False,
) -> None:
    """Give out the events of a run: stages, reading, writing, commits, messages, waiting.

    Works while the run goes on, and of one that was killed. Open trace.json at ui.perfetto.dev:
    nothing leaves your machine there.

    \b
    Examples:
      mpipipe trace RUN -o trace.json
      mpipipe trace RUN --to parquet -o events.parquet
    """
    from mpipipe.run.traces import gather_events, read_run_events, table_of
    from mpipipe.store.export.exporting import (
        export_tables,
        load_format,
        placed_aside,
        refuse_existing,
    )
    from mpipipe.store.layout import RunLayout
    from mpipipe.trace.perfetto import as_trace

    layout = RunLayout.at(run)
    number, events = read_run_events(layout, incarnation)
    if to == _PERFETTO:
        path = output or Path("trace.json")
        refuse_existing(path, force=force)
        with placed_aside(path) as aside, open(aside, "w", encoding="utf-8") as stream:
            stream.writelines(as_trace(events))
    else:
        form = load_format(to)
        path = output or Path(f"trace{form.SUFFIX}")
        gather_events(layout, number)
        export_tables([table_of(layout, number)], form, str(path), force=force)
    typer.echo(f"{path}: {len(events)} events of start {number}")
