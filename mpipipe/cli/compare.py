"""`mpipipe compare`: what is different between two runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mpipipe.quality.comparison import Comparison

_SHOWN = 10


def compare(
    first: Annotated[
        Path, typer.Argument(metavar="RUN1", help="Run folder, or JSON of its scorecard.")
    ],
    second: Annotated[Path, typer.Argument(metavar="RUN2", help="The other one.")],
    sigma: Annotated[
        float,
        typer.Option("--sigma", metavar="N", help="What differs by more counts.", min=0.0),
    ] = 3.0,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all of it as JSON.")
    ] = None,
    worse: Annotated[
        bool,
        typer.Option(
            "--worse", help="Exit code 5 only if a number moved away from its requirement."
        ),
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Show also numbers that did not move.")
    ] = False,
) -> None:
    """Tell which numbers of the scorecard moved by more than their noise, and which sources
    changed.

    Ends with code 0 if nothing differs and 5 if something does. With the JSON of a scorecard in
    place of a run, sources are left out.

    \b
    Examples:
      mpipipe compare RUN1 RUN2
      mpipipe compare last-week.json RUN --worse
    """
    from mpipipe.cli.exits import Exit
    from mpipipe.quality.comparison import compare_runs, write_comparison

    found = compare_runs(first, second, sigma)
    _print(found, sigma, every)
    if json_file is not None:
        write_comparison(found, json_file)
        typer.echo(str(json_file))
    if found.is_worse if worse else found.is_different:
        raise typer.Exit(Exit.DIFFERS)


def _print(found: Comparison, sigma: float, every: bool) -> None:
    from mpipipe.quality.page.svg import number

    rows = found.numbers if every else found.moved
    lines = [("number", *found.names, "unit", "sigma", "")]
    for one in rows:
        told = {True: "worse", False: "better", None: ""}[one.is_worse]
        if one.verdicts[0] != one.verdicts[1]:
            told = f"{told} ({one.verdicts[0]} -> {one.verdicts[1]})".strip()
        values = number(one.before), number(one.after)
        lines.append((one.name, *values, one.unit, number(one.sigmas, 2), told))
    if rows:
        widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
        for line in lines:
            cells = (text.ljust(size) for text, size in zip(line, widths, strict=True))
            typer.echo("  ".join(cells).rstrip())
    n = len(found.numbers)
    typer.echo(f"{len(found.moved)} of {n} numbers moved by more than {sigma:g} sigma")
    sources = found.sources
    if sources is None:
        return
    if sources.why:
        typer.echo(f"sources could not be compared: {sources.why}")
        return
    typer.echo(
        f"{sources.n_matched:,} sources are in both, {sources.n_changed:,} of them with another "
        f"flux (> {sigma:g} sigma); {sources.only_first:,} only in {found.names[0]}, "
        f"{sources.only_second:,} only in {found.names[1]}"
    )
    for row in sources.changes[:_SHOWN]:
        where = f"visit {row['visit']}, CCD {row['ccdNumber']}, x {row['x']:.1f} y {row['y']:.1f}"
        if row["id1"] < 0 or row["id2"] < 0:
            what = f"only in {found.names[0 if row['id2'] < 0 else 1]}"
        else:
            what = f"flux changed by {row['sigmas']:.1f} sigma"
        typer.echo(f"  {where}, SNR {row['snr']:.1f}: {what}")
    if len(sources.changes) > _SHOWN:
        typer.echo(f"  and {len(sources.changes) - _SHOWN:,} more (--json)")
