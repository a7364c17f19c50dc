"""`mpipipe provenance`: what a product was made of, and what was made of a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpipipe.cli.options import BandOption, CcdOption, RunArgument, VisitOption

if TYPE_CHECKING:
    from mpipipe.run.lineage import Lineage, Step


def provenance(
    run: RunArgument,
    kind: Annotated[
        str,
        typer.Argument(help="calexp, psf, bkgd, src, ... of a visit; flat, ... of a CCD; object."),
    ] = "calexp",
    visit: VisitOption = None,
    ccd: CcdOption = None,
    band: BandOption = None,
    used: Annotated[
        str | None,
        typer.Option(
            "--used",
            metavar="FILE",
            help="The other way: what has used this raw frame, master or shard (path, name or "
            "SHA-256).",
        ),
    ] = None,
    to: Annotated[
        str, typer.Option("--to", metavar="text|json|prov|graph", help="W3C PROV-JSON; graph: DOT.")
    ] = "text",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it to a file.")
    ] = None,
) -> None:
    """Tell what went into a product, back to the raw frames, or what has used a file.

    Who made it, when, in which attempt, on which host and with which code and libraries is told as
    well. A catalogue (src and others without --visit, object, source) goes back to all visits.

    \b
    Examples:
      mpipipe provenance RUN calexp --visit 100001 --ccd R22_S11
      mpipipe provenance RUN flat --ccd R22_S11 --band r
      mpipipe provenance RUN --used flat_0003_R22_S11_C04.fits
      mpipipe provenance RUN calexp --visit 100001 --to graph | dot -Tsvg > calexp.svg
    """
    from mpipipe.data.errors import ConfigError
    from mpipipe.run.lineage import Lineage
    from mpipipe.run.lineage_formats import FORMATS
    from mpipipe.store.checksums import write_text_atomically
    from mpipipe.store.layout import RunLayout

    if to not in FORMATS:
        raise ConfigError(f"there is no format {to!r}", key="--to", way_out=", ".join(FORMATS))
    lineage = Lineage(RunLayout.at(run))
    try:
        steps = lineage.forward(used) if used else _backward(lineage, kind, visit, ccd, band)
        text = FORMATS[to](lineage, steps)
    finally:
        lineage.close()
    if output is None:
        typer.echo(text)
    else:
        write_text_atomically(output, text + "\n")
        typer.echo(str(output))
    if used and to == "text":
        tables = ", ".join(lineage.layout.catalogues())
        typer.echo(f"and all catalogues: {tables}" if tables else "no catalogue is published")


def _backward(
    lineage: Lineage, kind: str, visit: int | None, ccd: str | None, band: str | None
) -> list[Step]:
    from mpipipe.run.lineage import find_task

    if kind in lineage.layout.catalogues() and visit is None and ccd is None:
        return lineage.backward(lineage.ledger.task_ids())
    return lineage.backward([find_task(lineage.plan, kind, visit, ccd, band)])
