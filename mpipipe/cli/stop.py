"""`mpipipe stop`: ask a run that goes on somewhere to stop."""

from __future__ import annotations

from typing import Annotated

import typer

from mpipipe.cli.options import RunArgument


def stop(
    run: RunArgument,
    now: Annotated[
        bool,
        typer.Option("--now", help="At once: tasks that run are dropped and done again later."),
    ] = False,
) -> None:
    """Ask a run to stop: running tasks end and are committed, then it leaves with exit code 75.

    A file is written into the run folder, at which the run looks every second; so this works
    from any machine that sees the folder. `mpipipe run --resume RUN` goes on later.

    \b
    Examples:
      mpipipe stop RUN
      mpipipe stop RUN --now
    """
    from mpipipe.run.halt import DRAIN, NOW, ask_to_halt
    from mpipipe.store.layout import RunLayout

    layout = RunLayout.at(run)
    incarnation = ask_to_halt(layout, NOW if now else DRAIN)
    what = "at once" if now else "when the running tasks are done"
    typer.echo(f"start {incarnation} of {layout.root} is asked to stop {what}")
