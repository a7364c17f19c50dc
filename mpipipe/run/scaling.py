"""What a run would take on other numbers of ranks: its own tasks and costs, and the real scheduler.

Everything is measured on a run that is there: how long its tasks compute, how many bytes they move,
what a commit and an outcome cost. What a run on a few cores can not tell is asked of the user: the
bandwidth of the file system, how long ranks live.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from mpipipe.data.errors import ConfigError
from mpipipe.parallel.simulated_phase import Load, Machine, Simulated, simulate_phase
from mpipipe.parallel.tasks import Policy, SpecTable

PHASE = "calibrate"
_LEAST_TASKS = 3


@dataclass(frozen=True)
class Measured:
    """What a run tells of its phase `calibrate`.

    Attributes
    ----------
    seconds
        Of work of each task, without its files.
    n_bytes
        That each has read and written.
    n_files
        Mean number of reads and writes of a task.
    file_s, bandwidth
        Seconds of a read or write that has nothing to do with its size, and bytes a second.
    commit_s, master_s
        Of a record; of the master for an outcome.
    start_s, gap_s
        From the start of the phase to the first task; from a task to the next of its rank.
    wall_s, n_ranks
        Of the phase itself.
    """

    seconds: np.ndarray
    n_bytes: np.ndarray
    n_files: float
    file_s: float
    bandwidth: float
    commit_s: float
    master_s: float
    start_s: float
    gap_s: float
    wall_s: float
    n_ranks: int

    @property
    def machine(self) -> Machine:
        """The costs of that machine, with its bandwidth for each rank, and no limit for all."""
        return Machine(
            master_s=self.master_s,
            commit_s=self.commit_s,
            start_s=self.start_s,
            gap_s=self.gap_s,
            rank_bandwidth=self.bandwidth,
            file_s=self.file_s,
        )


def measure(events: np.ndarray, name: str = PHASE) -> Measured:
    """Costs from the events of a run, rows of `mpipipe.trace.eventfile.EVENTS`.

    Parameters
    ----------
    name
        The phase.

    Raises
    ------
    ConfigError
        If it has not calibrated at least three exposures.
    """
    tasks = events[(events["kind"] == b"task") & (events["name"] == name.encode())]
    if len(tasks) < _LEAST_TASKS:
        raise ConfigError(
            f"its events tell of {len(tasks)} tasks of {name}; it takes {_LEAST_TASKS}",
            way_out="name a run that has done more, or another start of it (--incarnation)",
        )
    is_file = np.isin(events["kind"], (b"read", b"write"))
    files = events[is_file & np.isin(events["task"], tasks["task"])]
    order = np.argsort(tasks["task"], kind="stable")
    tasks = tasks[order]
    numbers = np.unique(tasks["task"])
    last = np.searchsorted(tasks["task"], numbers, side="right") - 1
    duration = tasks["duration"][last]
    place = np.searchsorted(numbers, files["task"])
    spent = np.bincount(place, files["duration"], len(numbers))
    n_bytes = np.bincount(place, files["nBytes"], len(numbers))
    file_s, bandwidth = _line(files["nBytes"].astype(float), files["duration"])
    commits = events[(events["kind"] == b"checkpoint") & (events["name"] == name.encode())]
    phase = events[(events["kind"] == b"phase") & (events["name"] == name.encode())]
    return Measured(
        np.maximum(duration - spent, 0.0),
        n_bytes,
        len(files) / len(numbers),
        file_s,
        bandwidth,
        float(np.median(commits["duration"])) if len(commits) else 0.0,
        _master_s(phase, len(numbers)),
        max(float(tasks["start"].min() - phase["start"].min()), 0.0) if len(phase) else 0.0,
        _gap_s(tasks),
        float(phase["duration"].max()) if len(phase) else 0.0,
        len(phase),
    )


def _line(n_bytes: np.ndarray, seconds: np.ndarray) -> tuple[float, float]:
    """Seconds without any byte, and bytes a second, by the slopes between pairs of transfers.

    References
    ----------
    Theil (1950), Sen (1968): the median slope; a slow transfer in between does not move it.
    """
    if len(n_bytes) < 2 or np.ptp(n_bytes) == 0:
        return float(np.median(seconds)) if len(seconds) else 0.0, np.inf
    chosen = np.linspace(0, len(n_bytes) - 1, min(len(n_bytes), 400)).astype(int)
    x, y = n_bytes[chosen], seconds[chosen]
    first, second = np.triu_indices(len(x), 1)
    apart = x[second] != x[first]
    slopes = (y[second] - y[first])[apart] / (x[second] - x[first])[apart]
    slope = max(float(np.median(slopes)), 0.0)
    rest = max(float(np.median(y - slope * x)), 0.0)
    return rest, 1.0 / slope if slope > 0 else np.inf


def _master_s(phase: np.ndarray, n_tasks: int) -> float:
    """What the MPI process of rank 0 takes more than the others', for each task."""
    if len(phase) < 2:
        return Machine().master_s
    cpu = phase["cpu"][np.argsort(phase["rank"])].astype(float)
    more = (cpu[0] - float(np.median(cpu[1:]))) / n_tasks
    return max(more, Machine().master_s)


def _gap_s(tasks: np.ndarray) -> float:
    """The median time from the end of a task to the beginning of its rank's next one."""
    ordered = tasks[np.lexsort((tasks["start"], tasks["rank"]))]
    gaps = ordered["start"][1:] - (ordered["start"] + ordered["duration"])[:-1]
    gaps = gaps[ordered["rank"][1:] == ordered["rank"][:-1]]
    return max(float(np.median(gaps)), 0.0) if len(gaps) else 0.0


def load_like(measured: Measured, n_tasks: int, n_ccds: int, seed: int) -> Load:
    """So many tasks, each like a random one of those measured, in turn of the CCDs of a camera."""
    drawn = np.random.default_rng(seed).integers(0, len(measured.seconds), n_tasks)
    seconds, n_bytes = measured.seconds[drawn], measured.n_bytes[drawn]
    # The plan knows what tasks cost on the mean, not each one's own time.
    expected = np.full(n_tasks, float(measured.seconds.mean()))
    specs = SpecTable(np.arange(n_tasks), expected, np.arange(n_tasks) % n_ccds, 900.0)
    return Load(specs, seconds, n_bytes, measured.n_files)


def foresee(
    measured: Measured,
    ranks: Sequence[int],
    n_tasks: int,
    *,
    n_ccds: int = 189,
    seed: int = 0,
    asked: Mapping[str, float] | None = None,
) -> list[Simulated]:
    """The phase on each of these numbers of ranks.

    Parameters
    ----------
    asked
        Fields of `Machine` that are not those of the run.
    """
    machine = Machine(**(asdict(measured.machine) | dict(asked or {})))
    load = load_like(measured, n_tasks, n_ccds, seed)
    return [simulate_phase(load, number, machine, Policy(), seed) for number in ranks]
