"""`mpipipe logs`: what ranks have logged, of one task or of all."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from mpipipe.cli.options import RunArgument


def logs(
    run: RunArgument,
    visit: Annotated[int | None, typer.Option(help="Lines of this visit.")] = None,
    ccd: Annotated[str | None, typer.Option(help="Lines of this CCD.")] = None,
    rank: Annotated[int | None, typer.Option(help="Lines of this rank.", min=0)] = None,
    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        typer.Option(help="Lowest level.", case_sensitive=False),
    ] = "debug",
) -> None:
    """Show log lines over all ranks and starts in the order of time, tracebacks included.

    Every line tells run and start, rank, visit, CCD and stage.

    \b
    Examples:
      mpipipe logs RUN --level warning
      mpipipe logs RUN --visit 100003 --ccd R22_S11
    """
    from mpipipe.data.errors import ConfigError
    from mpipipe.store.layout import RunLayout
    from mpipipe.trace.logfiles import Wanted, select

    layout = RunLayout.at(run)
    if not layout.logs.is_dir():
        raise ConfigError(
            "has no logs", file=layout.root, way_out="give the folder of a run: mpipipe logs RUN"
        )
    wanted = Wanted(None if visit is None else str(visit), ccd, rank, level)
    for entry in select(layout.logs, wanted):
        typer.echo(entry.text)
