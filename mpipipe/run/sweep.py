"""Sweeps: the same tasks on more and more ranks, strong and weak, repeated, in random order.

A sweep is a folder. What it is made of stands in ``sweep.json``; every run that has been measured
leaves ``runs/NAME.json`` and its events in ``runs/NAME/trace``. A sweep that is started again
goes on with what is missing.

On a machine that others use, too, a run counts as disturbed if they have used more of its cores
than is allowed; it is repeated a few times, and the least disturbed one is kept, and flagged. Where
it can not be known what others use (`How.sees_all`), no run is repeated.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from mpipipe.data.errors import BadDataError, ConfigError, MpipipeError, OutputError
from mpipipe.parallel.foreign import ForeignWatch
from mpipipe.parallel.host import cores
from mpipipe.parallel.mpirun import run_to_end, start_words
from mpipipe.run.prepare import find_files
from mpipipe.run.synthetic import Load, Synthetic, write_load
from mpipipe.run.traces import read_run_events
from mpipipe.store.checksums import read_json, write_json_atomically
from mpipipe.store.layout import RunLayout
from mpipipe.store.scan import find_raw_files
from mpipipe.trace.model.observation import MEASURED, Observation, observe

_FORMAT = 1
_DROP_CACHES = Path("/proc/sys/vm/drop_caches")
_KEPT = ("trace", "load.json", "logs")
_WENT_THROUGH = (0, 3)
"""Codes of `mpipipe run`: done; done, but some data were partial or bad, as they may be."""
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
    redo
        Whether runs are made again that were disturbed.
    """

    foreign: float = 0.03
    tries: int = 3
    launcher: str = ""
    n_cores: int = 0
    limit_s: float = 3600.0
    redo: bool = False

    @property
    def cores(self) -> int:
        """Of all ranks together."""
        return self.n_cores or cores() * _n_nodes()

    @property
    def sees_all(self) -> bool:
        """Whether all ranks descend from us, and are here: those that srun starts do not."""
        return not self.launcher and _n_nodes() == 1


def _n_nodes() -> int:
    found = os.environ.get("SLURM_JOB_NUM_NODES", "1")
    return int(found) if found.isdecimal() else 1


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
        Share of the cores that others have used; None: not known.
    tries
        That were made.
    is_disturbed
        Whether others used too much every time.
    """

    name: str
    seen: Observation
    foreign: float | None
    tries: int
    is_disturbed: bool

    @property
    def others(self) -> str:
        """What they have used, in words."""
        return "not known" if self.foreign is None else f"{100 * self.foreign:.1f} % of the cores"

    def exceeds(self, foreign: float) -> bool:
        """Whether others are known to have used more."""
        return self.foreign is not None and self.foreign > foreign


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
        If the folder has a sweep of other tasks, another process works there, or there is nothing
        to do.
    OutputError
        If the folder can not be written.
    MpipipeError
        If a run fails: those before it stay.
    """
    points = points_of(work, sizes)
    if not points:
        raise ConfigError("no run to make", way_out="--tasks or --tasks-per-rank, and --ranks")
    with _claimed(folder, work):
        if work.cold:
            tell(f"cold: files are dropped from the page cache; directory entries {_entries()}")
        todo = [point for point in points if _is_missing(folder, point, how)]
        if len(todo) < len(points):
            tell(f"{len(points) - len(todo)} of {len(points)} runs are there")
        _make(folder, work, todo, how, tell)
        return read_sweep(folder)


