"""`mpipipe scaling run|fit|predict|plot|export`: sweeps of ranks, and the model fitted to them."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpipipe.cli.options import (
    BandwidthOption,
    JsonOption,
    LifetimeOption,
    QuietOption,
    RecoveryOption,
)

if TYPE_CHECKING:
    from mpipipe.trace.model.model import Model
    from mpipipe.trace.model.prediction import Predicted

SweepArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a sweep.")]
RanksOption = Annotated[str, typer.Option("--ranks", metavar="N,N,...", help="Numbers of ranks.")]
TasksOption = Annotated[
    int | None, typer.Option("--tasks", min=1, metavar="N", help="Tasks; left out: the most swept.")
]
CoresOption = Annotated[
    int | None,
    typer.Option("--cores", min=1, help="Of all ranks together; left out: one a rank."),
]


def run(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the sweep.")
    ],
    ranks: RanksOption = "1,2,4,8",
    tasks: Annotated[
        int, typer.Option("--tasks", min=0, metavar="N", help="Of every run of a strong sweep.")
    ] = 0,
    tasks_per_rank: Annotated[
        int, typer.Option("--tasks-per-rank", min=0, metavar="N", help="Of a weak sweep.")
    ] = 0,
    synthetic: Annotated[
        str,
        typer.Option(
            "--synthetic",
            metavar="WHAT",
            help="What tasks do: sleep=S, compute=S, bytes=B (k, M, G) of files=N; spread=, "
            "record=, rows=.",
        ),
    ] = "",
    raw: Annotated[
        list[Path] | None,
        typer.Option("--raw", metavar="RAW", help="Real tasks: raw frames; again for more sizes."),
    ] = None,
    options: Annotated[
        str, typer.Option("--options", help="With --raw: more words for `mpipipe run`.")
    ] = "",
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Of every size.")] = 3,
    cache: Annotated[
        str,
        typer.Option(
            "--cache",
            metavar="warm|cold",
            help="cold: pages of files are dropped before they are read; of directories only root "
            "can, of file servers nobody here.",
        ),
    ] = "warm",
    foreign: Annotated[
        float,
        typer.Option("--foreign", min=0.0, max=1.0, help="Share of the cores others may use."),
    ] = 0.03,
    tries: Annotated[int, typer.Option("--tries", min=1, help="Of a run that is disturbed.")] = 3,
    redo: Annotated[
        bool, typer.Option("--redo", help="Make runs again that are there, but were disturbed.")
    ] = False,
    cores: Annotated[
        int, typer.Option("--cores", min=0, help="Of all ranks together; 0: as the host says.")
    ] = 0,
    launcher: Annotated[
        str, typer.Option("--launcher", help="Instead of mpirun, e.g. 'srun -n {ranks}'.")
    ] = "",
    limit: Annotated[
        float, typer.Option("--limit", min=1.0, metavar="S", help="Seconds a run may take.")
    ] = 3600.0,
    seed: Annotated[int, typer.Option("--seed", help="Of tasks and of the order of runs.")] = 0,
    quiet: QuietOption = False,
) -> None:
    """Measure the same tasks on more and more ranks, on this machine or in a Slurm allocation.

    Strong (--tasks: as many for all) and weak (--tasks-per-rank) sweeps, each run repeated, in
    random order. Synthetic tasks go through scheduler, task processes, checkpoint, exchange and
    events as real ones do. Runs during which others use more of the cores than --foreign are made
    again, and flagged if they are never left alone; with --launcher and on several nodes it is not
    known what others use. Ctrl-C keeps what is done; the same command goes on.

    \b
    Examples:
      mpipipe scaling run -o S --ranks 1,2,4,8,16,32 --tasks 64 --synthetic sleep=0.2
      mpipipe scaling run -o S --ranks 1,2,4,8 --tasks 64 --tasks-per-rank 8 --synthetic bytes=32M
      mpipipe scaling run -o S --ranks 1,2 --raw RAW --options "--calibs CALIBS --refcat REFCAT"
    """
    from mpipipe.cli.exits import Exit
    from mpipipe.data.errors import ConfigError
    from mpipipe.parallel.signals import ended_as_by_ctrl_c
    from mpipipe.run.sweep import How, Sizes, Work, parse_ranks, run_sweep
    from mpipipe.run.synthetic import Synthetic

    if bool(synthetic) == bool(raw):
        raise ConfigError("needs either --synthetic WHAT or --raw RAW",
                          way_out="mpipipe scaling run --help has examples")  # fmt: skip
    if cache not in ("warm", "cold"):
        raise ConfigError(f"{cache!r} is neither warm nor cold", key="--cache")
    folders = tuple(str(folder.absolute()) for folder in raw or ())
    task = Synthetic.parse(synthetic) if synthetic else None
    work = Work(task, folders, _words(options), cache == "cold", seed)
    sizes = Sizes(parse_ranks(ranks), tasks, tasks_per_rank, repeats)
    how = How(foreign, tries, launcher, cores, limit, redo)

    def tell(line: str) -> None:
        if not quiet:
            print(line, file=sys.stderr, flush=True)

    try:
        with ended_as_by_ctrl_c():
            runs = run_sweep(output, work, sizes, how, tell)
    except KeyboardInterrupt:
        typer.echo(f"interrupted; the same command goes on with {output}", err=True)
        raise typer.Exit(Exit.RESUME_ME) from None
    disturbed = sum(one.is_disturbed for one in runs)
    note = f", {disturbed} of them disturbed by others" if disturbed else ""
    typer.echo(f"{output}: {len(runs)} runs{note}")


def _words(options: str) -> tuple[str, ...]:
    import shlex

    from mpipipe.data.errors import ConfigError

    try:
        return tuple(shlex.split(options))
    except ValueError as error:
        raise ConfigError(f"{options!r}: {error}", key="--options") from error


def rank(folder: Annotated[Path, typer.Argument(metavar="FOLDER")]) -> None:
    """Be a rank of a run of synthetic tasks (`scaling run` starts it)."""
    from mpipipe.cli.exits import Exit
    from mpipipe.parallel.together import FailedOnMasterError
    from mpipipe.run.synthetic import be_rank

    try:
        be_rank(folder)
    except FailedOnMasterError as error:  # rank 0 says why
        raise typer.Exit(Exit.COULD_NOT_RUN) from error


def fit(
    folder: SweepArgument,
    seed: Annotated[int, typer.Option("--seed", help="Of the bootstrap.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Fit the model to a sweep: a law for every term, with intervals of 95 %.

    Each term is fitted to the events that measure it. Its form is chosen by leaving out the runs on
    each number of ranks in turn; the last table says how well wall times are predicted that way.

    \b
    Example:
      mpipipe scaling fit DIR
    """
    from mpipipe.run import sweep_model

    model = sweep_model.fit_sweep(folder, seed)
    if as_json:
        typer.echo(json.dumps(sweep_model.as_json(model)))
        return
    _tell_laws(model)
    _tell_disturbed(folder)


