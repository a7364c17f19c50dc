"""`mpipipe associate`: sources of any exposures to objects, for one person."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpipipe.cli.options import AgainOption, JsonOption, QuietOption, SetOption, WorkersOption


def associate(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SRC...",
            help="Tables src-VISIT-CCD.h5, patterns of them, folders of mpipipe process, run "
            "folders and their catalogs/src.h5.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="Folder for what comes out.")
    ],
    jobs: WorkersOption = None,
    assignments: SetOption = None,
    force: AgainOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make objects of the sources of overlapping exposures: object.h5, source.h5, badSource.h5,
    sourceHist.h5 and badSourceHist.h5 in OUT.

    The exposures may come from any number of runs, but each only once. Options are those of the
    branch sa: `mpipipe config explain sa`. Ctrl-C keeps what is done, and the same command goes on.

    \b
    Examples:
      mpipipe associate OUT/src-*.h5 -o OBJECTS
      mpipipe associate RUN1 RUN2 -o OBJECTS --set sa.SourceClustering.link_radius=0.5
      mpipipe export OBJECTS/object.h5 --to csv
    """
    from mpipipe.cli import drive

    drive.warn_of_threads()
    n_workers = drive.number_of_workers(jobs)
    from mpipipe.run.personal import to_associate

    errand = to_associate(sources, output, tuple(assignments or ()), force=force)
    drive.carry_out(errand, n_workers, quiet=quiet, as_json=as_json)
