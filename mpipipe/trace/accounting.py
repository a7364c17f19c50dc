"""Where the wall time of a run went: every moment of every rank belongs to one thing.

A rank has a core. At each moment it does what its task process does, or else what its MPI process
does, or nothing; of events that hold others the innermost counts. So the shares of a rank add up to
its wall time, whatever overlaps. Commits and messages of the MPI process while a task runs cost the
core besides; they are told apart as what is hidden behind tasks. A rank with several task processes
at the same time (`mpipipe process -j`) has as many cores, and each is told of by itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

OTHER, IDLE = "other", "idle"
_IN_TASK = (b"task", b"stage")
_OVERHEAD = ("checkpoint", "read", "write")
_WHOLE = b"phase"


@dataclass(frozen=True)
class RankTime:
    """One rank, or one of its cores.

    Attributes
    ----------
    core
        Which of the task processes that ran at the same time; 0 where there is one at a time.
    wall_s
        From the start of its process to its last event.
    shares
        Kind of event to name to seconds; they add up to `wall_s`.
    hidden_s
        Seconds of the MPI process's events while a task ran, by kind.
    """

    rank: int
    core: int
    wall_s: float
    shares: dict[str, dict[str, float]]
    hidden_s: dict[str, float]

    def of_kind(self, *kinds: str) -> float:
        """Seconds of these kinds."""
        return sum(sum(self.shares.get(kind, {}).values()) for kind in kinds)


@dataclass(frozen=True)
class PhaseTime:
    """One phase: how long it took, how long its ranks worked on tasks, and its tasks.

    Attributes
    ----------
    busy_s
        Seconds in tasks of each rank, or of each of its cores.
    longest_s
        The longest task.
    """

    name: str
    wall_s: float
    busy_s: list[float]
    n_tasks: int
    longest_s: float

    @property
    def balance(self) -> float:
        """Mean over maximum of what the ranks worked; 1 is perfect."""
        return float(np.mean(self.busy_s) / max(self.busy_s)) if any(self.busy_s) else 1.0


@dataclass(frozen=True)
class Account:
    """Where the time of an incarnation went.

    Attributes
    ----------
    wall_s
        From the first start of a process to the last event of any rank.
    gains_s
        Estimates of what the wall time would be shorter by: without checkpoint, without reading and
        writing, with perfect balance.
    """

    wall_s: float
    ranks: tuple[RankTime, ...]
    phases: tuple[PhaseTime, ...]
    gains_s: dict[str, float] = field(default_factory=dict)


def account(events: np.ndarray) -> Account:
    """Account for the events of one incarnation, rows of `mpipipe.trace.eventfile.EVENTS`."""
    timed = events[(events["kind"] != b"sample") & (events["kind"] != _WHOLE)]
    core_of = _cores(timed)
    ranks = tuple(
        time_
        for rank in np.unique(timed["rank"])
        for time_ in _rank_times(timed[timed["rank"] == rank], core_of)
    )
    if not ranks:
        return Account(0.0, (), ())
    ends = timed["start"] + timed["duration"]
    wall = float(ends.max() - timed["start"].min())
    phases = tuple(_phases(events, core_of))
    return Account(wall, ranks, phases, _gains(ranks, phases))


_Cores = dict[tuple[int, int], int]
"""(rank, process) to core."""


def _cores(events: np.ndarray) -> _Cores:
    """Which core of its rank each task process has: those that follow each other share one."""
    tasks = events[events["kind"] == b"task"]
    found: _Cores = {}
    for rank in np.unique(tasks["rank"]).tolist():
        mine = tasks[tasks["rank"] == rank]
        spans = []
        for process in np.unique(mine["process"]).tolist():
            its = mine[mine["process"] == process]
            end = float((its["start"] + its["duration"]).max())
            spans.append((float(its["start"].min()), end, process))
        free: list[float] = []
        for start, end, process in sorted(spans):
            core = next((c for c, since in enumerate(free) if since <= start), len(free))
            free[core : core + 1] = [end]
            found[rank, process] = core
    return found


def _rank_times(events: np.ndarray, core_of: _Cores) -> Iterator[RankTime]:
    """The cores of a rank. What the MPI process does counts on each that has no task then."""
    is_task = _of_task_process(events)
    inner, outer = events[is_task], events[~is_task]
    rank = int(events["rank"][0])
    of_event = np.array([core_of.get((rank, p), 0) for p in inner["process"].tolist()], dtype=int)
    begin = float(events["start"].min())
    end = float((events["start"] + events["duration"]).max())
    for core in range(max(of_event, default=0) + 1):
        yield _core_time(rank, core, inner[of_event == core], outer, begin, end)


def _core_time(
    rank: int, core: int, inner: np.ndarray, outer: np.ndarray, begin: float, end: float
) -> RankTime:
    shares: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    hidden: dict[str, float] = defaultdict(float)
    busy = list(_innermost(inner))
    for a, b, kind, name in busy:
        shares[kind][name] += b - a
    free = _gaps([(a, b) for a, b, _, _ in busy], begin, end)
    left = sum(b - a for a, b in free)
    edges = np.array(free).reshape(-1, 2)
    for a, b, kind, name in _innermost(outer):
        seen = _overlap(edges, a, b)
        shares[kind][name] += seen
        left -= seen
        hidden[kind] += b - a - seen
    shares[OTHER][OTHER] += max(left, 0.0)
    return RankTime(
        rank,
        core,
        end - begin,
        {kind: dict(names) for kind, names in shares.items()},
        dict(hidden),
    )


def _of_task_process(events: np.ndarray) -> np.ndarray:
    """Which events are of task processes: those of processes that have run a task."""
    ran = np.unique(events["process"][np.isin(events["kind"], _IN_TASK)])
    found: np.ndarray = np.isin(events["process"], ran)
    if found.all() and (events["kind"] == b"task").any():
        return _within_tasks(events)  # one process does it all: what lies in a task is the task's
    return found


def _within_tasks(events: np.ndarray) -> np.ndarray:
    tasks = events[events["kind"] == b"task"]
    order = np.argsort(tasks["start"], kind="stable")
    starts = tasks["start"][order]
    ends = starts + tasks["duration"][order]
    place = np.searchsorted(starts, events["start"], side="right") - 1
    inside: np.ndarray = (place >= 0) & (events["start"] < ends[np.maximum(place, 0)])
    return inside


def _innermost(events: np.ndarray) -> Iterator[tuple[float, float, str, str]]:
    """Stretches of time, and the innermost event of each, of events that hold each other."""
    order = np.lexsort((-events["duration"], events["start"]))
    starts = events["start"][order].tolist()
    ends = (events["start"] + events["duration"])[order].tolist()
    kinds = [kind.decode() for kind in events["kind"][order].tolist()]
    names = [name.decode("utf-8", "replace") for name in events["name"][order].tolist()]
    open_: list[tuple[float, str, str]] = []  # end, kind, name
    now = -np.inf
    for start, end, kind, name in zip(starts, ends, kinds, names, strict=True):
        while open_ and open_[-1][0] <= start:
            last, its_kind, its_name = open_.pop()
            if last > now:
                yield now, last, its_kind, its_name
                now = last
        if open_ and start > now:
            yield now, start, open_[-1][1], open_[-1][2]
        now = max(now, start)
        open_.append((min(end, open_[-1][0]) if open_ else end, kind, name))
    while open_:
        last, its_kind, its_name = open_.pop()
        if last > now:
            yield now, last, its_kind, its_name
            now = last


def _gaps(busy: list[tuple[float, float]], begin: float, end: float) -> list[tuple[float, float]]:
    """What of (begin, end) no stretch covers; stretches are in order and apart."""
    found, now = [], begin
    for a, b in busy:
        if a > now:
            found.append((now, a))
        now = max(now, b)
    if end > now:
        found.append((now, end))
    return found


def _overlap(edges: np.ndarray, a: float, b: float) -> float:
    """How much of (a, b) lies in these stretches, which are in order and apart."""
    first = int(np.searchsorted(edges[:, 1], a, side="right"))
    last = int(np.searchsorted(edges[:, 0], b, side="left"))
    part = edges[first:last]
    if not len(part):
        return 0.0
    return float((np.minimum(part[:, 1], b) - np.maximum(part[:, 0], a)).sum())


def _phases(events: np.ndarray, core_of: _Cores) -> Iterator[PhaseTime]:
    marks = events[events["kind"] == _WHOLE]
    tasks = events[events["kind"] == b"task"]
    begun: dict[bytes, float] = {}
    for name, start in zip(marks["name"].tolist(), marks["start"].tolist(), strict=True):
        begun[name] = min(start, begun.get(name, start))
    for name, begin in sorted(begun.items(), key=lambda pair: pair[1]):
        mine = marks[marks["name"] == name]
        held = tasks[tasks["name"] == name]
        cores = {(rank, 0): 0.0 for rank in mine["rank"].tolist()}
        cores |= {(rank, core): 0.0 for (rank, _), core in core_of.items()}
        pairs = zip(held["rank"].tolist(), held["process"].tolist(), strict=True)
        for (rank, process), spent in zip(pairs, held["duration"].tolist(), strict=True):
            cores[rank, core_of[rank, process]] += spent
        busy = list(cores.values())
        wall = float((mine["start"] + mine["duration"]).max()) - begin
        longest = float(held["duration"].max()) if len(held) else 0.0
        yield PhaseTime(name.decode(), wall, busy, len(held), longest)


def _gains(ranks: tuple[RankTime, ...], phases: tuple[PhaseTime, ...]) -> dict[str, float]:
    """What a rank would save on the mean by each: those that wait for it would, too."""
    n = len(ranks)
    checkpoint = sum(rank.of_kind("checkpoint") for rank in ranks) / n
    files = sum(rank.of_kind("read", "write") for rank in ranks) / n
    balance = sum(
        max(phase.busy_s) - float(np.mean(phase.busy_s)) for phase in phases if phase.busy_s
    )
    return {
        "without checkpoint": checkpoint,
        "without reading and writing": files,
        "with perfect balance": balance,
    }
