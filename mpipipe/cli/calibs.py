"""`mpipipe calibs`: master calibrations alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpipipe.cli.options import (
    CameraOption,
    ConfigOption,
    DryRunOption,
    ForceOption,
    JsonOption,
    QuietOption,
    RawArgument,
    SetOption,
    VerifyOption,
    refuse_of_resume,
)


def calibs(
    raw: RawArgument = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="CALIBS", help="Folder to make.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="CALIBS", help="Go on with this build.")
    ] = None,
    camera: CameraOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    verify: VerifyOption = "sampled",
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Build master bias, dark, flat and defects, with gain and read noise by photon transfer.

    Three frames of a kind are enough to build its master. The folder can be given to any number
    of runs by --calibs.

    \b
    Examples:
      mpipipe calibs RAW -o CALIBS
      mpirun -n 8 mpipipe calibs RAW -o CALIBS
    """
    from mpipipe.cli import drive

    if resume is not None:
        drive.resume(
            resume,
            raw,
            output,
            camera,
            config,
            assignments=assignments,
            verify=verify,
            force=force,
            dry_run=dry_run,
            quiet=quiet,
            as_json=as_json,
        )
    else:
        refuse_of_resume(verify, force=force, dry_run=dry_run)
        drive.start(
            "calibs",
            raw,
            output,
            camera=camera,
            calibs=None,
            config=config,
            assignments=assignments,
            quiet=quiet,
            as_json=as_json,
        )
