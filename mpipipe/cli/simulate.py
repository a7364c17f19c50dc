"""`mpipipe simulate`: raw data with truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpipipe.cli.exits import Exit
from mpipipe.cli.options import QuietOption

if TYPE_CHECKING:
    from mpipipe.sim.survey import Survey


def simulate(
    context: typer.Context,
    out: Annotated[
        Path | None,
        typer.Argument(
            metavar="OUT | describe OUT",
            help="Folder to fill, or to describe; one that is begun is continued.",
        ),
    ] = None,
    described: Annotated[Path | None, typer.Argument(hidden=True)] = None,
    preset: Annotated[
        str, typer.Option(help="tiny, small, full, wide, deep-drilling, cloudy or crowded.")
    ] = "small",
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 1,
    visits: Annotated[int | None, typer.Option(help="Number of visits.")] = None,
    ccds: Annotated[int | None, typer.Option(help="Number of CCDs.")] = None,
    bands: Annotated[str | None, typer.Option(help="Bands in turn, e.g. g,r.")] = None,
    seeing: Annotated[
        str | None, typer.Option(help="Seeing in arcsec: one number or a range, e.g. 0.7,1.0.")
    ] = None,
    sky: Annotated[float | None, typer.Option(help="Factor on the sky brightness.")] = None,
    star_density: Annotated[
        float | None, typer.Option(help="Stars at r = 20 per magnitude and arcmin2.")
    ] = None,
    galaxy_density: Annotated[
        float | None, typer.Option(help="Galaxies at r = 24 per magnitude and arcmin2.")
    ] = None,
    clouds: Annotated[float | None, typer.Option(help="Largest extinction by clouds, mag.")] = None,
    raw_format: Annotated[
        str | None,
        typer.Option("--format", help="Raw format: channel-files, mef, amps-in-hdu or single."),
    ] = None,
    gzip: Annotated[bool, typer.Option(help="Compress raw files.")] = False,
    truth_images: Annotated[
        bool, typer.Option(help="Write the noise-free image of every visit and CCD.")
    ] = True,
    truth: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the truth [OUT/truth].")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set any option of the simulator."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on in OUT by the options it was begun with.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="With describe: draw what is in it, too."),
    ] = None,
    show_options: Annotated[
        bool, typer.Option("--options", help="List all options with their values and end.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Simulate raw data, calibration frames and a reference catalogue, with truth beside them.

    The same options give the same bytes, with any number of processes; run again, it goes on
    where it was stopped.

    \b
    Examples:
      mpipipe simulate SIM --preset tiny --seed 7
      mpirun -n 8 mpipipe simulate SIM --preset small --set cosmic_rays=1.0
      mpirun -n 8 mpipipe simulate SIM --resume
      mpipipe simulate describe SIM --plot sim.png
    """
    from mpipipe.data.errors import ConfigError
    from mpipipe.sim.tasks import SimFolder, begun_simulation

    if out == Path("describe") and described is not None:
        _describe(described, truth, plot)
        return
    if described is not None or plot is not None:
        raise ConfigError(
            "one folder is simulated at a time, and --plot goes with describe",
            way_out="mpipipe simulate describe OUT --plot FILE.png",
        )

    changes: dict[str, Any] = {
        "seed": seed,
        "n_visits": visits,
        "n_ccds": ccds,
        "sky": sky,
        "star_density": star_density,
        "galaxy_density": galaxy_density,
        "clouds": clouds,
        "format": raw_format,
        "gzip": gzip or None,
        "truth_images": truth_images,
    }
    survey = _survey(preset, changes, bands, seeing, assignments or [])
    if show_options:
        _print_options(survey)
        return
    if out is None:
        raise ConfigError("needs a folder to fill", way_out="mpipipe simulate OUT --preset tiny")
    folder = SimFolder.at(out, truth)
    if resume:
        _refuse_options(context)
        survey, folder = begun_simulation(out, truth)
    from mpipipe.cli.drive import warn_of_threads
    from mpipipe.cli.simulation import simulate_on_ranks
    from mpipipe.parallel.together import FailedOnMasterError

    warn_of_threads()
    try:
        result = simulate_on_ranks(survey, folder, quiet=quiet)
    except FailedOnMasterError as error:
        raise typer.Exit(Exit.COULD_NOT_RUN) from error
    if result.interrupted or result.n_failed:
        if result.is_master:
            what = "interrupted" if result.interrupted else f"{result.n_failed} tasks failed"
            typer.echo(f"{what}; go on with: mpipipe simulate {out} --resume", err=True)
        raise typer.Exit(Exit.RESUME_ME if result.interrupted else Exit.WITH_FAILURES)
    if result.is_master and not quiet:
        typer.echo(f"raw frames: {folder.raw}")
        typer.echo(f"reference stars: {folder.refcat}")
        typer.echo(f"truth: {folder.truth}")


_WITH_RESUME = ("context", "out", "truth", "resume", "quiet")


def _refuse_options(context: typer.Context) -> None:
    """With --resume the folder's own options hold."""
    from mpipipe.data.errors import ConfigError

    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in _WITH_RESUME and source is not None and source.name == "COMMANDLINE":
            raise ConfigError(
                "the folder's own options hold when it is resumed",
                key=f"--{name.replace('_', '-')}",
                way_out="leave it out, or fill another folder",
            )


def _describe(root: Path, truth: Path | None, plot: Path | None) -> None:
    """Tell what is in a simulation."""
    from mpipipe.sim.describe import lines_of, read_simulation

    found = read_simulation(root, truth)
    for line in lines_of(found):
        typer.echo(line)
    if plot is not None:
        from mpipipe.sim.picture import draw

        draw(found, plot)
        typer.echo(f"drawn: {plot}")


def _survey(
    preset_name: str,
    changes: dict[str, Any],
    bands: str | None,
    seeing: str | None,
    assignments: list[str],
) -> Survey:
    """The preset with the options of the command line; ``--set`` has the last word."""
    from mpipipe.data.errors import ConfigError
    from mpipipe.sim.survey import parse_option, preset

    changes = {key: value for key, value in changes.items() if value is not None}
    if bands is not None:
        changes["bands"] = parse_option("bands", bands)
    if seeing is not None:
        low, _, high = seeing.partition(",")
        changes["seeing_min"] = parse_option("seeing_min", low)
        changes["seeing_max"] = parse_option("seeing_max", high or low)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"{assignment!r} is not KEY=VALUE", key="--set")
        changes[key.strip()] = parse_option(key.strip(), text)
    if "n_visits" in changes and "streaks" not in changes:
        from mpipipe.sim.survey import PRESETS

        planned = PRESETS.get(preset_name, {}).get("streaks", ())
        changes["streaks"] = tuple(k for k in planned if k < changes["n_visits"])
    return preset(preset_name, **changes)


def _print_options(survey: Survey) -> None:
    """One line an option: name, value, meaning."""
    import dataclasses

    from mpipipe.sim.survey import help_of

    for entry in dataclasses.fields(survey):
        value = getattr(survey, entry.name)
        shown = ",".join(str(part) for part in value) if isinstance(value, tuple) else str(value)
        typer.echo(f"{entry.name} = {shown}  # {help_of(entry.name)}")
