"""`mpipipe run`: raw frames to calibrated exposures and catalogues."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpipipe.cli.options import (
    CalibsOption,
    CameraOption,
    ConfigOption,
    CostsOption,
    DryRunOption,
    DurabilityOption,
    ForcedOption,
    ForceOption,
    IntervalOption,
    JsonOption,
    QuietOption,
    RawArgument,
    RefcatOption,
    SetOption,
    VerifyOption,
    checkpoint_settings,
    refuse_of_resume,
)


def run(
    raw: RawArgument = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="RUN", help="Run folder to make.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="RUN", help="Go on with this run.")
    ] = None,
    camera: CameraOption = None,
    calibs: CalibsOption = None,
    refcat: RefcatOption = None,
    forced: ForcedOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    costs: CostsOption = None,
    durability: DurabilityOption = None,
    checkpoint_interval: IntervalOption = None,
    verify: VerifyOption = "sampled",
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Process all visits under RAW: isr, ca, cs, ic, sfm; masters are built first if need be.

    When RAW holds bias, dark or flat frames and no --calibs are given, the masters are built
    from them before the visits are touched. With --refcat exposures get a WCS and a zero point of
    its stars. Products of a visit and CCD: calexp (image, mask, variance), psf, bkgd, and their
    rows in catalogs/src.h5, icSrc.h5, icMatch.h5, snapsrc.h5 and sdqa.h5; with --forced also in
    forcedSrc.h5: what there is at the positions of a catalogue, detected or not.

    Under `mpirun --with-ft ulfm --mca async_mpi_finalize 1` (Open MPI 5) the run survives the
    loss of any rank; under other launchers go on with --resume after one.

    Exit codes: 0 all done; 3 done, but some tasks failed or had bad data; 1 could not run;
    75 interrupted after committing (go on with --resume).

    --resume goes on with a run after anything that ended it, at any number of ranks. With --set
    it does again what the changed options concern: after a change of ic or sfm the pixels of the
    calexp stay and only what is measured on them is measured again; so it does with another
    --refcat or --forced. --dry-run tells what would be done.

    \b
    Examples:
      mpipipe run RAW -o RUN
      mpirun -n 8 mpipipe run RAW -o RUN --calibs CALIBS --set cs.reject.enabled=false
      mpirun --with-ft ulfm --mca async_mpi_finalize 1 -n 8 mpipipe run RAW -o RUN
      mpirun -n 4 mpipipe run --resume RUN
      mpipipe run --resume RUN --refcat REFCAT
      mpipipe run --resume RUN --forced POSITIONS
      mpipipe run --resume RUN --set sfm.sourceDetection.threshold=4 --dry-run
    """
    from mpipipe.cli import drive

    assignments = [*(assignments or ()), *checkpoint_settings(durability, checkpoint_interval)]
    if resume is not None:
        drive.resume(
            resume,
            raw,
            output,
            camera,
            calibs,
            config,
            costs,
            assignments=assignments,
            refcat=refcat,
            forced=forced,
            verify=verify,
            force=force,
            dry_run=dry_run,
            quiet=quiet,
            as_json=as_json,
        )
    else:
        refuse_of_resume(verify, force=force, dry_run=dry_run)
        drive.start(
            "calibrate",
            raw,
            output,
            camera=camera,
            calibs=calibs,
            refcat=refcat,
            forced=forced,
            config=config,
            assignments=assignments,
            costs=costs,
            quiet=quiet,
            as_json=as_json,
        )
