"""Sweeps: the same tasks on more and more ranks, strong and weak, repeated, in random order.

A sweep is a folder. What it is made of stands in ``sweep.json``; every run that has been measured
leaves ``runs/NAME.json`` and its events in ``runs/NAME/trace``. A sweep that is started again
goes on with what is missing.

On a machine that others use, too, a run counts as disturbed if they have used more of its cores
than is allowed; it is repeated a few times, and the least disturbed one is kept, and flagged.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mpipipe.data.errors import BadDataError, ConfigError, MpipipeError
from mpipipe.parallel.foreign import ForeignWatch
from mpipipe.parallel.host import cores
from mpipipe.parallel.mpirun import run_to_end, start_words
from mpipipe.run.synthetic import Load, Synthetic, write_load
from mpipipe.run.traces import read_run_events
from mpipipe.store.checksums import read_json, write_json_atomically
from mpipipe.store.layout import RunLayout
from mpipipe.trace.model.observation import Observation, observe

_FORMAT = 1
_DROP_CACHES = Path("/proc/sys/vm/drop_caches")
_KEPT = ("trace", "load.json", "logs")
_SECONDS_A_RANK = 1.0
"""What the start of a rank is expected to take of a core, for the time that is left."""


@dataclass(frozen=True)
class Work:
    """What is swept: it can not change once a sweep has begun.

    Attributes
    ----------
    synthetic
        Tasks without science; None for real ones.
    raw
        Folders or lists of raw frames: each is a size of run.
    options
        Further words for `mpipipe run`.
    cold
        Whether files are dropped from the page cache before they are read.
    seed
        Of the tasks, and of the order of the runs.
    """

    synthetic: Synthetic | None = None
    raw: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    cold: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Sizes:
    """Which runs are made.

    Attributes
    ----------
    ranks
        Numbers of ranks.
    tasks
        Of every run of the strong sweep; 0: none. Of real tasks the raw frames say it.
    tasks_a_rank
        Of the weak sweep; 0: none.
    repeats
        Of each.
    """

    ranks: tuple[int, ...]
    tasks: int = 0
    tasks_a_rank: int = 0
    repeats: int = 3


@dataclass(frozen=True)
class How:
    """How runs are made.

    Attributes
    ----------
    foreign
        Share of the cores that others may use.
    tries
        Of a run that is disturbed.
    launcher
        As `mpipipe.parallel.mpirun.start_words` takes it.
    n_cores
        Of all ranks together; 0: those of this host, times the nodes of the Slurm allocation.
    limit_s
        After which a run is given up.
    """

    foreign: float = 0.03
    tries: int = 3
    launcher: str = ""
    n_cores: int = 0
    limit_s: float = 3600.0

    @property
    def cores(self) -> int:
        """Of all ranks together."""
        nodes = os.environ.get("SLURM_JOB_NUM_NODES", "1")
        return self.n_cores or cores() * (int(nodes) if nodes.isdecimal() else 1)


@dataclass(frozen=True)
class Point:
    """One run of a sweep: its size, which repeat, which of the raw folders."""

    n_ranks: int
    n_tasks: int
    repeat: int
    raw: int = 0

    @property
    def name(self) -> str:
        """Of its file and folder."""
        size = f"n{self.n_tasks}" if self.n_tasks else f"raw{self.raw}"
        return f"p{self.n_ranks}-{size}-r{self.repeat}"


@dataclass(frozen=True)
class Measured:
    """One run that was made.

    Attributes
    ----------
    seen
        What it tells the model.
    foreign
        Share of the cores that others have used.
    tries
        That were made.
    is_disturbed
        Whether others used too much every time.
    """

    name: str
    seen: Observation
    foreign: float
    tries: int
    is_disturbed: bool


Tell = Callable[[str], None]


def points_of(work: Work, sizes: Sizes) -> list[Point]:
    """All runs of a sweep, in random order."""
    found: set[Point] = set()
    for n_ranks in sizes.ranks:
        for repeat in range(sizes.repeats):
            if work.synthetic is None:
                found |= {Point(n_ranks, 0, repeat, k) for k in range(len(work.raw))}
                continue
            for n_tasks in (sizes.tasks, sizes.tasks_a_rank * n_ranks):
                if n_tasks:
                    found.add(Point(n_ranks, n_tasks, repeat))
    ordered = sorted(found, key=lambda point: point.name)
    random.Random(work.seed).shuffle(ordered)
    return ordered


def run_sweep(folder: Path, work: Work, sizes: Sizes, how: How, tell: Tell) -> list[Measured]:
    """Make the runs of a sweep that are not there yet.

    Parameters
    ----------
    tell
        Called with a line about every run.

    Returns
    -------
    list of Measured
        All that are there.

    Raises
    ------
    ConfigError
        If the folder has a sweep of other tasks, or there is nothing to do.
    MpipipeError
        If a run fails: those before it stay.
    """
    points = points_of(work, sizes)
    if not points:
        raise ConfigError("no run to make", way_out="--tasks or --tasks-per-rank, and --ranks")
    _claim(folder, work)
    if work.cold:
        tell(f"cold: files are dropped from the page cache; directory entries {_entries()}")
    todo = [point for point in points if not _result(folder, point).exists()]
    if len(todo) < len(points):
        tell(f"{len(points) - len(todo)} of {len(points)} runs are there")
    expected = [_expected_s(work, point, how) for point in todo]
    spent = 0.0
    for number, point in enumerate(todo):
        begin = time.perf_counter()
        one = _measure(folder, work, point, how, tell)
        write_json_atomically(_result(folder, point), _as_json(one))
        spent += time.perf_counter() - begin
        done = sum(expected[: number + 1])
        left = spent / done * (sum(expected) - done)
        tell(
            f"[{number + 1}/{len(todo)}] {point.n_ranks} ranks, {one.seen.n_tasks} tasks: "
            f"{one.seen.wall_s:.2f} s, others used {100 * one.foreign:.1f} % of the cores"
            + ("; DISTURBED" if one.is_disturbed else "")
            + (f"; {left / 60:.0f} min left" if left >= 60 else f"; {left:.0f} s left")
        )
    return read_sweep(folder)


def read_sweep(folder: Path) -> list[Measured]:
    """The runs of a sweep that were measured, by name.

    Raises
    ------
    ConfigError
        If there are none.
    BadDataError
        If one can not be read.
    """
    found = [_read(path) for path in sorted((folder / "runs").glob("*.json"))]
    if not found:
        raise ConfigError(
            "has no measured run", file=folder, way_out="mpipipe scaling run -o DIR makes some"
        )
    return found


def read_work(folder: Path) -> Work:
    """What a sweep is of.

    Raises
    ------
    BadDataError
        If it can not be read.
    """
    path = folder / "sweep.json"
    content = read_json(path)
    try:
        if content["version"] != _FORMAT:
            raise BadDataError(f"is of version {content['version']}, not {_FORMAT}", file=path)
        found = content["work"]
        task = found["synthetic"]
        words = {name: tuple(found[name]) for name in ("raw", "options")}
        return Work(**found | words | {"synthetic": task and Synthetic(**task)})
    except (KeyError, TypeError) as error:
        raise BadDataError(f"is no description of a sweep ({error})", file=path) from error


def _as_json(one: Measured) -> dict[str, Any]:
    found = asdict(one)
    if math.isnan(one.seen.master_s):
        found["seen"]["master_s"] = None
    return found


def _read(path: Path) -> Measured:
    content = read_json(path)
    try:
        seen: dict[str, Any] = content["seen"]
        master = math.nan if seen["master_s"] is None else seen["master_s"]
        seen = seen | {"durations": tuple(seen["durations"]), "master_s": master}
        return Measured(**content | {"seen": Observation(**seen)})
    except (KeyError, TypeError) as error:
        raise BadDataError(f"is no measured run ({error})", file=path) from error


def _claim(folder: Path, work: Work) -> None:
    path = folder / "sweep.json"
    if path.exists():
        if read_work(folder) != work:
            raise ConfigError(
                "has a sweep of other tasks, raw frames, options, cache or seed",
                file=folder,
                way_out="name another folder; ranks, tasks and repeats may be added",
            )
        return
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError("is not empty, and no sweep", file=folder)
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    write_json_atomically(path, {"version": _FORMAT, "work": asdict(work)})


def _result(folder: Path, point: Point) -> Path:
    return folder / "runs" / f"{point.name}.json"


def _expected_s(work: Work, point: Point, how: How) -> float:
    task = work.synthetic
    each = 10.0 if task is None else task.sleep + task.compute + task.bytes / 5e8
    share = (point.n_tasks or 10) / point.n_ranks
    return 1.0 + each * share + _SECONDS_A_RANK * point.n_ranks / min(point.n_ranks, how.cores)


def _measure(folder: Path, work: Work, point: Point, how: How, tell: Tell) -> Measured:
    """One run, again while others disturb it; the least disturbed one counts."""
    best: Measured | None = None
    for number in range(1, max(how.tries, 1) + 1):
        one = _once(folder, work, point, how)
        if best is None or one.foreign < best.foreign:
            best = one
        best = replace(best, tries=number, is_disturbed=best.foreign > how.foreign)
        if not best.is_disturbed:
            break
        if number < how.tries:
            tell(f"others used {100 * one.foreign:.1f} % of the cores during {point.name}: again")
    assert best is not None
    return best


def _once(folder: Path, work: Work, point: Point, how: How) -> Measured:
    root = folder / "runs" / point.name
    shutil.rmtree(root, ignore_errors=True)
    words = _prepare(work, point, root)
    command = [*start_words(point.n_ranks, how.launcher), sys.executable, "-m", "mpipipe", *words]
    watch, begin = ForeignWatch(), time.perf_counter()
    try:
        run_to_end(command, how.limit_s)
        wall = time.perf_counter() - begin
        foreign = watch.share()
        layout = RunLayout.at(root)
        _, events = read_run_events(layout)
        seen = observe(events, how.cores, wall, point.n_tasks or None)
    except ValueError as error:
        raise MpipipeError(str(error), file=root) from error
    finally:
        _keep_events(root)
    return Measured(point.name, seen, foreign, 1, is_disturbed=False)


def _prepare(work: Work, point: Point, root: Path) -> list[str]:
    """Lay out what a run needs; the words of its command."""
    if work.synthetic is not None:
        write_load(Load(work.synthetic, point.n_tasks, work.seed, work.cold), root)
        return ["scaling", "rank", str(root)]
    raw = Path(work.raw[point.raw])
    if work.cold:
        drop_from_cache(raw)
    return ["run", "-q", str(raw), "-o", str(root), *work.options]


def _entries() -> str:
    """What becomes of them."""
    is_root = os.access(_DROP_CACHES, os.W_OK)
    return "of raw frames, too" if is_root else "stay: only root can drop them"


def drop_from_cache(folder: Path) -> None:
    """Drop the pages of the files of a folder; as root, all the kernel has of file systems.

    What a file server keeps stays.
    """
    for path in _files(folder):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
    if os.access(_DROP_CACHES, os.W_OK):
        with contextlib.suppress(OSError):
            os.sync()
            _DROP_CACHES.write_text("3\n", encoding="ascii")


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (path for path in folder.rglob("*") if path.is_file())
        return
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in folder.read_text().splitlines():
            yield folder.parent / line.strip()


def _keep_events(root: Path) -> None:
    """Remove what a run has made, but for its events and logs."""
    if not root.is_dir():
        return
    layout = RunLayout.at(root)
    incarnations = layout.incarnations()
    for path in root.iterdir():
        if path.name in _KEPT:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    for number in incarnations:  # so that there is still something to read the events of
        layout.record_folder(number).mkdir(parents=True)


def parse_ranks(text: str) -> tuple[int, ...]:
    """Read ``1,2,4``.

    Raises
    ------
    ConfigError
        If it is no list of numbers of ranks.
    """
    try:
        found = sorted({int(word) for word in text.split(",")})
    except ValueError:
        found = [0]
    if found[0] < 1:
        raise ConfigError(
            f"{text!r} is no list of numbers of ranks", key="--ranks", way_out="--ranks 1,2,4,8"
        )
    return tuple(found)


def observations(runs: Sequence[Measured]) -> list[Observation]:
    """What the runs of a sweep tell the model."""
    return [one.seen for one in runs]
