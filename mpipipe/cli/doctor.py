"""``mpipipe doctor``: what is missing or mismatched here, and what mends it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpipipe.cli.exits import Exit

if TYPE_CHECKING:
    from mpipipe.parallel.doctor import Check

COLOURS = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "bad": typer.colors.RED}


def doctor(
    run_folder: Annotated[
        Path, typer.Option(help="Where products would go: looked at for permission and space.")
    ] = Path("."),
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Name what is missing or mismatched on this machine, with the command that mends it.

    Example: mpipipe doctor --run-folder /scratch

    Exit code 0 when nothing is bad (warnings are things that work, but not at their best), 1
    otherwise.
    """
    import dataclasses
    import json

    from mpipipe.parallel.doctor import examine

    checks = examine(run_folder)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(check) for check in checks], indent=1))
    else:
        print_checks(checks)
    if any(check.status == "bad" for check in checks):
        raise typer.Exit(Exit.COULD_NOT_RUN)


def print_checks(checks: list[Check]) -> None:
    """Print a row for each check, with the mending command on a line of its own to copy."""
    width = max(len(check.check) for check in checks)
    for check in checks:
        status = typer.style(f"{check.status:4}", fg=COLOURS[check.status])
        typer.echo(f"{status}  {check.check:{width}}  {check.found}")
        if check.mend:
            typer.echo(f"{'':6}{'':{width}}  mend: {check.mend}")
    found = [check.status for check in checks]
    typer.echo(", ".join(f"{found.count(status)} {status}" for status in type(found[0])))
