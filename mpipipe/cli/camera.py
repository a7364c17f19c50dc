"""`mpipipe camera`: list the built-in cameras, check and draw a description."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpipipe.cli.options import JsonOption

if TYPE_CHECKING:
    from mpipipe.data.camera import Camera, Channel

app = typer.Typer(help="List, check and draw camera descriptions.", no_args_is_help=True)


@app.command("list")
def list_cameras(as_json: JsonOption = False) -> None:
    """List the built-in cameras.

    Example: mpipipe camera list
    """
    from mpipipe.store.cameras import builtin_cameras, load_camera

    cameras = [load_camera(name) for name in builtin_cameras()]
    if as_json:
        typer.echo(json.dumps({camera.name: camera.description for camera in cameras}))
        return
    width = max(len(camera.name) for camera in cameras)
    for camera in cameras:
        typer.echo(f"{camera.name:<{width}}  {camera.description}")


@app.command()
def check(
    file: Annotated[
        str | None,
        typer.Argument(metavar="FILE", help="A camera description (TOML), or a built-in camera."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="PNG", help="Draw the layout into this file."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what every key of a description means.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a camera description, say how it was understood, and draw its layout.

    \b
    Examples:
      mpipipe camera check mine.toml -o layout.png
      mpipipe camera check --explain
    """
    from mpipipe.data.errors import ConfigError

    if explain:
        _explain()
        return
    if file is None:
        raise ConfigError(
            "there is nothing to check",
            way_out="mpipipe camera check FILE; --explain says what to write into it",
        )
    from mpipipe.store.cameras import load_camera

    camera = load_camera(file)
    if output is not None:
        from mpipipe.quality.camera_layout import draw_camera
        from mpipipe.store.fits import write_bytes_atomically

        write_bytes_atomically(output, draw_camera(camera))
    if as_json:
        typer.echo(camera.model_dump_json())
        return
    _print(camera)
    if output is not None:
        typer.echo(f"layout drawn in {output}")


def _print(camera: Camera) -> None:
    from mpipipe.store.cameras import builtin_cameras

    typer.echo(f"{camera.name}: {camera.description}")
    typer.echo(
        f"  {camera.kind}, format {camera.format.value}, {camera.pixel_scale:g} arcsec a pixel, "
        f"{camera.n_snaps} snap{'s' * (camera.n_snaps > 1)} a visit"
    )
    for name, kind in camera.types.items():
        members = [detector for detector in camera.detectors if detector.type == name]
        # Where sizes differ from file to file, the description has a number no CCD has.
        size = "any size" if max(kind.size) > 50_000 else f"{kind.size[0]} x {kind.size[1]}"
        numbers = sorted(detector.number for detector in members)
        typer.echo(
            f"\n  type {name}: {size}, {len(members)} CCDs (numbers {numbers[0]} to {numbers[-1]})"
            if members
            else f"\n  type {name}: {size}, no CCD uses it"
        )
        rows = [_row(channel) for channel in kind.channels]
        heads = ("channel", "data", "bias", "on the CCD", "gain", "noise", "saturation")
        widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
        for row in [heads, *rows]:
            typer.echo(
                "    " + "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True))
            )
    typer.echo("\n  corrections: " + ", ".join(f"{k} {v.value}" for k, v in camera.corrections))
    for note in _notes(camera):
        typer.echo(f"  note: {note}")
    base = camera.name if camera.name in builtin_cameras() else "generic"
    typer.echo(
        f'\nThe description is sound. To make one like it: a TOML file with base = "{base}",\n'
        "its own name, and what differs; mpipipe camera check --explain says what each key means."
    )


def _row(channel: Channel) -> tuple[str, ...]:
    def text(value: object) -> str:
        return (
            "header" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
        )

    return (
        channel.name,
        text(channel.datasec),
        text(channel.biassec),
        text(channel.detsec),
        text(channel.gain),
        text(channel.read_noise),
        text(channel.saturation),
    )


def _notes(camera: Camera) -> list[str]:
    """What the user may not expect."""
    from mpipipe.data.camera import Need

    notes = []
    if not camera.instrument and not camera.recognise:
        notes.append(f"frames are not recognised by themselves: give --camera {camera.name}")
    if not camera.image_types:
        notes.append("image_types is empty: no frame will be accepted")
    if not camera.filters:
        notes.append("filters is empty: filter names are taken from the header as they are")
    channels = [channel for kind in camera.types.values() for channel in kind.channels]
    if camera.kind == "raw" and any(channel.gain is None for channel in channels):
        notes.append("a gain that no header tells comes from photon transfer on pairs of flats")
    required = [name for name, need in camera.corrections if need is Need.REQUIRE]
    masters = [name for name in required if name in ("bias", "dark", "flat", "defects")]
    if masters:
        notes.append(f"a frame without a master {' or '.join(masters)} is bad data")
    return notes


def _explain() -> None:
    from mpipipe.data.camera import Camera
    from mpipipe.data.describe import describe, parts_of

    typer.echo(
        "A camera is a TOML file. The shortest one changes a built-in camera:\n\n"
        '    base = "generic"\n    name = "mine"\n    pixel_scale = 0.4\n'
    )
    for model in parts_of(Camera):
        first = (model.__doc__ or "").strip().splitlines()[0]
        typer.echo(f"{model.__name__}: {first}")
        for field in describe(model):
            default = f", default {field.default}" if field.default not in ("", "required") else ""
            must = ", required" if field.default == "required" else ""
            typer.echo(f"    {field.name} ({field.type}{must}{default})")
            if field.meaning:
                typer.echo(f"        {field.meaning}")
        typer.echo("")
