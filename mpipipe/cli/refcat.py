"""`mpipipe refcat`: reference catalogues out of star catalogues, and what is in them."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpipipe.cli.options import JsonOption, QuietOption
from mpipipe.cli.watch import Watch

if TYPE_CHECKING:
    from mpipipe.data.refcat import ReferenceStars
    from mpipipe.run.refcat_from_run import FromRun
    from mpipipe.stages.selfref.catalogue import FrameReport
    from mpipipe.store.refcat.index import Index
    from mpipipe.store.refcat.ingest import Ingest

app = typer.Typer(help="Make reference catalogues, and look at them.", no_args_is_help=True)


@app.command()
def ingest(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="FITS, Parquet, CSV, ECSV or VOTable files of stars, or folders of such files.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="REFCAT", help="Folder to make.")
    ],
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            metavar="OURS=THEIRS[:UNIT][+OFFSET]",
            help="What a column of the files is, e.g. ra=RAJ2000, mag_r=rmag.",
        ),
    ] = None,
    epoch: Annotated[
        float | None,
        typer.Option(
            metavar="YEAR|MJD", help="Epoch of the positions, if no column of the files tells."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the catalogue; left out: that of the folder.")
    ] = None,
    relative: Annotated[
        bool,
        typer.Option("--relative", help="Positions and zero points are not absolute."),
    ] = False,
    max_rows: Annotated[int, typer.Option(help="Stars of a shard, at most.", min=1)] = 100_000,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a reference catalogue of stars, cut by place on the sky, for --refcat of run.

    Columns are recognised by the names that they have in Gaia's archive, at VizieR and in
    Pan-STARRS; --column tells others. Ours are id, ra, dec (deg, ICRS), ra_error, dec_error (mas),
    pm_ra (with cos(dec)), pm_dec and their errors (mas/yr), parallax (mas), epoch (Julian year, JD
    or MJD), and mag_BAND and mag_BAND_error (AB) for any band. Units are those that the file
    tells, or follow the column after a colon (deg, hourangle, rad, mas, arcsec); a number with a
    sign is added. Gaia's magnitudes become mag_gaia_g, mag_gaia_bp and mag_gaia_rp, brought from
    Vega to AB by +0.1137, +0.0154 and +0.3561 mag (DR3).

    Any number of stars will do: memory is bounded, and a task of a run reads the shards that its
    field touches. Nothing half-made stays after an interrupt.

    \b
    Examples:
      mpipipe refcat ingest gaia.csv -o REFCAT
      mpipipe refcat ingest SIM/refcat -o REFCAT --name simulated
      mpipipe refcat ingest stars.fits -o REFCAT --column ra=RAJ2000 --column dec=DEJ2000 \\
          --column mag_r=rmag+0.02 --epoch 2000.0
      mpipipe refcat ingest stars.csv -o REFCAT --column ra=RA:hourangle --column dec=Dec
    """
    from mpipipe.store.refcat.columns import Wish, epoch_mjd
    from mpipipe.store.refcat.ingest import Ingest

    wishes = [Wish.parse(text) for text in column or ()]
    mjd = float("nan") if epoch is None else epoch_mjd(epoch)
    work = Ingest(files, wishes, mjd)
    began = time.monotonic()
    index = work.write(
        output,
        name or output.absolute().name,
        is_absolute=not relative,
        max_rows=max_rows,
        watch=None if quiet or as_json else Watch("stars"),
    )
    seconds = time.monotonic() - began
    if as_json:
        typer.echo(json.dumps({"refcat": str(output), **_facts(index), "seconds": seconds}))
    else:
        _report(index, work, output)


def _report(index: Index, work: Ingest, output: Path) -> None:
    typer.echo(f"{index.n_rows} stars in {len(index.shards)} shards in {output}")
    if work.n_unplaced:
        typer.echo(f"left out: {work.n_unplaced} rows without a position")
    if n_twice := index.made["duplicates_left_out"]:
        typer.echo(f"left out: {n_twice} rows that stand twice, by their ids")
    for note in work.notes:
        typer.echo(f"note: {note}")


