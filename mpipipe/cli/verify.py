"""`mpipipe verify`: is this run complete, and is every product as it was written?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mpipipe.cli.exits import Exit


def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a finished run: its completion record, and every product against its checksum.

    Exit code 0 means: complete, and every file is as it was written. Job scripts should trust
    this and nothing else.

    Example: mpipipe verify RUN
    """
    from mpipipe.data.errors import BadDataError
    from mpipipe.run.completion import verify_run
    from mpipipe.store.layout import RunLayout

    try:
        verdict = verify_run(RunLayout.at(run))
    except BadDataError as error:
        typer.echo(
            json.dumps({"verified": False, "faults": [str(error)]}) if as_json else str(error)
        )
        raise typer.Exit(Exit.NOT_VERIFIED) from error
    if as_json:
        facts = {
            "verified": verdict.is_verified,
            "products": verdict.n_products,
            "faults": verdict.faults,
            "outcomes": verdict.outcomes,
            "digest": verdict.digest,
            "removed": verdict.n_removed,
        }
        typer.echo(json.dumps(facts))
    else:
        for fault in verdict.faults:
            typer.echo(fault)
        if verdict.n_removed:
            typer.echo(
                f"{verdict.n_removed} products were removed to save space; mpipipe recreate makes "
                "them again"
            )
        state = "NOT as written" if verdict.faults else "verified"
        typer.echo(f"{verdict.n_products} products {state}; digest {verdict.digest[:16]}")
    if not verdict.is_verified:
        raise typer.Exit(Exit.NOT_VERIFIED)
