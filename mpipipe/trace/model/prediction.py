"""What the model makes of a run that was not measured, with intervals, and what limits it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from mpipipe.trace.model.law import At
from mpipipe.trace.model.model import (
    BYTE,
    FILE,
    MASTER_CPU,
    N_DRAWS,
    TASK_CPU,
    TASK_WAIT,
    Model,
)
from mpipipe.trace.model.observation import (
    CHECKPOINT,
    COMPUTE,
    COORDINATION,
    EXCHANGE,
    FILES,
    IMBALANCE,
    MASTER,
    PUBLISHING,
    RECOVERY,
    SERIAL,
    START_UP,
    TERMS,
    UNRECORDED,
)

LEVEL = 95.0
LEAST_MASTER_S = 1e-5
"""CPU seconds of the master for a task (`tools/bench_dispatch`), if a sweep shows less of it."""
_LIMITS = (50 - LEVEL / 2, 50 + LEVEL / 2)
_STEPS = 40


@dataclass(frozen=True)
class Asked:
    """What differs from the runs that were measured; None: as there.

    Attributes
    ----------
    cores
        That the ranks have together; None: one each.
    n_bytes
        Of a task.
    task_s
        CPU seconds of a task.
    bandwidth, rank_bandwidth
        Bytes a second of the file system for all ranks, and for one: instead of the law that was
        measured, where both are given.
    lifetime_s
        Mean time between losses of a rank.
    recovery_s
        For which all wait after a loss.
    survives
        Whether ranks go on after a loss; if not, the run is started again.
    commit_s
        Of a sync, where records are made durable at intervals; 0: with every task.
    """

    cores: int | None = None
    n_bytes: float | None = None
    task_s: float | None = None
    bandwidth: float | None = None
    rank_bandwidth: float | None = None
    lifetime_s: float = math.inf
    recovery_s: float = 1.0
    survives: bool = True
    commit_s: float = 0.0


@dataclass(frozen=True)
class Predicted:
    """A run as the model has it.

    Attributes
    ----------
    wall_s
        Its wall time.
    terms
        Seconds by term; they add up to it.
    low_s, high_s
        95 % of such runs: from the scatter of what was fitted and of repeats, and from how well the
        model predicts runs that it has not seen; NaN where no run was left out to learn that.
    term_low_s, term_high_s
        The same for each term, from the scatter alone.
    work_s
        Seconds of one rank alone in tasks and their files: what the run is for.
    reach
        Ranks over the most that were measured; above 1 the laws are carried on.
    interval_s
        Between syncs, after Young and Daly; NaN without losses.
    """

    n_ranks: int
    n_tasks: int
    wall_s: float
    terms: dict[str, float]
    low_s: float
    high_s: float
    term_low_s: dict[str, float]
    term_high_s: dict[str, float]
    work_s: float
    reach: float
    interval_s: float

    @property
    def efficiency(self) -> float:
        """Work over ranks times wall time."""
        whole = self.n_ranks * self.wall_s
        return self.work_s / whole if whole > 0 else 1.0

    @property
    def speed_up(self) -> float:
        """Work over wall time."""
        return self.work_s / self.wall_s if self.wall_s > 0 else 1.0

    @property
    def limit(self) -> str:
        """The term besides compute that takes most."""
        return max((t for t in self.terms if t != COMPUTE), key=self.terms.__getitem__)


def predict(
    model: Model,
    n_ranks: int,
    n_tasks: int,
    asked: Asked | None = None,
    *,
    cores: int | None = None,
    n_draws: int = N_DRAWS,
) -> Predicted:
    """The model at one size.

    Parameters
    ----------
    cores
        As `Asked.cores`, for short.
    n_draws
        For the intervals; 0: they are NaN.
    """
    asked = asked or Asked(cores=cores)
    uneven = model.imbalance_of(n_ranks, n_tasks)
    terms, work, interval = _terms(model, n_ranks, n_tasks, asked, uneven, None)
    wall = sum(terms.values())
    low, high = dict.fromkeys(terms, math.nan), dict.fromkeys(terms, math.nan)
    edges = [math.nan, math.nan]
    if n_draws:
        drawn = [_terms(model, n_ranks, n_tasks, asked, uneven, k)[0] for k in range(n_draws)]
        table = np.array([[one[term] for term in terms] for one in drawn])
        for k, term in enumerate(terms):
            low[term], high[term] = np.percentile(table[:, k], _LIMITS, method="nearest")
        if model.left:
            edges = _edges(model, table.sum(axis=1))
    return Predicted(
        n_ranks, n_tasks, wall, terms, edges[0], edges[1], low, high, work,
        n_ranks / max(model.ranks), interval,
    )  # fmt: skip


def _edges(model: Model, drawn: np.ndarray) -> list[float]:
    """Of wall times: of the fits, as far off as runs left out were, scattered as repeats are."""
    generator = np.random.default_rng(0)
    errors = np.array([one.error for one in model.left])
    off = 1 + np.maximum(generator.choice(errors, (20, len(drawn))), -0.9)
    repeat = 1 + generator.choice(np.array(model.scatter), (20, len(drawn)))
    found: list[float] = np.percentile(drawn / off * repeat, _LIMITS, method="nearest").tolist()
    return found


def _terms(
    model: Model, n_ranks: int, n_tasks: int, asked: Asked, uneven: float, draw: int | None
) -> tuple[dict[str, float], float, float]:
    """Seconds by term, the work of one rank alone, the interval between syncs."""
    cores = asked.cores or n_ranks
    n_bytes = model.n_bytes if asked.n_bytes is None else asked.n_bytes
    busy = min(n_ranks, cores)
    # Of how many busy cores slow each other down no more is known than was measured: of one host.
    plain = At(n_ranks, n_tasks, n_ranks / busy, min(busy, model.cores))

    def law(name: str, place: At = plain) -> float:
        return model.laws[name].at(place, draw)

    cpu, waiting = law(TASK_CPU), law(TASK_WAIT)
    if asked.task_s is not None:
        cpu, waiting = asked.task_s, 0.0
    used = min(n_ranks, n_tasks)
    task = max(cpu + waiting, cpu * used / cores)
    others = (START_UP, SERIAL, COORDINATION, CHECKPOINT, EXCHANGE, PUBLISHING, UNRECORDED)
    terms = dict.fromkeys(TERMS, 0.0) | {name: law(name) for name in others}

    def transfers(users: float) -> float:
        if asked.bandwidth and asked.rank_bandwidth:
            byte = max(1 / asked.rank_bandwidth, users / asked.bandwidth)
            return model.n_files * law(FILE, At(1, n_tasks)) + n_bytes * byte
        place = replace(plain, users=users)
        return model.n_files * law(FILE, place) + n_bytes * law(BYTE, place)

    share = n_tasks / n_ranks
    waits = terms[COORDINATION] + terms[CHECKPOINT] + terms[UNRECORDED]
    waits += law(IMBALANCE, replace(plain, schedule=uneven * task))
    beside = task + waits / max(share, 1.0)
    in_files = transfers(_users(transfers, beside, used))
    terms[COMPUTE], terms[FILES] = share * task, share * in_files
    terms[IMBALANCE] = law(IMBALANCE, replace(plain, schedule=uneven * (task + in_files)))
    phase = sum(terms[t] for t in (COMPUTE, FILES, IMBALANCE, COORDINATION, CHECKPOINT))
    terms[MASTER] = max(law(MASTER_CPU), n_tasks * LEAST_MASTER_S) - phase
    terms[MASTER] = max(terms[MASTER], 0.0)
    terms[RECOVERY], interval = _recovery(terms, asked, n_ranks, task + in_files)
    alone = At(1, n_tasks)
    first = model.laws[TASK_CPU].at(alone, draw) + waiting if asked.task_s is None else cpu
    return terms, n_tasks * (first + transfers(1.0)), interval


def _users(transfers: Callable[[float], float], beside: float, most: int) -> float:
    """How many transfers go on at the same time, if each makes the others slower.

    Of every rank's time ``files / (files + beside)`` goes into files; found by halving.
    """

    def more(users: float) -> bool:
        files = transfers(users)
        whole = files + beside
        return bool(whole > 0 and most * files / whole > users)

    low, high = 1.0, float(max(most, 1))
    if not more(low):
        return low
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if more(middle) else (low, middle)
    return low


def _recovery(
    terms: dict[str, float], asked: Asked, n_ranks: int, task_s: float
) -> tuple[float, float]:
    """Seconds lost with ranks, and the interval between syncs that loses least.

    Of every loss stay half a task and what was not yet synced, half an interval on the mean: of
    one rank, and its work is shared by all, if they go on; of all, if the run starts again. So the
    best interval follows from the life of a rank, or of the run. All wait for the recovery.

    References
    ----------
    Young (1974), Daly (2006): ``sqrt(2 cost mtbf)``.
    """
    if not math.isfinite(asked.lifetime_s):
        return 0.0, math.nan
    mtbf = asked.lifetime_s / n_ranks
    life = asked.lifetime_s if asked.survives else mtbf
    interval = math.sqrt(2 * asked.commit_s * life) if asked.commit_s > 0 else 0.0
    lost = (task_s + interval) / 2
    pause = asked.recovery_s if asked.survives else asked.recovery_s + terms[START_UP] + lost
    each = pause + (lost / n_ranks if asked.survives else 0.0)
    whole = sum(terms.values())
    overhead = asked.commit_s / interval if interval > 0 else 0.0
    share = each / mtbf + overhead
    return (whole * share / (1 - share) if share < 1 else math.inf), interval
