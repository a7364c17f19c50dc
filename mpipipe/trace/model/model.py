"""The model of a sweep: a law for each term, and their sum for any run.

``T(p, n, b)`` of p ranks, n tasks and b bytes a task is the sum of

- start-up: interpreter, imports, MPI, and leaving it;
- serial: what rank 0 does while the others wait;
- compute: n tasks of c CPU seconds and w seconds of waiting, on p ranks and fewer cores perhaps:
  ``n max((c + w) / p, c / cores)``;
- imbalance: what a schedule of such tasks leaves at the end;
- coordination: waiting for tasks and for each other, messages, collective calls;
- files: reads and writes, each some seconds and some for its bytes, both growing with the number
  that goes on at the same time;
- checkpoint, exchange, publishing, and what no event tells;
- master: what is left when rank 0 can not hand out tasks as fast as ranks end them;
- recovery: from losses of ranks.

Each is fitted to what the events of the runs say of it, not to wall times.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mpipipe.trace.model.law import (
    LOAD,
    LOAD_SHARE,
    ONE,
    POWERS,
    SHARE,
    TASKS,
    At,
    Column,
    Law,
    choose_law,
    normal_form,
    sets_of,
)
from mpipipe.trace.model.observation import (
    CHECKPOINT,
    COORDINATION,
    EXCHANGE,
    IMBALANCE,
    PUBLISHING,
    SERIAL,
    START_UP,
    UNRECORDED,
    Observation,
    pooled,
)
from mpipipe.trace.model.schedule import imbalance

TASK_CPU, TASK_WAIT, MASTER_CPU = "CPU of a task", "waiting of a task", "CPU of the master"
FILE, BYTE = "a read or write", "a byte"
N_DRAWS = 200

_BUSY = Column(busy=1)
_USERS, _SCHEDULE = Column(users=1), Column(schedule=1)
_GROWN = normal_form()
_GROWN_SHARE = [replace(c, tasks=1, ranks=c.ranks - 1) for c in _GROWN]
_ANY = [*_GROWN, *_GROWN_SHARE]

_LOADED = [Column(load=i) for i in POWERS if i and i != 1]
_FREE_RANKS = 3
"""Numbers of ranks with a core each that it takes to tell growth from the sharing of cores."""

FORMS: dict[str, list[tuple[Column, ...]]] = {
    START_UP: sets_of([ONE, LOAD], _GROWN),
    SERIAL: sets_of([ONE, TASKS, LOAD], _GROWN),
    IMBALANCE: sets_of([_SCHEDULE, ONE, LOAD], [], 2),
    COORDINATION: sets_of([ONE, SHARE, LOAD, LOAD_SHARE], _ANY),
    CHECKPOINT: sets_of([ONE, SHARE, LOAD_SHARE], _ANY),
    EXCHANGE: sets_of([ONE, SHARE, LOAD], _ANY),
    PUBLISHING: sets_of([ONE, SHARE, LOAD], _GROWN),
    UNRECORDED: sets_of([ONE, SHARE, LOAD, LOAD_SHARE], _GROWN),
}
"""What each term may be made of; small sets first."""

SHARED_FORMS = FORMS | {
    START_UP: sets_of([ONE, LOAD], _LOADED),
    UNRECORDED: sets_of([ONE, SHARE, LOAD, LOAD_SHARE], _LOADED),
}
"""The same where most runs had more ranks than cores: what needs CPU time, and grows with ranks,
is taken to grow since they share cores. It could not be told apart."""


@dataclass(frozen=True)
class Left:
    """A run that was left out of a fit, beside what the fit makes of it."""

    n_ranks: int
    n_tasks: int
    measured_s: float
    predicted_s: float

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted_s / self.measured_s - 1


@dataclass(frozen=True)
class Model:
    """A fitted model.

    Attributes
    ----------
    laws
        By term, and those of what a task, a transfer and an outcome cost.
    durations
        Of tasks relative to their mean: a sample.
    n_files, n_bytes
        Of a task: transfers, and what they move.
    ranks, tasks
        Numbers that were measured, ascending.
    cores
        Most that the runs had.
    left
        Runs predicted from those on other numbers of ranks.
    scatter
        Wall times of runs over the median of their size, less one; without sizes that were not
        repeated.
    """

    laws: dict[str, Law]
    durations: np.ndarray
    n_files: float
    n_bytes: float
    ranks: tuple[int, ...]
    tasks: tuple[int, ...]
    cores: int
    left: tuple[Left, ...] = ()
    scatter: tuple[float, ...] = (0.0,)

    def imbalance_of(self, n_ranks: int, n_tasks: int) -> float:
        """Of a schedule, in units of a task; the same for all draws."""
        return imbalance(self.durations, n_ranks, n_tasks)


def fit(
    observations: Sequence[Observation],
    *,
    seed: int = 0,
    leave_out: bool = True,
    n_draws: int = N_DRAWS,
) -> Model:
    """The model of measured runs of one kind of tasks.

    Parameters
    ----------
    seed
        Of the bootstrap.
    leave_out
        Fit also without the runs on each number of ranks, to learn how well those are predicted.
    n_draws
        Of the bootstrap.

    Raises
    ------
    ValueError
        If there is no run.
    """
    if not observations:
        raise ValueError("no run to fit")
    durations = pooled(observations)
    places = [_place(one, durations) for one in observations]
    walls = np.array([one.wall_s for one in observations])
    laws: dict[str, Law] = {}
    for number, (name, forms, of, scale) in enumerate(_fits(observations, walls)):
        keep = np.isfinite(of)
        kept = [place for place, is_kept in zip(places, keep, strict=True) if is_kept]
        laws[name] = choose_law(
            kept, of[keep], scale[keep], forms, n_draws=n_draws, seed=seed + number
        )
    model = Model(
        laws,
        durations,
        float(np.mean([one.n_files for one in observations])),
        float(np.mean([one.n_bytes for one in observations])),
        tuple(sorted({one.n_ranks for one in observations})),
        tuple(sorted({one.n_tasks for one in observations})),
        max(one.cores for one in observations),
        scatter=tuple(_scatter(observations)) or (0.0,),
    )
    return replace(model, left=tuple(_left_out(observations, seed))) if leave_out else model


def _fits(
    observations: Sequence[Observation], walls: np.ndarray
) -> Iterator[tuple[str, list[tuple[Column, ...]], np.ndarray, np.ndarray]]:
    """Name, forms, values and their scale, of each law."""
    free = {one.n_ranks for one in observations if one.n_ranks <= one.cores}
    for term, forms in (FORMS if len(free) >= _FREE_RANKS else SHARED_FORMS).items():
        yield term, forms, np.array([one.terms[term] for one in observations]), walls
    cpu = np.array([one.task_cpu_s for one in observations])
    whole = np.array([one.task_s for one in observations])
    yield TASK_CPU, sets_of([ONE, _BUSY]), cpu, whole
    yield TASK_WAIT, [(ONE,)], _waiting(observations, cpu, whole), whole
    knees = [Column(users=1, knee=float(k)) for k in sorted({one.cores for one in observations})]
    forms = sets_of([ONE, _USERS, *knees], [], 2)
    for name, values in (
        (FILE, np.array([one.file_s for one in observations])),
        (BYTE, np.array([one.byte_s for one in observations])),
    ):
        yield name, forms, values, np.full(len(values), float(values.mean()))
    # Not a number for each task: with few tasks most of it is what a master does anyway.
    master = np.array([one.master_s * one.n_tasks for one in observations])
    yield MASTER_CPU, sets_of([ONE, TASKS], [], 2), master, np.nan_to_num(master)


def _waiting(observations: Sequence[Observation], cpu: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """What a task takes beyond its CPU time, where cores were no limit; NaN where they were."""
    load = np.array([min(one.n_ranks, one.n_tasks) / one.cores for one in observations])
    is_free = (load <= 1) | (cpu * load < 0.5 * whole)
    found = np.where(is_free, np.maximum(whole - cpu, 0.0), np.nan)
    return found if is_free.any() else np.zeros(len(found))


def _place(one: Observation, durations: np.ndarray) -> At:
    busy = min(one.n_ranks, one.cores)
    uneven = imbalance(durations, one.n_ranks, one.n_tasks) * (
        one.task_s + one.n_files * one.file_s + one.n_bytes * one.byte_s
    )
    return At(one.n_ranks, one.n_tasks, one.n_ranks / busy, busy, one.users, uneven)


def _scatter(observations: Sequence[Observation]) -> Iterator[float]:
    """Of repeats about their median, enlarged by what the median has taken of it."""
    for one in observations:
        size = one.n_ranks, one.n_tasks
        same = [other.wall_s for other in observations if (other.n_ranks, other.n_tasks) == size]
        k = len(same)
        if k > 1:
            yield (one.wall_s / float(np.median(same)) - 1) * math.sqrt(k / (k - 1))


def _left_out(observations: Sequence[Observation], seed: int) -> Iterator[Left]:
    from mpipipe.trace.model.prediction import predict

    ranks = sorted({one.n_ranks for one in observations})
    if len(ranks) < 4:
        return
    for number in ranks:
        rest = [one for one in observations if one.n_ranks != number]
        model = fit(rest, seed=seed, leave_out=False, n_draws=1)
        sizes = sorted({one.n_tasks for one in observations if one.n_ranks == number})
        for n_tasks in sizes:
            same = [one for one in observations
                    if (one.n_ranks, one.n_tasks) == (number, n_tasks)]  # fmt: skip
            found = predict(model, number, n_tasks, cores=same[0].cores, n_draws=0)
            yield Left(number, n_tasks, float(np.median([s.wall_s for s in same])), found.wall_s)
