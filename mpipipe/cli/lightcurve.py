"""`mpipipe lightcurve`: the measurements of the object at a place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpipipe.cli.cone import DecArgument, RaArgument
from mpipipe.cli.options import RunArgument
from mpipipe.cli.results import LimitOption, ToOption, print_rows, rows_of

COLUMNS = ("id", "visit", "ccdNumber", "band", "mjd", "ra", "dec", "psfFlux", "psfFluxErr")


def lightcurve(
    run: RunArgument,
    ra: RaArgument,
    dec: DecArgument,
    radius: Annotated[
        str, typer.Option("--radius", metavar="R", help="How far the object may be.")
    ] = "2arcsec",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="PNG", help="Draw them, a panel a band."),
    ] = None,
    to: ToOption = None,
    limit: LimitOption = None,
) -> None:
    """Give, and draw, the measurements of the object nearest to a place, in the order of time.

    With --to all columns of source are given. Measurements farther than 3 arcmin from where the
    object is now do not count as its own.

    \b
    Examples:
      mpipipe lightcurve RUN 150.1021 2.2013
      mpipipe lightcurve RUN 10:00:24.5 +02:12:04.7 --radius 5arcsec -o curve.png --to csv
    """
    from mpipipe.cli.positions import parse_angle, parse_position
    from mpipipe.data.errors import ConfigError
    from mpipipe.store.hdf5 import read_schema
    from mpipipe.store.layout import RunLayout
    from mpipipe.store.light_curve import measurements, nearest_object

    layout = RunLayout.at(run)
    objects, sources = layout.published("object"), layout.published("source")
    place, reach = parse_position(ra, dec), parse_angle(radius)
    nearest = nearest_object(objects, *place, reach)
    if nearest is None:
        raise ConfigError(
            f"has no object within {3600 * reach:g} arcsec of {place[0]:.7f}, {place[1]:.7f}",
            file=layout.root,
            way_out="give a larger --radius",
        )
    object_id, object_ra, object_dec = nearest.item()
    rows = measurements(sources, object_id, object_ra, object_dec)
    title = f"object {object_id} at {object_ra:.7f}, {object_dec:.7f}"
    if output is not None:
        from mpipipe.quality.light_curve import draw_light_curve

        draw_light_curve(output, rows, title)
    if to is None:
        typer.echo(f"{title}: {len(rows)} measurements")
        rows = rows[list(COLUMNS)]
    elif limit is not None:
        rows = rows[:limit]
    print_rows(rows_of(rows, read_schema(sources).columns, "source"), to, limit)
    if output is not None:
        typer.echo(str(output), err=to is not None)
