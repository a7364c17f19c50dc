"""From the command line to a run and back: what `run` and `calibs` share."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import typer

from mpipipe.cli.exits import Exit
from mpipipe.data.errors import ConfigError


@dataclass(frozen=True)
class RunRequest:
    """What the user asked for, as it came from the command line."""

    raw: Path | None
    output: Path | None
    resume: Path | None
    camera: str | None
    calibs: Path | None
    config_file: Path | None
    assignments: tuple[str, ...]
    goal: Literal["calibrate", "calibs"]

    def check(self) -> None:
        """Refuse combinations that make no sense.

        Raises
        ------
        ConfigError
            With the right way to say it.
        """
        command = "run" if self.goal == "calibrate" else "calibs"
        if self.resume is not None:
            changed = self.raw, self.output, self.camera, self.calibs, self.config_file
            if any(option is not None for option in changed) or self.assignments:
                raise ConfigError(
                    "--resume takes no other options: the run folder knows them",
                    way_out=f"mpipipe {command} --resume RUN",
                )
        elif self.raw is None or self.output is None:
            raise ConfigError(
                "needs a folder of raw frames and an output folder",
                way_out=f"mpipipe {command} RAW -o RUN",
            )


def carry_out(request: RunRequest, *, quiet: bool, as_json: bool) -> None:
    """Run it on all ranks, report on rank 0, leave with the exit code that says how it went."""
    request.check()
    # Threads of BLAS and numba are pinned before numpy is imported: ranks share the cores.
    from mpipipe.parallel.threads import limit_threads

    limit_threads()
    from mpipipe.run.drive import FailedOnMaster, drive
    from mpipipe.run.plan import make_run
    from mpipipe.store.layout import RunLayout

    folder = request.resume or request.output
    assert folder is not None  # check() has seen to it
    layout = RunLayout.at(folder)
    make = None
    if request.resume is None:
        make = lambda: make_run(layout, request)  # noqa: E731
    try:
        result = drive(layout, make, quiet=quiet or as_json)
    except FailedOnMaster as error:
        raise typer.Exit(Exit.COULD_NOT_RUN) from error
    if result.is_master:
        _report(result, layout, as_json=as_json)
    code = Exit.WITH_FAILURES if result.has_failures else Exit.DONE
    raise typer.Exit(Exit.RESUME_ME if result.interrupted else code)
