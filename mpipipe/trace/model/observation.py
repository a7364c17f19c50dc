"""What one measured run tells the model: where its wall time went, and what a task of it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpipipe.trace.accounting import OTHER, Account, account

START_UP, SERIAL, COMPUTE, IMBALANCE = "start-up", "serial", "compute", "imbalance"
COORDINATION, FILES, CHECKPOINT = "coordination", "files", "checkpoint"
EXCHANGE, PUBLISHING, UNRECORDED = "exchange", "publishing", "unrecorded"
MASTER, RECOVERY = "master", "recovery"

MEASURED = (
    START_UP, SERIAL, COMPUTE, IMBALANCE, COORDINATION, FILES, CHECKPOINT, EXCHANGE, PUBLISHING,
    UNRECORDED,
)  # fmt: skip
"""Terms that the wall time of a run is divided into; they add up to it."""
TERMS = (*MEASURED, MASTER, RECOVERY)
"""All terms of the model: the last two are not seen in a sweep, but follow from its costs."""

MOST_DURATIONS = 300
_PUBLISHING = ("records of ", "publish ")


@dataclass(frozen=True)
class Observation:
    """A measured run.

    Attributes
    ----------
    n_ranks, n_tasks, cores
        Its size, and cores that the ranks had together.
    wall_s
        From its launch to the end of its last process.
    terms
        Seconds of the wall time by term (`MEASURED`), on the mean of ranks; they add up.
    task_s, task_cpu_s
        Of a task without its files, on the mean: wall and CPU seconds.
    n_files, n_bytes
        Reads and writes of a task, and the bytes they moved.
    file_s, byte_s
        Seconds of a read or write without its bytes, and of a byte.
    users
        Reads and writes that went on at the same time, on the mean.
    master_s
        CPU seconds of rank 0's MPI process for a task, beyond those of others; NaN on one rank.
    durations
        Of tasks relative to their mean: a sample, in ascending order.
    """

    n_ranks: int
    n_tasks: int
    cores: int
    wall_s: float
    terms: dict[str, float]
    task_s: float
    task_cpu_s: float
    n_files: float
    n_bytes: float
    file_s: float
    byte_s: float
    users: float
    master_s: float
    durations: tuple[float, ...]


def observe(
    events: np.ndarray, cores: int, wall_s: float | None = None, n_tasks: int | None = None
) -> Observation:
    """What the events of a run tell.

    Parameters
    ----------
    events
        Rows of `mpipipe.trace.eventfile.EVENTS`.
    cores
        That its ranks had together.
    wall_s
        From launch to end, as whoever launched it has seen it; None: as the events say.
    n_tasks
        Its size; None: tasks of the phase that has most of the work.

    Raises
    ------
    ValueError
        If there is no task in it.
    """
    tasks = events[events["kind"] == b"task"]
    if not len(tasks):
        raise ValueError("its events tell of no task")
    main = _main_phase(tasks)
    of_main = tasks[tasks["name"] == main]
    n_tasks = n_tasks or len(np.unique(of_main["task"]))
    told = account(events)
    n_ranks = len({rank.rank for rank in told.ranks})
    terms = _terms(told)
    files = events[np.isin(events["kind"], (b"read", b"write")) & (events["task"] >= 0)]
    file_s, byte_s = _line(files["nBytes"].astype(float), files["duration"])
    whole = max(wall_s or told.wall_s, told.wall_s)
    terms[START_UP] += whole - sum(terms.values())
    in_files = float(files["duration"].sum())
    cpu = float(np.nansum(tasks["cpu"]) - np.nansum(files["cpu"]))
    phases = sum(phase.wall_s for phase in told.phases)
    durations = np.sort(of_main["duration"])
    chosen = np.linspace(0, len(durations) - 1, min(len(durations), MOST_DURATIONS)).astype(int)
    return Observation(
        n_ranks=n_ranks,
        n_tasks=n_tasks,
        cores=cores,
        wall_s=whole,
        terms=terms,
        task_s=max(float(tasks["duration"].sum()) - in_files, 0.0) / n_tasks,
        task_cpu_s=max(cpu, 0.0) / n_tasks,
        n_files=len(files) / n_tasks,
        n_bytes=float(files["nBytes"].sum()) / n_tasks,
        file_s=file_s,
        byte_s=byte_s,
        users=max(in_files / phases, 1.0) if phases > 0 else 1.0,
        master_s=_master_s(events, main, n_tasks),
        durations=tuple((durations[chosen] / max(durations.mean(), 1e-12)).tolist()),
    )


def _main_phase(tasks: np.ndarray) -> bytes:
    names, place = np.unique(tasks["name"], return_inverse=True)
    found: bytes = names[np.argmax(np.bincount(place, tasks["duration"]))]
    return found


def _terms(told: Account) -> dict[str, float]:
    """Seconds by term on the mean of ranks (of cores, where a rank has several).

    Ranks that wait for rank 0's serial work do so in a collective call: what is serial is told once
    and taken off there.
    """
    ranks, n = told.ranks, len(told.ranks)

    def mean(*kinds: str) -> float:
        return sum(rank.of_kind(*kinds) for rank in ranks) / n

    published = sum(
        seconds
        for rank in ranks
        for kind in ("read", "write")
        for name, seconds in rank.shares.get(kind, {}).items()
        if name.startswith(_PUBLISHING)
    ) / n  # fmt: skip
    serial = max(rank.of_kind("serial") for rank in ranks)
    balance = sum(
        max(phase.busy_s) - float(np.mean(phase.busy_s)) for phase in told.phases if phase.busy_s
    )
    waited = mean("idle", "send", "collective", "serial") - serial - balance
    # A rank without any event in the end, waiting for the others to leave, is not idle by name.
    missing = min(waited, 0.0)
    return {
        START_UP: mean("startup"),
        SERIAL: serial,
        COMPUTE: mean("task", "stage"),
        IMBALANCE: balance + missing,
        COORDINATION: waited - missing,
        FILES: mean("read", "write") - published,
        CHECKPOINT: mean("checkpoint"),
        EXCHANGE: mean("exchange"),
        PUBLISHING: published,
        UNRECORDED: mean(OTHER),
    }


def _line(n_bytes: np.ndarray, seconds: np.ndarray) -> tuple[float, float]:
    """Seconds of a transfer without its bytes, and of a byte: neither is negative.

    Their sum over all transfers is that of the seconds, whichever of the two is nothing.
    """
    if not len(n_bytes):
        return 0.0, 0.0
    apart = n_bytes - n_bytes.mean()
    spread = float(apart @ apart)
    slope = float(apart @ seconds) / spread if spread > 0 else 0.0
    rest = float(seconds.mean() - slope * n_bytes.mean())
    if slope <= 0:
        return float(seconds.mean()), 0.0
    if rest < 0:
        return 0.0, float(seconds.sum() / n_bytes.sum())
    return rest, slope


def _master_s(events: np.ndarray, phase: bytes, n_tasks: int) -> float:
    """What the MPI process of rank 0 takes more than the others', for each task."""
    rows = events[(events["kind"] == b"phase") & (events["name"] == phase)]
    if len(rows) < 2:
        return float("nan")
    cpu = rows["cpu"][np.argsort(rows["rank"], kind="stable")].astype(float)
    return max(float(cpu[0] - np.median(cpu[1:])), 0.0) / n_tasks


def pooled(observations: Sequence[Observation]) -> np.ndarray:
    """Relative durations of tasks of all runs, thinned, in ascending order."""
    every = np.sort(np.concatenate([np.array(one.durations) for one in observations]))
    chosen = np.linspace(0, len(every) - 1, min(len(every), MOST_DURATIONS)).astype(int)
    found: np.ndarray = every[chosen]
    return found
