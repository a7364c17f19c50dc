"""`mpipipe export`: tables of runs and single files in other formats, PSFs as FITS tables."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpipipe.cli.options import JsonOption, QuietOption
from mpipipe.cli.watch import Watch
from mpipipe.data.errors import ConfigError

if TYPE_CHECKING:
    from mpipipe.store.export.exporting import Format
    from mpipipe.store.layout import RunLayout

ALL = "all"


def export(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="Run folder, or a file: a table (.h5), a PSF (.fits)."),
    ],
    tables: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TABLE...", help="Published tables, or all; or psf. Behind a file: more files."
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="csv, fits, hats, json, parquet, postgresql, sqlite or votable; left out: as OUT "
            "ends.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="File, folder or URL to write to; left out: TABLE with the format's suffix here, "
            "and the server that PGHOST, PGUSER and PGDATABASE name.",
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option("--columns", metavar="NAMES", help="Only these, with commas between."),
    ] = None,
    visit: Annotated[int | None, typer.Option("--visit", metavar="V", help="Visit of psf.")] = None,
    ccd: Annotated[str | None, typer.Option("--ccd", metavar="C", help="CCD of psf.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace files and tables that exist.")
    ] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Export published tables: src, icSrc, object, source, badSource, their histories, any other.

    Memory is bounded however large a table is; a file or folder appears when it is whole, and
    tables of a server together. hats is Parquet in a folder, cut by sky cells. Databases get keys,
    indices and a column skyCell; several tables in one refer to each other. What is not known:
    NaN stays NaN (in SQLite: NULL, in JSON: null).

    \b
    Examples:
      mpipipe export RUN object --to parquet
      mpipipe export RUN src --to csv --columns id,ra,dec,psfFlux -o bright.csv
      mpipipe export RUN object source --to sqlite -o survey.sqlite
      mpipipe export RUN all --to postgresql -o postgresql://me@db.example.org/survey
      mpipipe export RUN psf --visit 100001 --ccd R22_S11 --to fits
      mpipipe export OUT/src-100001-R22_S11.h5 -o sources.csv
      mpipipe export OUT/src-*.h5 OUT/icSrc-*.h5 --to csv -o FOLDER
    """
    from mpipipe.store.export.exporting import format_for, load_format
    from mpipipe.store.layout import RunLayout

    if not run.exists():
        raise ConfigError("does not exist", file=run, way_out="give a run folder or files")
    to = to or format_for(output)
    layout, wanted = RunLayout.at(run), load_format(to)
    if tables == ["psf"] or run.suffix == ".fits":
        source = _psf_of(layout, visit, ccd) if tables == ["psf"] else run
        if tables not in (None, ["psf"]):
            raise ConfigError("one PSF is exported at a time", file=run)
        path = str(_export_psf(source, to, output, force=force))
        typer.echo(json.dumps({"psf": path}) if as_json else path)
        return
    if visit is not None or ccd is not None:
        raise ConfigError("--visit and --ccd go with psf")
    began = time.monotonic()
    files = [run, *map(Path, tables or ())] if run.is_file() else []
    if files:
        paths = {path.stem: path for path in files}
        if len(paths) < len(files):
            raise ConfigError("two of the files have the same name", file=run.parent)
    else:
        paths = _published(layout, tables or [])
    done = _export(
        paths,
        layout.root.name,
        wanted,
        output,
        None if columns is None else [name.strip() for name in columns.split(",")],
        together=wanted.HOLDS_MANY and not files,
        force=force,
        watch=None if quiet or as_json else Watch(),
    )
    seconds = time.monotonic() - began
    if as_json:
        rows = {name: n_rows for counts in done.values() for name, n_rows in counts.items()}
        targets = [_without_password(target) for target in done]
        typer.echo(json.dumps({"targets": targets, "rows": rows, "seconds": seconds}))
        return
    for target, counts in done.items():
        listed = ", ".join(f"{name} ({n_rows} rows)" for name, n_rows in counts.items())
        typer.echo(f"{_without_password(target) or 'server of the environment'}: {listed}")


def _without_password(target: str) -> str:
    """A file's path or a database's URL, fit to be seen."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", target)


def _published(layout: RunLayout, names: list[str]) -> dict[str, Path]:
    """Tables of a run, by name."""
    if not names:
        known = ", ".join([*layout.catalogues(), "psf"])
        raise ConfigError("say which table", file=layout.root, way_out=f"it has {known}; or all")
    if names == [ALL]:
        names = list(layout.catalogues())
    if not names:
        raise ConfigError("no table is published yet", file=layout.root)
    return {name: layout.published(name) for name in names}


def _export(
    paths: dict[str, Path],
    run_name: str,
    to: Format,
    output: str | None,
    columns: list[str] | None,
    *,
    together: bool,
    force: bool,
    watch: Watch | None,
) -> dict[str, dict[str, int]]:
    """Export tables together, or each by itself; rows by target and table."""
    from mpipipe.store.export.exporting import export_tables, refuse_existing

    names = list(paths)
    if columns is not None and len(names) > 1:
        raise ConfigError("--columns goes with one table")
    if not to.SUFFIX:
        members_of = {output or "": names}
    elif together or len(names) == 1:
        stem = names[0] if len(names) == 1 else run_name
        members_of = {output or f"{stem}{to.SUFFIX}": names}
    else:
        members_of = {str(Path(output or ".") / f"{name}{to.SUFFIX}"): [name] for name in names}
    if to.SUFFIX:
        for target in members_of:
            refuse_existing(Path(target), force=force)
    return {
        target: export_tables(
            [paths[name] for name in members],
            to,
            target,
            columns=columns,
            force=force,
            watch=watch,
        )
        for target, members in members_of.items()
    }


def _psf_of(layout: RunLayout, visit: int | None, ccd: str | None) -> Path:
    """The file of a PSF in a run."""
    if visit is None or ccd is None:
        raise ConfigError("a PSF is exported by --visit V --ccd C --to fits")
    source = layout.image("psf", visit, ccd)
    if not source.is_file():
        raise ConfigError(
            f"has no PSF of visit {visit}, CCD {ccd}",
            file=layout.root,
            way_out=f"mpipipe status {layout.root} tells what is there",
        )
    return source


def _export_psf(source: Path, to: str, output: str | None, *, force: bool) -> Path:
    """Give out a PSF model, which is kept as a FITS table."""
    import shutil

    from mpipipe.store.export.exporting import placed_aside, refuse_existing
    from mpipipe.store.psf import read_psf

    if to != "fits":
        raise ConfigError("a PSF is a FITS table and nothing else", key="--to", way_out="--to fits")
    read_psf(source)
    target = Path(output or source.name)
    refuse_existing(target, force=force)
    with placed_aside(target) as aside:
        shutil.copyfile(source, aside)
    return target
