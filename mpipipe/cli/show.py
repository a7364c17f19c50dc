"""`mpipipe show`: look at a product."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def show(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    kind: Annotated[str, typer.Argument(help="calexp")] = "calexp",
    visit: Annotated[
        int | None, typer.Option("--visit", metavar="V", help="Visit; left out: the first.")
    ] = None,
    ccd: Annotated[
        str | None, typer.Option("--ccd", metavar="C", help="CCD; left out: the first.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="PNG", help="File to write.")
    ] = None,
) -> None:
    """Draw an exposure before and after calibration, with its mask, as PNG.

    \b
    Examples:
      mpipipe show RUN calexp
      mpipipe show RUN calexp --visit 3 --ccd R22_S11 -o picture.png
    """
    from mpipipe.data.errors import ConfigError
    from mpipipe.quality.preview import draw_before_after, raw_mosaic
    from mpipipe.run.plan import load_run
    from mpipipe.store.images import read_exposure
    from mpipipe.store.layout import RunLayout
    from mpipipe.store.raw import read_calibrated, read_frame

    if kind != "calexp":
        raise ConfigError(f"there is no picture of {kind!r}", way_out="mpipipe show RUN calexp")
    layout = RunLayout.at(run)
    context, plan = load_run(layout)
    wanted = [
        task
        for task in plan.tasks
        if task.phase == "calibrate" and visit in (None, task.visit) and ccd in (None, task.ccd)
    ]
    found = [task for task in wanted if layout.image(kind, task.visit, task.ccd).exists()]
    if not found:
        raise ConfigError(
            f"has no {kind} of visit {visit}, CCD {ccd}"
            if wanted
            else f"its plan has no visit {visit} with CCD {ccd}",
            file=layout.root,
            way_out=f"ls {layout.root}/{kind} shows what is there",
        )
    task = found[0]
    calexp = read_exposure(layout.image(kind, task.visit, task.ccd))
    path = output or layout.root / "pictures" / f"{kind}-{task.visit}-{task.ccd}.png"
    if context.camera.kind == "calibrated":
        before = read_calibrated(task.frames[0], context.camera).image
    else:
        before = raw_mosaic(read_frame(task.frames[0], context.camera))
    draw_before_after(path, before, calexp)
    typer.echo(str(path))
