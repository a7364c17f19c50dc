"""`mpipipe submit`: a run as a job of a cluster."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpipipe.cli.options import (
    CalibsOption,
    CameraOption,
    ConfigOption,
    CostsOption,
    ForcedOption,
    JsonOption,
    RefcatOption,
    SetOption,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mpipipe.run.predict import Prediction
    from mpipipe.store.layout import RunLayout

_PATIENCE_S = 120.0


def submit(
    raw: Annotated[
        Path | None, typer.Argument(metavar="RAW", help="Folder of raw frames, or a list.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="RUN", help="Run folder to make.")
    ] = None,
    site: Annotated[
        Path | None, typer.Option("--site", metavar="FILE", help="TOML file of the cluster.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="RUN", help="Go on with this run.")
    ] = None,
    camera: CameraOption = None,
    calibs: CalibsOption = None,
    refcat: RefcatOption = None,
    forced: ForcedOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    costs: CostsOption = None,
    hours: Annotated[
        float, typer.Option("--hours", min=0.05, help="Wall time that is wished for.")
    ] = 2.0,
    nodes: Annotated[
        int | None, typer.Option("--nodes", min=1, help="Nodes; left out: by the plan.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the script, and submit nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a job script for a run and submit it; the job ends when `mpipipe verify` says so.

    Nodes, time and memory follow from the plan and from what tasks cost (--costs of an earlier
    run). The job drains before its time limit and has itself started again, goes on within its
    allocation when a node is lost, and resumes what is there. The script stays beside the run
    folder, as RUN.job.sh; its output goes to RUN.job.log.

    \b
    Examples:
      mpipipe submit RAW -o RUN --site jobs/sites/slurm.toml --dry-run
      mpipipe submit RAW -o RUN --site mysite.toml --hours 1 --refcat REFCAT
      mpipipe submit --resume RUN --site mysite.toml
    """
    from dataclasses import asdict

    from mpipipe.data.errors import ConfigError
    from mpipipe.run.job import job_script, size_job, submit_command
    from mpipipe.run.site import load_site
    from mpipipe.store.checksums import write_text_atomically
    from mpipipe.store.layout import RunLayout

    if site is None or (raw is None) == (resume is None) or (raw is not None and output is None):
        raise ConfigError(
            "needs --site FILE, and either RAW -o RUN or --resume RUN",
            way_out="mpipipe submit --help has examples",
        )
    cluster = load_site(site)
    folder = output if resume is None else resume
    assert folder is not None
    layout = RunLayout.at(folder)
    given = {"--camera": camera, "--calibs": calibs, "--refcat": refcat, "--forced": forced,
             "--config": config}  # fmt: skip
    if raw is None:
        _refuse_of_resume({**given, "--costs": costs})
    words = _words(layout, raw, given, assignments or [])
    predict = _predictor(layout, raw, given, assignments or [], costs)
    size = size_job(predict, cluster, hours, nodes)
    script = layout.root.with_name(f"{layout.root.name}.job.sh")
    log = layout.root.with_name(f"{layout.root.name}.job.log")
    write_text_atomically(script, job_script(cluster, size, layout, words, script, log))
    facts = asdict(size) | {"script": str(script), "log": str(log), "submitted": not dry_run}
    if not as_json:
        typer.echo(
            f"{script}: {size.nodes} nodes of {size.per_node} ranks, {size.memory_gb} GB each, "
            f"time limit {size.limit_s / 3600:.1f} h"
        )
    if not dry_run:
        facts["answer"] = _hand_over(submit_command(cluster, script), log, cluster.job.scheduler)
        if not as_json:
            typer.echo(facts["answer"])
    if as_json:
        typer.echo(json.dumps(facts))


def _refuse_of_resume(given: Mapping[str, object]) -> None:
    """Refuse what a run that is there has already, and can not change.

    Raises
    ------
    ConfigError
        If any of it was given.
    """
    from mpipipe.data.errors import ConfigError

    for option in ("--camera", "--calibs", "--config", "--costs"):
        if given[option] is not None:
            raise ConfigError(
                "belongs to the beginning of a run",
                key=option,
                way_out="--resume takes --set, --refcat and --forced",
            )


def _words(
    layout: RunLayout, raw: Path | None, given: Mapping[str, object], assignments: list[str]
) -> list[str]:
    """What `mpipipe run` is given at the first start."""
    words = ["--resume", str(layout.root)]
    if raw is not None:
        words = [str(raw.absolute()), "-o", str(layout.root)]
    for option, value in given.items():
        if isinstance(value, Path) or (value is not None and Path(str(value)).is_file()):
            words += [option, str(Path(str(value)).absolute())]
        elif value is not None:
            words += [option, str(value)]
    return words + [word for text in assignments for word in ("--set", text)]


def _predictor(
    layout: RunLayout,
    raw: Path | None,
    given: Mapping[str, object],
    assignments: list[str],
    costs: Path | None,
) -> Callable[[int], Prediction]:
    """What the plan takes on a number of ranks."""
    from mpipipe.run.plan import load_run, refuse_used_folder, require_run
    from mpipipe.run.predict import predict
    from mpipipe.run.prepare import Request, prepare

    if raw is None:
        require_run(layout)
        context, plan = load_run(layout)
        return lambda ranks: predict(plan, context.camera, ranks)
    refuse_used_folder(layout)
    folders = {key: value for key, value in given.items() if isinstance(value, Path)}
    camera = given["--camera"]
    request = Request(
        raw,
        None if camera is None else str(camera),
        folders.get("--calibs"),
        folders.get("--config"),
        tuple(assignments),
        costs=costs,
        refcat=folders.get("--refcat"),
        forced=folders.get("--forced"),
    )
    plan, _, found = prepare(request, layout)
    model = request.cost_model()
    return lambda ranks: predict(plan, found.camera, ranks, model)


def _hand_over(command: list[str], log: Path, scheduler: str) -> str:
    """Submit the script; what the scheduler answers.

    Raises
    ------
    ConfigError
        If there is no such scheduler here, or it refuses.
    """
    from mpipipe.data.errors import ConfigError

    if scheduler == "none":
        with open(log, "ab") as stream:
            started = subprocess.Popen(
                command, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        return f"process {started.pid} runs it; output in {log}"
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no {command[0]} on this machine",
            way_out="submit on a login node, or take the script there (--dry-run writes it)",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"{command[0]} did not answer in {_PATIENCE_S:.0f} s") from error
    if done.returncode:
        raise ConfigError(f"{command[0]} refuses: {done.stderr.strip()}", file=command[-1])
    return done.stdout.strip()