def _make(folder: Path, work: Work, todo: Sequence[Point], how: How, tell: Tell) -> None:
    """Make these runs, and tell of each."""
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
            f"{one.seen.wall_s:.2f} s; used by others: {one.others}"
            + ("; DISTURBED" if one.is_disturbed else "")
            + (f"; {left / 60:.0f} min left" if left >= 60 else f"; {left:.0f} s left")
        )


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
        foreign = content["foreign"]
        return Measured(
            str(content["name"]),
            _seen(content["seen"]),
            None if foreign is None else float(foreign),
            int(content["tries"]),
            bool(content["is_disturbed"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadDataError(
            f"is no measured run ({error!r})", file=path, way_out="remove it, and go on"
        ) from error


def _seen(content: dict[str, Any]) -> Observation:
    master, terms = content["master_s"], content["terms"]
    found: dict[str, Any] = {name: int(content[name]) for name in ("n_ranks", "n_tasks", "cores")}
    if min(found.values()) < 1:
        raise ValueError("no rank, task or core")
    names = ("wall_s", "task_s", "task_cpu_s", "n_files", "n_bytes", "file_s", "byte_s", "users")
    return Observation(
        **found | {name: float(content[name]) for name in names},
        terms={term: float(terms[term]) for term in MEASURED},
        master_s=math.nan if master is None else float(master),
        durations=tuple(map(float, content["durations"])),
    )


@contextlib.contextmanager
def _claimed(folder: Path, work: Work) -> Iterator[None]:
    """The folder is ours alone, and its sweep is of this work."""
    with _open(folder) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _describe(stream, work)
        except BlockingIOError:
            raise ConfigError("another sweep works there", file=folder) from None
        except OSError as error:
            raise OutputError(f"can not be written: {error.strerror}", file=folder) from error
        if read_work(folder) != work:
            raise ConfigError(
                "has a sweep of other tasks, raw frames, options, cache or seed",
                file=folder,
                way_out="name another folder; ranks, tasks and repeats may be added",
            )
        yield


def _open(folder: Path) -> TextIO:
    """What says what the sweep is of; empty if it is new."""
    path = folder / "sweep.json"
    try:
        if not path.exists() and folder.exists() and any(folder.iterdir()):
            raise ConfigError("is not empty, and no sweep", file=folder)
        (folder / "runs").mkdir(parents=True, exist_ok=True)
        return open(path, "a", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"can not be written: {error.strerror}", file=folder) from error


def _describe(stream: TextIO, work: Work) -> None:
    """Say what a new sweep is of; in place, for the file is locked."""
    if not os.fstat(stream.fileno()).st_size:
        json.dump({"version": _FORMAT, "work": asdict(work)}, stream, indent=1, sort_keys=True)
        stream.flush()
        os.fsync(stream.fileno())


def _result(folder: Path, point: Point) -> Path:
    return folder / "runs" / f"{point.name}.json"


def _expected_s(work: Work, point: Point, how: How) -> float:
    task = work.synthetic
    each = 10.0 if task is None else task.sleep + task.compute + task.bytes / 5e8
    share = (point.n_tasks or 10) / point.n_ranks
    return 1.0 + each * share + _SECONDS_A_RANK * point.n_ranks / min(point.n_ranks, how.cores)


def _is_missing(folder: Path, point: Point, how: How) -> bool:
    path = _result(folder, point)
    return not path.exists() or (how.redo and _read(path).exceeds(how.foreign))


def _measure(folder: Path, work: Work, point: Point, how: How, tell: Tell) -> Measured:
    """One run, again while others disturb it; the least disturbed one and its events are kept."""
    result, root = _result(folder, point), folder / "runs" / point.name
    attempt = root.with_name(f"{point.name}.try")
    best = _read(result) if result.exists() else None
    before = best.tries if best else 0
    for number in range(1, max(how.tries, 1) + 1):
        one = _once(attempt, work, point, how)
        if best is None or (best.foreign or 0.0) > (one.foreign or 0.0):
            best = one
            result.unlink(missing_ok=True)  # it would tell of other events
            shutil.rmtree(root, ignore_errors=True)
            attempt.rename(root)
        else:
            shutil.rmtree(attempt, ignore_errors=True)
        best = replace(best, tries=before + number, is_disturbed=best.exceeds(how.foreign))
        if not best.is_disturbed:
            break
        if number < how.tries:
            tell(f"{point.name}: used by others: {one.others}; again")
    assert best is not None
    return best


def _once(root: Path, work: Work, point: Point, how: How) -> Measured:
    shutil.rmtree(root, ignore_errors=True)
    words = _prepare(work, point, root)
    command = [*start_words(point.n_ranks, how.launcher), sys.executable, "-m", "mpipipe", *words]
    watch, begin = ForeignWatch(), time.perf_counter()
    try:
        run_to_end(command, how.limit_s, fine=(0,) if work.synthetic else _WENT_THROUGH)
        wall = time.perf_counter() - begin
        foreign = watch.share() if how.sees_all else None
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


def drop_from_cache(raw: Path) -> None:
    """Drop the pages of raw frames; as root, all the kernel has of file systems.

    What a file server keeps stays.

    Parameters
    ----------
    raw
        A folder, a list, or one of them.
    """
    for path in find_raw_files(find_files(raw)):
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
