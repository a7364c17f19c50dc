"""Options that several commands share, with the same words everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpipipe.data.errors import ConfigError

RawArgument = Annotated[
    Path | None,
    typer.Argument(metavar="RAW", help="Folder of raw frames, or a text file that lists them."),
]
CameraOption = Annotated[
    str | None,
    typer.Option(
        "--camera",
        metavar="C",
        help="Built-in camera or TOML file; left out: recognised by header.",
    ),
]
CalibsOption = Annotated[
    Path | None,
    typer.Option("--calibs", metavar="D", help="Folder of masters made by `mpipipe calibs`."),
]
RefcatOption = Annotated[
    Path | None,
    typer.Option(
        "--refcat", metavar="D", help="Reference catalogue made by `mpipipe refcat ingest`."
    ),
]
BandwidthOption = Annotated[
    float | None,
    typer.Option("--bandwidth", min=1e-9, metavar="GB/s", help="Of the file system, in all."),
]
LifetimeOption = Annotated[
    float | None,
    typer.Option("--lifetime", min=1e-6, metavar="HOURS", help="Mean life of a rank; endless."),
]
RecoveryOption = Annotated[
    float, typer.Option("--recovery", min=0.0, metavar="S", help="Seconds after a loss.")
]
ForcedOption = Annotated[
    Path | None,
    typer.Option(
        "--forced",
        metavar="D",
        help="Measure also at the positions of this catalogue, made by `mpipipe refcat ingest`.",
    ),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="F", help="Configuration file (TOML).")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set one option, e.g. isr.dark.enabled=false."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")]
VisitOption = Annotated[
    int | None, typer.Option("--visit", metavar="V", help="Visit; left out: the first.")
]
CcdOption = Annotated[
    str | None, typer.Option("--ccd", metavar="C", help="CCD; left out: the first.")
]
BandOption = Annotated[
    str | None, typer.Option("--band", metavar="B", help="Band of a master flat.")
]
IncarnationOption = Annotated[
    int | None,
    typer.Option("--incarnation", metavar="N", help="Start of the run; left out: the last."),
]
CostsOption = Annotated[
    Path | None,
    typer.Option(
        "--costs", metavar="RUN", help="Expect tasks to cost what they did in this earlier run."
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        metavar="N",
        help="Processes; left out: as many as there are cores. Products are the same.",
        min=1,
    ),
]
AgainOption = Annotated[
    bool,
    typer.Option("--force", help="Do again what another version of code or libraries has done."),
]
DurabilityOption = Annotated[
    str | None,
    typer.Option(
        "--durability",
        metavar="power|process|none",
        help="What committed records survive (checkpoint.durability).",
    ),
]
IntervalOption = Annotated[
    str | None,
    typer.Option(
        "--checkpoint-interval",
        metavar="SECONDS",
        help="How long records may wait for a sync: seconds or auto (checkpoint.interval).",
    ),
]

VerifyOption = Annotated[
    str,
    typer.Option(
        "--verify",
        metavar="sampled|all",
        help="With --resume: products to compare with their records; sampled is all of a small "
        "run.",
    ),
]
ForceOption = Annotated[
    bool,
    typer.Option(
        "--force",
        help="With --resume: do again what was done with other code, libraries, camera or "
        "reference catalogue.",
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="With --resume: tell what would be done, and do nothing."),
]


def checkpoint_settings(durability: str | None, interval: str | None) -> list[str]:
    """What these options set, as assignments."""
    found = {"durability": durability, "interval": interval}
    return [f"checkpoint.{key}={value}" for key, value in found.items() if value is not None]


def refuse_of_resume(verify: str, *, force: bool, dry_run: bool) -> None:
    """Refuse what makes sense for a run that is there only.

    Raises
    ------
    ConfigError
        If any of it was given.
    """
    if verify != "sampled" or force or dry_run:
        raise ConfigError(
            "--verify, --force and --dry-run go with --resume RUN",
            way_out="mpipipe plan RAW tells what a new run would do",
        )
