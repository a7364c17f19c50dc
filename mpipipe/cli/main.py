"""The command line: one grammar, one module a command.

This module and the modules of the commands import nothing heavy at the top, so that help and
completion answer at once; each command imports what it needs when it runs.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from mpipipe import __version__
from mpipipe.cli import (
    associate,
    calibs,
    camera,
    checkpoint,
    compare,
    cone,
    config,
    doctor,
    export,
    lightcurve,
    logs,
    plan,
    process,
    provenance,
    query,
    recreate,
    refcat,
    report,
    run,
    scaling,
    scorecard,
    show,
    simulate,
    slim,
    status,
    stop,
    submit,
    trace,
    verify,
    warmup,
)
from mpipipe.cli.exits import Exit
from mpipipe.data.errors import MpipipeError
from mpipipe.parallel.threads import limit_threads

app = typer.Typer(
    name="mpipipe",
    help="Raw frames of a survey camera to calibrated exposures and catalogues, under MPI.\n\n"
    "Any command that works on many frames may be started by mpirun:\n\n"
    "    mpirun -n 8 mpipipe run RAW -o RUN\n\n"
    "and does the same, to the bit, without it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
_NEGATIVE_NUMBERS = {"ignore_unknown_options": True}
"""Declinations below zero are no options."""

app.add_typer(camera.app, name="camera")
app.add_typer(checkpoint.app, name="checkpoint")
app.add_typer(config.app, name="config")
app.add_typer(refcat.app, name="refcat")
app.add_typer(report.app, name="report")
app.add_typer(scaling.app, name="scaling")
app.command()(simulate.simulate)
app.command()(plan.plan)
app.command()(calibs.calibs)
app.command()(run.run)
app.command()(submit.submit)
app.command()(process.process)
app.command()(associate.associate)
app.command()(status.status)
app.command()(logs.logs)
app.command()(stop.stop)
app.command()(verify.verify)
app.command()(trace.trace)
app.command()(show.show)
app.command()(provenance.provenance)
app.command()(recreate.recreate)
app.command()(slim.slim)
app.command()(scorecard.scorecard)
app.command()(compare.compare)
app.command()(export.export)
app.command()(query.query)
app.command(context_settings=_NEGATIVE_NUMBERS)(cone.cone)
app.command(context_settings=_NEGATIVE_NUMBERS)(lightcurve.lightcurve)
app.command()(doctor.doctor)
app.command()(warmup.warmup)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mpipipe {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print version."),
    ] = False,
) -> None:
    """Shared by all commands; the options do their work in callbacks."""


def main() -> None:
    """Run the command line; every error that is ours ends as one line and an exit code."""
    # Before anything imports numpy: ranks share the cores, so each has one thread.
    limit_threads()
    try:
        app()
    except MpipipeError as error:
        typer.echo(f"mpipipe: {error}", err=True)
        sys.exit(Exit.COULD_NOT_RUN)
    except BrokenPipeError:
        # The reader of our output (head, less) has left; keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.DONE)
