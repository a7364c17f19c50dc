"""`mpipipe calibs`: master calibrations alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpipipe.cli.options import (
    CameraOption,
    ConfigOption,
    JsonOption,
    QuietOption,
    RawArgument,
    SetOption,
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
    from mpipipe.cli.drive import RunRequest, carry_out

    request = RunRequest(
        raw=raw,
        output=output,
        resume=resume,
        camera=camera,
        calibs=None,
        config_file=config,
        assignments=tuple(assignments or ()),
        goal="calibs",
    )
    carry_out(request, quiet=quiet, as_json=as_json)