@app.command("from-run")
def from_run(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="REFCAT", help="Folder to make.")
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the catalogue; left out: that of the folder.")
    ] = None,
    frames: Annotated[bool, typer.Option("--frames", help="Show every frame.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a reference catalogue of the stars that a run's own frames show.

    For fields without a catalogue. Frames are brought together by their stars, beginning with one
    whose header has a WCS; others need a WCS or a rough pointing, or stars of such a frame.
    Positions and magnitudes are relative: frames agree with each other, and with the sky as well
    as their headers in the mean. In every band a star of 25 mag gives one electron a second in
    the clearest frame. Exposures that are calibrated with it say so (WCSREL, MAGREL).

    The run then goes on with the catalogue: only what is measured on the calexp is done again.

    \b
    Example, from raw frames to positions and zero points that agree:
      mpipipe run RAW -o RUN
      mpipipe refcat from-run RUN -o REFCAT --frames
      mpipipe run --resume RUN --refcat REFCAT

    Exit codes: 0 all frames have a place; 3 some have none; 1 no catalogue could be made.
    """
    from mpipipe.cli.exits import Exit
    from mpipipe.run.refcat_from_run import refcat_from_run
    from mpipipe.store.layout import RunLayout

    made = refcat_from_run(RunLayout.at(run), output, name or output.absolute().name)
    if as_json:
        typer.echo(json.dumps(_without_nan({"refcat": str(output), **_facts_of_run(made)})))
    else:
        _print_made(made, with_frames=frames)
        typer.echo(f"{made.index.n_rows} stars in {output}; positions and magnitudes are relative")
        typer.echo(f"go on with: mpipipe run --resume {run} --refcat {output}")
    if made.catalogue.n_lost or made.without_calexp:
        raise typer.Exit(Exit.WITH_FAILURES)


def _facts_of_run(made: FromRun) -> dict[str, object]:
    from dataclasses import asdict

    found = made.catalogue
    return {
        **_facts(made.index),
        "groups": found.n_groups,
        "parts": found.n_parts,
        "left_out": found.n_left_out,
        "on_detector": found.n_on_detector,
        "rms_pixels": found.rms,
        "without_calexp": list(made.without_calexp),
        "frames": [asdict(report) for report in found.frames],
    }


def _print_made(made: FromRun, with_frames: bool) -> None:
    found = made.catalogue
    if with_frames:
        _print_frames(found.frames)
    for label in made.without_calexp:
        typer.echo(f"no calexp: {label}")
    lost = [report for report in found.frames if report.group is None]
    for report in lost[: None if with_frames else 20]:
        typer.echo(f"no place: visit {report.visit} {report.ccd}: {report.reason}")
    n_frames, n_groups = len(found.frames), found.n_groups
    groups = "1 group" if n_groups == 1 else f"{n_groups} groups"
    typer.echo(f"{n_frames - found.n_lost} of {n_frames} frames in {groups}")
    for band, n_parts in found.n_parts.items():
        if n_parts > 1:
            typer.echo(f"band {band}: {n_parts} parts share no stars, each has its own zero")
    typer.echo(
        f"internal rms {found.rms:.3f} pixels an axis (SNR > 50); left out: "
        f"{found.n_left_out} stars seen too rarely, "
        f"{found.n_on_detector} detections that stay on the detector"
    )


def _print_frames(frames: Sequence[FrameReport]) -> None:
    """A line a frame: how it agrees with the others, and how clear it was."""
    typer.echo(
        f"{'visit':>20} {'ccd':>8} {'band':>5} {'group':>5} {'order':>5} {'stars':>5} "
        f"{'rms px':>7} {'header':>8} {'zero point':>17} {'extinction':>10}"
    )
    for report in frames:
        group = "-" if report.group is None else str(report.group)
        zero = f"{report.zero_point:.3f} +- {report.zero_point_error:.3f}"
        typer.echo(
            f"{report.visit:20d} {report.ccd:>8} {report.band:>5} {group:>5} {report.order:5d} "
            f'{report.n_stars:5d} {report.rms:7.3f} {report.header_offset:7.2f}" {zero:>17} '
            f"{report.extinction:10.3f}"
        )


def _without_nan(value: object) -> object:
    """The same with None for what is not known: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and value != value else value


@app.command()
def show(
    refcat: Annotated[Path, typer.Argument(metavar="REFCAT", help="Reference catalogue.")],
    cone: Annotated[
        tuple[float, float, float] | None,
        typer.Option(metavar="RA DEC RADIUS", help="Show the stars of a cone (degrees)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what is in a reference catalogue, and which stars are in a cone.

    \b
    Examples:
      mpipipe refcat show REFCAT
      mpipipe refcat show REFCAT --cone 150.1 2.2 0.05
    """
    from mpipipe.store.refcat.index import read_index
    from mpipipe.store.refcat.reading import read_reference

    index = read_index(refcat)
    if cone is None:
        if as_json:
            typer.echo(json.dumps(_facts(index)))
        else:
            _print(index)
        return
    stars, checksums = read_reference(refcat, *cone)
    if as_json:
        names = stars.rows.dtype.names or ()
        columns = {name: stars.rows[name].tolist() for name in names}
        none = {name: [None if v != v else v for v in values] for name, values in columns.items()}
        typer.echo(json.dumps({"shards": [str(path) for path in checksums], "stars": none}))
    else:
        _print_stars(stars, len(checksums))


def _facts(index: Index) -> dict[str, object]:
    return {
        "name": index.name,
        "stars": index.n_rows,
        "bands": list(index.bands),
        "is_absolute": index.is_absolute,
        "shards": len(index.shards),
        "made": dict(index.made),
    }


def _print(index: Index) -> None:
    kind = "" if index.is_absolute else ", relative: positions and zero points are not absolute"
    typer.echo(f"{index.name}: {index.n_rows} stars{kind}")
    typer.echo(f"bands: {', '.join(index.bands) or 'none'}")
    orders = sorted(Counter(index.shards.order.tolist()).items())
    listed = ", ".join(f"{number} of order {order}" for order, number in orders)
    typer.echo(f"shards (HEALPix, nested): {listed}")
    for source in index.made.get("sources", ()):
        typer.echo(f"from {source['file']}: {source['n_rows']} rows")
        typer.echo("  " + ", ".join(f"{ours}={text}" for ours, text in source["columns"].items()))
    for note in index.made.get("notes", ()):
        typer.echo(f"note: {note}")


def _print_stars(stars: ReferenceStars, n_shards: int) -> None:
    """The brightest stars in the first band, and how many there are."""
    import numpy as np

    typer.echo(f"{stars.name}: {len(stars)} stars, in {n_shards} shards")
    rows = stars.rows
    if stars.bands:
        rows = rows[np.argsort(rows[f"mag_{stars.bands[0]}"], kind="stable")]
    if len(rows):
        bands = "".join(f"{band:>10}" for band in stars.bands)
        typer.echo(f"{'id':>20} {'ra':>12} {'dec':>12}{bands}")
    for row in rows[:20]:
        magnitudes = "".join(f"{row[f'mag_{band}']:10.3f}" for band in stars.bands)
        typer.echo(f"{row['id']:20d} {row['ra']:12.7f} {row['dec']:12.7f}{magnitudes}")
    if len(rows) > 20:
        typer.echo(f"... and {len(rows) - 20} fainter ones (--json lists all)")
