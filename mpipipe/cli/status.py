"""`mpipipe status`: where a run stands, while it goes on and after."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from mpipipe.cli.options import JsonOption, RunArgument

if TYPE_CHECKING:
    from mpipipe.run.status import Status


def status(
    run: RunArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until the run has ended.")] = False,
    every: Annotated[
        float, typer.Option(help="Seconds between two looks with --watch.", min=0.1)
    ] = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Show where a run stands: phases, outcomes, rate, time left, ranks, whether it verifies.

    Only the run folder is read, so it works from any machine that sees it, without MPI, while
    the run goes on, after it has died, and after it has ended. With --watch and --json one line
    of JSON a look.

    \b
    Examples:
      mpipipe status RUN
      mpipipe status RUN --watch
    """
    from mpipipe.run.status import read_status
    from mpipipe.store.layout import RunLayout

    layout = RunLayout.at(run)
    while True:
        found = read_status(layout)
        typer.echo(json.dumps(asdict(found)) if as_json else text_of(found))
        if not watch or found.state != "running":
            return
        time.sleep(every)


def text_of(found: Status) -> str:
    """The status for people."""
    from mpipipe.parallel.progress import format_seconds

    lines = [f"{found.root}: {_state(found)}"]
    for phase in found.phases:
        counts = [f"{number} {label}" for label, number in phase.outcomes.items()]
        if phase.n_left:
            counts.append(f"{phase.n_left} left")
        lines.append(f"  {phase.phase:10} {phase.n_ended:7}/{phase.n_tasks:<7} {', '.join(counts)}")
    ranks = f"{len(found.ranks)} of {found.n_ranks} ranks seen" if found.n_ranks else "no ranks"
    hosts = f" on {', '.join(found.hosts[:4])}" if found.hosts else ""
    more = f" and {len(found.hosts) - 4} more hosts" if len(found.hosts) > 4 else ""
    lines.append(f"start {found.incarnations}: {ranks}{hosts}{more}")
    if found.state == "running":
        left = "" if found.eta_s is None else f", about {format_seconds(found.eta_s)} left"
        lines.append(f"{found.rate:.3g} tasks/s in the last minute{left}")
    if found.problems:
        lines.append(f"{found.problems} problems with the input: see outcomes.json or the plan")
    lines += [f"  {fault}" for fault in found.faults[:20]]
    if len(found.faults) > 20:
        lines.append(f"  and {len(found.faults) - 20} more faults")
    return "\n".join(lines)


def _state(found: Status) -> str:
    from mpipipe.parallel.progress import format_seconds

    if found.state == "complete":
        if found.verified:
            by_size = " (sizes; mpipipe verify compares contents)"
            return "complete, verified" + (by_size if found.verified_by == "size" else "")
        return "complete, but does NOT verify; mpipipe run --resume makes again what is wrong"
    silence = "" if found.silent_s is None else format_seconds(found.silent_s)
    if found.state == "running":
        asked = ", asked to stop" if found.halt_asked else ""
        return f"running{asked}, last sign of life {silence} ago"
    since = f" for {silence}" if silence else ""
    return f"not complete, no sign of life{since}; go on with mpipipe run --resume"