def _tell_disturbed(folder: Path) -> None:
    from mpipipe.run.sweep import read_sweep

    runs = read_sweep(folder)
    disturbed = sum(one.is_disturbed for one in runs)
    unknown = sum(one.foreign is None for one in runs)
    if unknown:
        typer.echo(f"of {unknown} of {len(runs)} runs it is not known whether they were disturbed")
    if disturbed:
        typer.echo(
            f"{disturbed} of {len(runs)} runs were disturbed: "
            "the same `mpipipe scaling run` with --redo makes them again"
        )


def _tell_laws(model: Model) -> None:
    import numpy as np

    typer.echo(f"{'':>22}  p ranks, n tasks; seconds")
    for name, law in model.laws.items():
        limits = law.interval()
        for k, (column, factor) in enumerate(zip(law.columns, law.factors, strict=True)):
            low, high = limits[k]
            what = name if k == 0 else ""
            typer.echo(f"{what:>22}  {factor:11.4g}  [{low:.3g}, {high:.3g}]  * {column}")
    if model.left:
        typer.echo(f"\n{'ranks':>8}{'tasks':>8}{'measured s':>12}{'predicted s':>12}{'off':>8}")
        for one in model.left:
            typer.echo(
                f"{one.n_ranks:8d}{one.n_tasks:8d}{one.measured_s:12.2f}{one.predicted_s:12.2f}"
                f"{100 * one.error:7.1f} %"
            )
        errors = np.abs([one.error for one in model.left])
        typer.echo(
            f"each without the runs on its ranks: median {100 * np.median(errors):.1f} %, "
            f"worst {100 * errors.max():.1f} %"
        )
    else:
        typer.echo("\nno run was left out: fewer than four numbers of ranks")


