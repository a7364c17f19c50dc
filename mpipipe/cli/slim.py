"""`mpipipe slim`: remove what can be made again."""

from __future__ import annotations

from typing import Annotated

import typer

from mpipipe.cli.options import RunArgument


def slim(
    run: RunArgument,
    kinds: Annotated[
        str,
        typer.Option("--kinds", metavar="NAMES", help="Any of calexp, bkgd, postisr, assembled."),
    ] = "calexp",
    sample: Annotated[
        int, typer.Option("--sample", min=1, metavar="N", help="Tasks that are made again first.")
    ] = 3,
    seed: Annotated[int, typer.Option("--seed", help="Of the sample.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would be removed, and remove nothing.")
    ] = False,
) -> None:
    """Remove images of a finished run that can be made again from its raw frames.

    First a sample is made again; unless it comes out the same to the bit, nothing is removed. What
    is removed is listed in RUN/slimmed.json, and `mpipipe recreate` makes it again. Headers of
    calexps stay, in files .head: they tell the scorecard of zero points and times.

    \b
    Examples:
      mpipipe slim RUN --dry-run
      mpipipe slim RUN --kinds calexp,bkgd --sample 10
    """
    from mpipipe.run.slim import slim as remove
    from mpipipe.store.layout import RunLayout

    names = [name.strip() for name in kinds.split(",") if name.strip()]
    done = remove(
        RunLayout.at(run), names, sample=sample, seed=seed, dry_run=dry_run, tell=typer.echo
    )
    for line in done.kept:
        typer.echo(f"kept: {line}")
    how = "would be removed" if dry_run else "removed"
    typer.echo(f"{done.n_products} products, {done.n_bytes / 1e6:.1f} MB, {how}")
