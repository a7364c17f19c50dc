"""`mpipipe config`: show, compare and explain the configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Show, compare and explain the configuration.", no_args_is_help=True)

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set one option, e.g. isr.dark.enabled=false."),
]
FileOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="Configuration file (TOML), or a run."),
]


@app.command()
def show(
    file: FileOption = None,
    assignments: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the whole configuration, every option under its description.

    \b
    Examples:
      mpipipe config show --set isr.dark.enabled=false > my.toml
      mpipipe config show --config RUN
    """
    from mpipipe.run.config import load_config, to_toml

    config = load_config(_file_of(file), assignments or ())
    typer.echo(
        json.dumps(config.model_dump(mode="json")) if as_json else to_toml(config), nl=as_json
    )


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(help="A configuration file or a run folder.")],
    second: Annotated[
        Path | None, typer.Argument(help="Another one; left out: the defaults.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the options in which two configurations differ: of runs, files, or the defaults.

    A file may hold some options only; the others have their defaults.

    \b
    Examples:
      mpipipe config diff RUN1 RUN2
      mpipipe config diff RUN my.toml
      mpipipe config diff RUN
    """
    from mpipipe.run.config import load_config, options

    def read(path: Path | None) -> dict[str, object]:
        return {key: value for key, value, _ in options(load_config(_file_of(path)))}

    ours, theirs = read(first), read(second)
    found = {k: (value, theirs[k]) for k, value in ours.items() if value != theirs[k]}
    if as_json:
        typer.echo(json.dumps(found, default=str))
        return
    for key, (one, other) in found.items():
        typer.echo(f"{key}: {_shown(one)} | {_shown(other)}")
    if not found:
        typer.echo(f"{first} and {second or 'the defaults'} do not differ", err=True)


def _file_of(path: Path | None) -> Path | None:
    """The configuration file of a run, or the file itself."""
    from mpipipe.data.errors import ConfigError
    from mpipipe.store.layout import RunLayout

    if path is None or not path.is_dir():
        return path
    file = RunLayout.at(path).config
    if not file.is_file():
        raise ConfigError("is no run folder", file=path, way_out="give a run or a TOML file")
    return file


def _shown(value: object) -> str:
    from mpipipe.run.config import toml_value

    return "(unset)" if value is None else toml_value(value)


@app.command()
def explain(
    key: Annotated[str, typer.Argument(help="An option or a group, e.g. isr or isr.overscan.")],
) -> None:
    """Say what an option means, and its default.

    \b
    Examples:
      mpipipe config explain isr.overscan
      mpipipe config explain sfm.measurements
    """
    import difflib

    from mpipipe.data.errors import ConfigError
    from mpipipe.run.config import load_config, options

    rows = list(options(load_config()))
    found = [row for row in rows if row[0] == key or row[0].startswith(f"{key}.")]
    if not found:
        # A pipeline and an option tell the stage where only one has it.
        pipeline, _, option = key.partition(".")
        ends = [row for row in rows if row[0].startswith(f"{pipeline}.")]
        ends = [row for row in ends if option and row[0].endswith(f".{option}")]
        found = ends if len(ends) == 1 else []
    if not found:
        near = difflib.get_close_matches(key, [row[0] for row in rows], n=1)
        hint = f"did you mean {near[0]}?" if near else "mpipipe config show lists all"
        raise ConfigError("there is no such option", key=key, way_out=hint)
    for name, value, description in found:
        typer.echo(f"{name} = {'(unset)' if value is None else value}\n    {description}")
