"""`mpipipe query`: SQL over the tables of a run."""

from __future__ import annotations

from typing import Annotated

import typer

from mpipipe.cli.options import RunArgument
from mpipipe.cli.results import LimitOption, ToOption, print_rows


def query(
    run: RunArgument,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT, in quotes.")],
    to: ToOption = None,
    limit: LimitOption = None,
) -> None:
    """Ask the published tables of a run by SQL (DuckDB's), without writing anything.

    The tables are named as they are published; DESCRIBE object tells the columns of one. What is
    not known (NaN) is NULL. separation(ra1, dec1, ra2, dec2) gives degrees. A query reads the
    columns that it names and reaches nothing but the catalogues of the run.

    \b
    Examples:
      mpipipe query RUN "SELECT count(*) FROM src WHERE NOT flag_psfFlux"
      mpipipe query RUN "SELECT visit, median(psfFluxErr) FROM src GROUP BY visit" --to csv
      mpipipe query RUN "SELECT * FROM object WHERE separation(ra, dec, 150.1, 2.2) < 0.01"
    """
    from mpipipe.store.layout import RunLayout
    from mpipipe.store.query import open_query

    layout = RunLayout.at(run)
    with open_query(layout.catalogues()) as database:
        # One row more than is shown tells whether there are more.
        print_rows(database.rows(sql, None if to is None else limit), to, limit)