def predict(
    folder: SweepArgument,
    ranks: RanksOption = "1,10,100,1000,10000",
    tasks: TasksOption = None,
    visits: Annotated[
        int | None, typer.Option("--visits", min=1, metavar="N", help="Instead: times --ccds.")
    ] = None,
    ccds: Annotated[int, typer.Option("--ccds", min=1, help="CCDs of the camera.")] = 189,
    cores: CoresOption = None,
    megabytes: Annotated[
        float | None,
        typer.Option("--bytes", min=0.0, metavar="MB", help="Of a task; as measured."),
    ] = None,
    task_s: Annotated[
        float | None,
        typer.Option("--work", min=0.0, metavar="S", help="CPU seconds of a task; as measured."),
    ] = None,
    bandwidth: BandwidthOption = None,
    rank_bandwidth: Annotated[
        float | None,
        typer.Option("--rank-bandwidth", min=1e-9, metavar="GB/s", help="Of it, for a rank."),
    ] = None,
    lifetime: LifetimeOption = None,
    recovery: RecoveryOption = 1.0,
    restart: Annotated[
        bool, typer.Option("--restart", help="A loss ends the run, which is started again.")
    ] = False,
    commit: Annotated[
        float,
        typer.Option("--sync", min=0.0, metavar="S", help="Seconds of a sync at intervals; 0: "
                     "with every task."),
    ] = 0.0,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Predict runs that were not made: wall time, efficiency, intervals of 95 %, what limits.

    What the sweep had too few ranks to show can not be predicted from it: a network, a shared file
    system, unless its bandwidth is told. Beyond the ranks that were swept the laws are carried on,
    and it is said how far. For such sizes compare with `mpipipe scaling simulate`.

    \b
    Examples:
      mpipipe scaling predict DIR --ranks 16,64,256 --tasks 4000
      mpipipe scaling predict DIR --ranks 10000 --visits 2000 --work 4 --bytes 50
    """
    from dataclasses import asdict

    from mpipipe.data.errors import ConfigError
    from mpipipe.run.sweep import parse_ranks
    from mpipipe.run.sweep_model import load_model
    from mpipipe.trace.model import prediction

    if tasks is not None and visits is not None:
        raise ConfigError("--tasks and --visits say the same: give one")
    if (bandwidth is None) != (rank_bandwidth is None):
        raise ConfigError("--bandwidth and --rank-bandwidth go together")
    model = load_model(folder)
    n_tasks = tasks or (visits * ccds if visits else max(model.tasks))
    asked = prediction.Asked(
        cores,
        None if megabytes is None else megabytes * 1e6,
        task_s,
        None if bandwidth is None else bandwidth * 1e9,
        None if rank_bandwidth is None else rank_bandwidth * 1e9,
        math.inf if lifetime is None else lifetime * 3600,
        recovery,
        not restart,
        commit,
    )
    found = [prediction.predict(model, number, n_tasks, asked) for number in parse_ranks(ranks)]
    if as_json:
        rows = [asdict(one) | {"efficiency": one.efficiency, "limit": one.limit} for one in found]
        typer.echo(json.dumps({"predicted": _finite(rows)}))
        return
    typer.echo(f"{n_tasks} tasks; measured on {min(model.ranks)} to {max(model.ranks)} ranks")
    _tell_predicted(found)


def _finite(content: Any) -> Any:
    """With null for what is not a number, as JSON wants it."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _tell_predicted(found: list[Predicted]) -> None:
    typer.echo("\n   ranks      wall s        95 % of them     efficiency  limited by")
    for one in found:
        shares = sorted(one.terms.items(), key=lambda pair: -pair[1])
        most = ", ".join(
            f"{term} {100 * seconds / one.wall_s:.0f} %"
            for term, seconds in shares[:4]
            if seconds > 0.01 * one.wall_s
        )
        far = f"  (ranks measured x {one.reach:.3g})" if one.reach > 1 else ""
        typer.echo(
            f"{one.n_ranks:8d}{one.wall_s:12.2f}{_interval(one):>24}"
            f"{100 * one.efficiency:11.1f} %  {most}{far}"
        )
    if any(math.isnan(one.low_s) for one in found):
        typer.echo("no interval: fewer than four numbers of ranks were measured")
    intervals = {one.interval_s for one in found if one.interval_s > 0}
    if intervals:
        typer.echo("syncs every " + ", ".join(f"{s:.0f} s" for s in sorted(intervals)) + " (Daly)")


def _interval(one: Predicted) -> str:
    return "-" if math.isnan(one.low_s) else f"{one.low_s:.2f} -{one.high_s:10.2f}"


def plot(
    folder: SweepArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Ends in .html or .png.")
    ],
    ranks: Annotated[
        str, typer.Option("--ranks", metavar="N,N,...", help="Left out: to 10 times those swept.")
    ] = "",
    tasks: TasksOption = None,
    cores: CoresOption = None,
) -> None:
    """Draw speed-up, efficiency and what the wall time is made of, measured and predicted.

    \b
    Examples:
      mpipipe scaling plot DIR -o scaling.html
      mpipipe scaling plot DIR -o scaling.png --ranks 1,10,100,1000 --tasks 20000
    """
    from mpipipe.data.errors import ConfigError
    from mpipipe.run import sweep_page
    from mpipipe.run.sweep import parse_ranks

    if output.suffix not in (".html", ".png"):
        raise ConfigError(f"{output.name} ends in neither .html nor .png", key="--output")
    drawn = sweep_page.gather(folder, parse_ranks(ranks) if ranks else (), tasks, cores)
    if output.suffix == ".html":
        sweep_page.write_page(drawn, output)
    else:
        sweep_page.write_picture(drawn, output)
    typer.echo(str(output))


def export(
    folder: SweepArgument,
    to: Annotated[str, typer.Option("--to", metavar="extrap", help="Format.")] = "extrap",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Left out: to the terminal."),
    ] = None,
) -> None:
    """Write what was measured for other tools: the text format of Extra-P.

    \b
    Example:
      mpipipe scaling export DIR --to extrap -o sweep.txt
    """
    from mpipipe.data.errors import ConfigError
    from mpipipe.run.sweep import observations, read_sweep
    from mpipipe.store.checksums import write_text_atomically
    from mpipipe.trace.model.extrap import as_extrap

    if to != "extrap":
        raise ConfigError(f"{to!r} is no format of this command", key="--to", way_out="extrap")
    text = as_extrap(observations(read_sweep(folder)))
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_text_atomically(output, text)
        typer.echo(str(output))
