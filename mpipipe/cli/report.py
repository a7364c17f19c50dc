"""`mpipipe report`: what a run tells of itself."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from mpipipe.cli.options import IncarnationOption, JsonOption, RunArgument

if TYPE_CHECKING:
    from mpipipe.trace.accounting import Account, RankTime

app = typer.Typer(
    help="What a run tells of itself.\n\nExample: mpipipe report time RUN", no_args_is_help=True
)
_KINDS = (
    *("stage", "task", "read", "write", "checkpoint", "exchange", "collective", "send", "serial"),
    *("startup", "idle", "other"),
)
_SHOWN_RANKS = 32


@app.callback()
def _root() -> None:
    """Keep the name of the command below."""


@app.command("time")
def time_(
    run: RunArgument, incarnation: IncarnationOption = None, as_json: JsonOption = False
) -> None:
    """Tell where the wall time of every rank went; shares add up to 100 %.

    task is what a task does besides its stages and files; other what was not recorded. Then the
    phases, with how well the work was balanced; the stages; and what would be gained without
    checkpoint, without files, with perfect balance.

    Example: mpipipe report time RUN
    """
    from mpipipe.run.traces import read_run_events
    from mpipipe.store.layout import RunLayout
    from mpipipe.trace.accounting import account

    number, events = read_run_events(RunLayout.at(run), incarnation)
    found = account(events)
    if as_json:
        typer.echo(json.dumps({"incarnation": number} | asdict(found)))
        return
    n_ranks = len({rank.rank for rank in found.ranks})
    cores = f" on {len(found.ranks)} cores" if len(found.ranks) > n_ranks else ""
    typer.echo(f"start {number}: {found.wall_s:.1f} s, {n_ranks} ranks{cores}")
    _tell_ranks(found)
    _tell_phases(found)
    _tell_stages(found)
    for what, seconds in found.gains_s.items():
        share = 100 * seconds / found.wall_s if found.wall_s else 0.0
        typer.echo(f"{what}: about {seconds:.2f} s shorter ({share:.1f} %)")


def _tell_ranks(found: Account) -> None:
    kinds = [kind for kind in _KINDS if any(rank.of_kind(kind) > 0 for rank in found.ranks)]
    typer.echo("\nrank    wall s" + "".join(f"{kind:>11}" for kind in kinds) + "   sum %")
    for rank in found.ranks[:_SHOWN_RANKS]:
        name = f"{rank.rank}.{rank.core}" if any(r.core for r in found.ranks) else str(rank.rank)
        typer.echo(_line(f"{name:>4}", rank, kinds))
    if len(found.ranks) > _SHOWN_RANKS:
        typer.echo(f"      and {len(found.ranks) - _SHOWN_RANKS} more (--json lists all)")


def _line(label: str, rank: RankTime, kinds: list[str]) -> str:
    shares = [100 * rank.of_kind(kind) / rank.wall_s if rank.wall_s else 0.0 for kind in kinds]
    return (
        f"{label}{rank.wall_s:10.2f}"
        + "".join(f"{share:10.1f}%" for share in shares)
        + (f"{sum(shares):8.1f}")
    )


def _tell_phases(found: Account) -> None:
    typer.echo("\nphase              wall s   tasks  longest s  balance")
    for phase in found.phases:
        typer.echo(
            f"{phase.name:<16}{phase.wall_s:9.2f}{phase.n_tasks:8d}{phase.longest_s:11.2f}"
            f"{phase.balance:9.2f}"
        )


def _tell_stages(found: Account) -> None:
    seconds: dict[str, float] = {}
    for rank in found.ranks:
        for name, spent in rank.shares.get("stage", {}).items():
            seconds[name] = seconds.get(name, 0.0) + spent
    total = sum(rank.wall_s for rank in found.ranks)
    typer.echo("\nstage                              s      %")
    for name, spent in sorted(seconds.items(), key=lambda pair: -pair[1]):
        typer.echo(f"{name:<28}{spent:9.2f}{100 * spent / total:7.2f}")
    hidden = {k: sum(r.hidden_s.get(k, 0.0) for r in found.ranks) for k in _KINDS}
    told = ", ".join(f"{kind} {spent:.2f} s" for kind, spent in hidden.items() if spent >= 0.005)
    if told:
        typer.echo(f"besides, while tasks ran: {told}")
    typer.echo("")
