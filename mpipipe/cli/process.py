"""`mpipipe process`: raw files to calibrated exposures and sources, for one person."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpipipe.cli.options import (
    AgainOption,
    CalibsOption,
    CameraOption,
    ConfigOption,
    JsonOption,
    QuietOption,
    RefcatOption,
    SetOption,
    WorkersOption,
)


def process(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILES...", help="Raw files, patterns of them, and folders."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="Folder for what comes out.")
    ],
    camera: CameraOption = None,
    calibs: CalibsOption = None,
    refcat: RefcatOption = None,
    jobs: WorkersOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    force: AgainOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Calibrate raw files on this machine: to calexp, psf, bkgd, src and icSrc in OUT.

    FILES are those of any number of visits and CCDs: a file a channel, multi-extension FITS, or
    plain FITS. Their camera is recognised by the headers. Masters come from --calibs, or are built
    when there are bias, dark and flat frames among the files; what can not be corrected without
    them is left out, and said. OUT has calexp-VISIT-CCD.fits and so on, side by side; in its
    folder run is how they came about.

    Ctrl-C keeps what is done, and the same command goes on. With other options (--set, --refcat)
    it does again what follows from them.

    Exit codes: 0 all done; 1 could not run; 3 done, but some exposures failed, were partial or had
    bad data; 75 interrupted.

    \b
    Examples:
      mpipipe process RAW/*.fits.gz -o OUT
      mpipipe process RAW -o OUT --refcat REFCAT --calibs CALIBS -j 4
      mpipipe process image.fits -o OUT --camera generic
    """
    from mpipipe.cli import drive

    drive.warn_of_threads()
    n_workers = drive.number_of_workers(jobs)
    from mpipipe.run.personal import to_process
    from mpipipe.run.prepare import Request

    request = Request(Path(), camera, calibs, config, tuple(assignments or ()), refcat=refcat)
    errand = to_process(files, output, request, force=force)
    drive.carry_out(errand, n_workers, quiet=quiet, as_json=as_json)
