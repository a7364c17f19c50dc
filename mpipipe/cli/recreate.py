"""`mpipipe recreate`: make a product again from raw, and say whether it is the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpipipe.cli.exits import Exit
from mpipipe.cli.options import BandOption, CcdOption, JsonOption, RunArgument, VisitOption

if TYPE_CHECKING:
    from mpipipe.run.recreate import Recreated, Verdict, Wanted


def recreate(
    run: RunArgument,
    kind: Annotated[
        str,
        typer.Argument(
            help="calexp, bkgd, psf, postisr, assembled of a visit and CCD; bias, gain, dark, "
            "flat, defects of a CCD."
        ),
    ] = "calexp",
    visit: VisitOption = None,
    ccd: CcdOption = None,
    band: BandOption = None,
    stage: Annotated[
        str | None,
        typer.Option(
            "--stage",
            metavar="NAME",
            help="Instead of a product, the image as this stage leaves it (isr.bias, cs.diffim).",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="File to write; left out: in this folder."
        ),
    ] = None,
    restore: Annotated[
        bool, typer.Option("--restore", help="Put a product back that `mpipipe slim` has removed.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="A file that is there gives way.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a product again from the raw frames, with the run's own options, and compare it.

    It says "identical", or what is not as it was: an input, a master, an option, the code, a
    library. Where other versions are installed now, their old ones are written beside the product,
    to NAME.requirements.lock. Exit code 4: it is not the same.

    \b
    Examples:
      mpipipe recreate RUN calexp --visit 100001 --ccd R22_S11 -o again.fits
      mpipipe recreate RUN calexp --visit 100001 --stage isr.flat -o flattened.fits
      mpipipe recreate RUN flat --ccd R22_S11 --band r
      mpipipe recreate RUN calexp --visit 100001 --ccd R22_S11 --restore
    """
    from mpipipe.run.recreate import LOCK_SUFFIX, Recreator, Wanted
    from mpipipe.run.slim import restore as put_back
    from mpipipe.store.export.exporting import refuse_existing
    from mpipipe.store.layout import RunLayout

    layout = RunLayout.at(run)
    if restore:
        for path in put_back(layout, kind, visit, ccd):
            typer.echo(f"{path}: identical, put back")
        return
    wanted = Wanted(kind, visit, ccd, band, stage)
    recreator = Recreator(layout)
    try:
        path = output or Path(_name(wanted))
        lock_path = path.absolute().with_name(path.stem + LOCK_SUFFIX)
        for target in (*recreator.targets(wanted, path), lock_path):
            refuse_existing(target, force=force)
        verdict = recreator.recreate(wanted, path)
        lock = lock_path if verdict.other_versions else None
        if lock is not None:
            recreator.write_lock(verdict.incarnation, lock)
    finally:
        recreator.close()
    _tell(verdict, lock, as_json=as_json)
    if not verdict.is_identical:
        raise typer.Exit(Exit.COULD_NOT_RUN if verdict.failure else Exit.NOT_VERIFIED)


def _name(wanted: Wanted) -> str:
    from mpipipe.store.layout import safe_name

    parts = [wanted.stage or wanted.kind, wanted.visit, wanted.ccd, wanted.band]
    # Not the name of a product: in a flat folder that would be the one that is there.
    return "again-" + "-".join(safe_name(str(part)) for part in parts if part is not None) + ".fits"


def _tell(verdict: Verdict, lock: Path | None, *, as_json: bool) -> None:
    if as_json:
        facts = {
            "label": verdict.label,
            "identical": verdict.is_identical,
            "files": [
                {"path": str(f.path), "identical": f.is_identical, "other_parts": f.other_parts}
                for f in verdict.files
            ],
            "differences": verdict.differences,
            "failure": verdict.failure,
            "lock": None if lock is None else str(lock),
        }
        typer.echo(json.dumps(facts))
        return
    for file in verdict.files:
        typer.echo(f"{file.path}: {_state(file)}")
    if verdict.failure:
        typer.echo(f"{verdict.label} can not be made again: {verdict.failure}", err=True)
    for line in verdict.differences:
        typer.echo(f"  {line}")
    if verdict.files and not verdict.is_identical and not verdict.differences:
        typer.echo("  although inputs, options, code and libraries are as they were")
    if lock is not None:
        typer.echo(f"  the environment it was made in: {lock} (pip install -r)")


def _state(file: Recreated) -> str:
    if file.is_identical is None:
        return "made; the run has not kept it, so there is nothing to compare"
    if file.is_identical:
        return "identical"
    if file.other_parts == ("PROVENANCE",):
        return "NOT the same file: the same pixels and values, but another PROVENANCE"
    parts = f" in {', '.join(file.other_parts)}" if file.other_parts else ""
    return f"NOT the same{parts}"
