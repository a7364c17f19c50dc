"""`mpipipe show`: look at a product."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mpipipe.run.context import RunContext
    from mpipipe.run.task import Task
    from mpipipe.store.layout import RunLayout


def show(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    kind: Annotated[str, typer.Argument(help="calexp")] = "calexp",
    visit: Annotated[
        int | None, typer.Option("--visit", metavar="V", help="Visit; left out: the first.")
    ] = None,
    ccd: Annotated[
        str | None, typer.Option("--ccd", metavar="C", help="CCD; left out: the first.")
    ] = None,
    panels: Annotated[
        str | None,
        typer.Option(
            "--with",
            metavar="NAMES",
            help="Draw instead how it was calibrated: any of stars, psf, wcs, photometry, "
            "with commas between.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PNG",
            help="File to write; left out: in RUN/pictures. Several panels become PNG-stars.png "
            "and so on.",
        ),
    ] = None,
) -> None:
    """Draw an exposure before and after calibration, with its mask, or its calibration, as PNG.

    stars: the exposure, its stars marked by what they were used for. psf: the PSF over the CCD and
    what it leaves of stars. wcs: residuals of positions. photometry: residuals of the zero point.

    \b
    Examples:
      mpipipe show RUN calexp
      mpipipe show RUN calexp --visit 100001 --ccd R22_S11 -o picture.png
      mpipipe show RUN calexp --with stars,psf,wcs,photometry
      mpipipe show RUN calexp --visit 100001 --with wcs -o wcs.png
    """
    from mpipipe.data.errors import ConfigError
    from mpipipe.store.layout import RunLayout, safe_name

    if kind != "calexp":
        raise ConfigError(f"there is no picture of {kind!r}", way_out="mpipipe show RUN calexp")
    names = None if panels is None else _known(panels)
    layout = RunLayout.at(run)
    context, task = _find(layout, kind, visit, ccd)
    path = output or layout.root / "pictures" / f"{kind}-{task.visit}-{safe_name(task.ccd)}.png"
    if names is None:
        _draw_before_after(path, context, task)
    else:
        _draw_panels(path, names, context, task, is_exact=output is not None and len(names) == 1)


def _known(text: str) -> list[str]:
    """The names of panels in what the user wrote, each once."""
    from mpipipe.data.errors import ConfigError
    from mpipipe.data.validation import nearest
    from mpipipe.quality.panels.draw import PANELS

    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in PANELS:
            near = nearest(name, PANELS)
            hint = f"did you mean {near!r}?" if near else f"known are {', '.join(PANELS)}"
            raise ConfigError(f"there is no panel {name!r}", key="--with", way_out=hint)
    if not names:
        raise ConfigError("names no panel", key="--with", way_out=f"known are {', '.join(PANELS)}")
    return names


def _find(
    layout: RunLayout, kind: str, visit: int | None, ccd: str | None
) -> tuple[RunContext, Task]:
    """The first task of this visit and CCD that has a product of the kind."""
    from mpipipe.data.errors import ConfigError
    from mpipipe.run.plan import load_run

    context, plan = load_run(layout)
    wanted = [
        task
        for task in plan.tasks
        if task.phase == "calibrate" and visit in (None, task.visit) and ccd in (None, task.ccd)
    ]
    for task in wanted:
        if layout.image(kind, task.visit, task.ccd).exists():
            return context, task
    raise ConfigError(
        f"has no {kind} of visit {visit}, CCD {ccd}"
        if wanted
        else f"its plan has no visit {visit} with CCD {ccd}",
        file=layout.root,
        way_out=f"mpipipe recreate {layout.root} {kind} --restore, if it was removed by slim; "
        f"ls {layout.root}/{kind} shows what is there",
    )


def _draw_before_after(path: Path, context: RunContext, task: Task) -> None:
    from mpipipe.quality.preview import draw_before_after, raw_mosaic
    from mpipipe.store.images import read_exposure
    from mpipipe.store.raw import read_calibrated, read_frame

    calexp = read_exposure(context.layout.image("calexp", task.visit, task.ccd))
    if context.camera.kind == "calibrated":
        before = read_calibrated(task.frames[0], context.camera).image
    else:
        before = raw_mosaic(read_frame(task.frames[0], context.camera))
    draw_before_after(path, before, calexp)
    typer.echo(str(path))


def _draw_panels(
    path: Path, names: list[str], context: RunContext, task: Task, *, is_exact: bool
) -> None:
    from mpipipe.quality.panels.characterization import read_characterization
    from mpipipe.quality.panels.draw import draw_panel

    found = read_characterization(context.layout, task.visit, task.ccd)
    if found.sources is None:
        typer.echo(found.no_catalogue, err=True)
    for name in names:
        panel = path if is_exact else path.with_name(f"{path.stem}-{name}.png")
        draw_panel(panel, name, found)
        typer.echo(str(panel))
