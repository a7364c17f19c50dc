"""`mpipipe scaling`: what limits a run on many ranks."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from mpipipe.cli import sweep
from mpipipe.cli.options import (
    BandwidthOption,
    IncarnationOption,
    JsonOption,
    LifetimeOption,
    RecoveryOption,
    RunArgument,
)

if TYPE_CHECKING:
    from mpipipe.parallel.simulated_phase import Simulated

app = typer.Typer(
    help="What limits a run on many ranks: measured in sweeps, fitted, predicted; or simulated.\n\n"
    "Example: mpipipe scaling simulate RUN",
    no_args_is_help=True,
)


app.command(name="run")(sweep.run)
app.command()(sweep.fit)
app.command()(sweep.predict)
app.command()(sweep.plot)
app.command()(sweep.export)
app.command(hidden=True)(sweep.rank)


@app.command()
def simulate(
    run: RunArgument,
    ranks: Annotated[
        str, typer.Option("--ranks", metavar="N,N,...", help="Numbers of ranks.")
    ] = "1,10,100,1000",
    tasks: Annotated[
        int | None,
        typer.Option("--tasks", min=1, metavar="N", help="Visits times CCDs; left out: the run's."),
    ] = None,
    ccds: Annotated[int, typer.Option("--ccds", min=1, help="CCDs of the camera.")] = 189,
    bandwidth: BandwidthOption = None,
    rank_bandwidth: Annotated[
        float | None,
        typer.Option("--rank-bandwidth", min=1e-9, metavar="GB/s", help="For a rank; as measured."),
    ] = None,
    latency: Annotated[
        float, typer.Option("--latency", min=0.0, metavar="US", help="Of a message, microseconds.")
    ] = 50.0,
    lifetime: LifetimeOption = None,
    recovery: RecoveryOption = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="Of tasks and losses.")] = 0,
    incarnation: IncarnationOption = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate the phase `calibrate` of a run on other numbers of ranks.

    The scheduler is the real one; tasks are drawn from those that RUN has timed, with their bytes,
    commits and messages. It tells where ranks wait: for the master, for files, for the last task.

    \b
    Examples:
      mpipipe scaling simulate RUN
      mpipipe scaling simulate RUN --ranks 1000,10000,100000 --tasks 189000 --bandwidth 500
      mpipipe scaling simulate RUN --ranks 1000 --tasks 189000 --lifetime 2000
    """
    from mpipipe.run.scaling import foresee, measure
    from mpipipe.run.sweep import parse_ranks
    from mpipipe.run.traces import read_run_events
    from mpipipe.store.layout import RunLayout

    numbers = parse_ranks(ranks)
    number, events = read_run_events(RunLayout.at(run), incarnation)
    measured = measure(events)
    asked = {
        "bandwidth": None if bandwidth is None else bandwidth * 1e9,
        "rank_bandwidth": None if rank_bandwidth is None else rank_bandwidth * 1e9,
        "latency_s": latency * 1e-6,
        "lifetime_s": None if lifetime is None else lifetime * 3600,
        "recovery_s": recovery,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    n_tasks = tasks or len(measured.seconds)
    found = foresee(measured, numbers, n_tasks, n_ccds=ccds, seed=seed, asked=given)
    if as_json:
        rows = [asdict(one) | {"efficiency": one.efficiency, "master_load": one.master_load}
                for one in found]  # fmt: skip
        typer.echo(json.dumps({"incarnation": number, "simulated": rows}))
        return
    typer.echo(
        f"{n_tasks} tasks like the {len(measured.seconds)} of start {number}: "
        f"{measured.seconds.mean():.2f} s of work, {measured.n_bytes.mean() / 1e6:.1f} MB each"
    )
    _tell(found)


def _tell(found: list[Simulated]) -> None:
    typer.echo("\n   ranks      wall s  efficiency    files  lost     waiting  master busy  losses")
    for one in found:
        whole = max(one.n_ranks * one.wall_s, 1e-12)
        shares = (one.files_s, one.lost_s, one.idle_s)
        files, lost, idle = (100 * share / whole for share in shares)
        typer.echo(
            f"{one.n_ranks:8d}{one.wall_s:12.2f}{100 * one.efficiency:10.1f} %{files:7.1f} %"
            f"{lost:5.1f} %{idle:9.1f} %{100 * one.master_load:11.2f} %{one.n_lost:8d}"
        )
