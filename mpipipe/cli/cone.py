"""`mpipipe cone`: the rows of a table in a cone on the sky."""

from __future__ import annotations

from typing import Annotated

import typer

from mpipipe.cli.options import RunArgument
from mpipipe.cli.results import LimitOption, ToOption, print_rows, rows_of

RaArgument = Annotated[
    str, typer.Argument(metavar="RA", help="Right ascension: degrees, or 10:00:24.5 (hours).")
]
DecArgument = Annotated[
    str, typer.Argument(metavar="DEC", help="Declination: degrees, or +02:12:30.")
]


def cone(
    run: RunArgument,
    ra: RaArgument,
    dec: DecArgument,
    radius: Annotated[
        str, typer.Argument(metavar="RADIUS", help="Degrees, or as in 6arcmin, 30arcsec.")
    ],
    table: Annotated[
        str, typer.Option("--table", metavar="TABLE", help="A published table.")
    ] = "object",
    columns: Annotated[
        str | None,
        typer.Option("--columns", metavar="NAMES", help="Only these, with commas between."),
    ] = None,
    to: ToOption = None,
    limit: LimitOption = None,
) -> None:
    """Give the rows of a table in a cone on the sky (ICRS), its rim included.

    Of tables in the order of the sky (object, source, badSource) only what is
    near the cone is read, of others all positions.

    \b
    Examples:
      mpipipe cone RUN 150.1 2.2 30arcsec
      mpipipe cone RUN 10:00:24.5 -02:12:30 0.05 --table src --columns id,ra,dec --to csv
    """
    from mpipipe.cli.positions import parse_angle, parse_position
    from mpipipe.store.catalogue import read_cone
    from mpipipe.store.hdf5 import read_schema
    from mpipipe.store.layout import RunLayout

    path = RunLayout.at(run).published(table)
    names = None if columns is None else [name.strip() for name in columns.split(",")]
    found = read_cone(path, *parse_position(ra, dec), parse_angle(radius), names)
    rows = found if limit is None or to is None else found[:limit]
    print_rows(rows_of(rows, read_schema(path).columns, table), to, limit)
