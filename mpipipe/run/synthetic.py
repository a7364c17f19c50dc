"""Tasks without science: they sleep, compute, and move bytes, through all that a run's tasks go.

The scheduler, the task process, checkpoint, exchange and events are those of a run. So what
coordination and files cost can be measured apart from the science, and on more ranks than there
are cores, since who sleeps needs none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mpipipe.data.errors import ConfigError, MpipipeError
from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.parallel.clocks import behind_master
from mpipipe.parallel.exchange import exchange
from mpipipe.parallel.launch import Ranks
from mpipipe.parallel.tasks import PhaseReport, SpecTable, TaskReport, TaskResult
from mpipipe.parallel.together import on_master, together
from mpipipe.run.checkpoint import begin_checkpoint, committing, open_checkpoint
from mpipipe.store.checkpoint.syncing import Durability
from mpipipe.store.checksums import read_json, write_json_atomically
from mpipipe.store.layout import RunLayout
from mpipipe.trace import events

PHASE = "synthetic"
_DONE = Outcome(OutcomeKind.DONE)
_ROW = np.dtype([("task", "<i8"), ("value", "<f8", (7,))])
_ROUND_BYTES = 1 << 24
_BLOCK = 1 << 20
_DEADLINE_S = 900.0
_INCARNATION = 1
_UNITS = {"k": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True)
class Synthetic:
    """What a task does, on the mean.

    Attributes
    ----------
    sleep, compute
        Seconds without CPU, and of CPU.
    bytes
        That it writes, syncs if the load is cold, and reads again, in all.
    files
        Files that it writes them to.
    spread
        Of the logarithm of what each task does about the mean.
    record
        Bytes that it commits, 1 MiB at most.
    rows
        Of 64 bytes each, that it gives to the exchange.
    """

    sleep: float = 0.0
    compute: float = 0.0
    bytes: float = 0.0
    files: int = 2
    spread: float = 0.3
    record: int = 2000
    rows: int = 100

    @classmethod
    def parse(cls, text: str) -> Synthetic:
        """Read ``sleep=0.2,bytes=8M``.

        Raises
        ------
        ConfigError
            If it makes no sense.
        """
        known = {name: type(value) for name, value in asdict(cls()).items()}
        found: dict[str, Any] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = part.partition("=")
            if name not in known or not value:
                raise _senseless(f"{part!r} is none of NAME=NUMBER with {', '.join(known)}")
            unit = _UNITS.get(value[-1], 1.0)
            try:
                number = float(value[:-1] if unit > 1 else value) * unit
            except ValueError:
                raise _senseless(f"{value!r} is no number") from None
            if not 0 <= number < 1e12:
                raise _senseless(f"{part!r} is negative, or beyond all measure")
            found[name] = known[name](number)
        task = cls(**found)
        if not (task.sleep or task.compute or task.bytes):
            raise _senseless("such a task does nothing")
        if task.bytes and not task.files:
            raise _senseless("bytes go to files: at least one")
        if task.record > _BLOCK:
            raise _senseless(f"a record of {task.record} bytes: {_BLOCK} at most")
        return task


def _senseless(reason: str) -> ConfigError:
    return ConfigError(reason, key="--synthetic", way_out="sleep=0.2,compute=0.1,bytes=8M")


@dataclass(frozen=True)
class Load:
    """Many tasks.

    Attributes
    ----------
    task
        What each does on the mean.
    n_tasks
        How many.
    seed
        Of how they differ: the first tasks of a load are those of a smaller one.
    cold
        Files that were written are dropped from the page cache before they are read.
    """

    task: Synthetic
    n_tasks: int
    seed: int = 0
    cold: bool = False

    def sizes(self) -> np.ndarray:
        """What each task does, relative to the mean."""
        spread = self.task.spread
        drawn = np.random.default_rng(self.seed).standard_normal(self.n_tasks)
        found: np.ndarray = np.exp(spread * drawn - spread**2 / 2)
        return found

    def deadline_s(self, n_ranks: int) -> float:
        """After which a task hangs: the longest would have ended, all ranks on one core."""
        each = self.task.sleep + self.task.compute * n_ranks
        return _DEADLINE_S + each * float(self.sizes().max(initial=0.0))


@dataclass(frozen=True)
class Worker:
    """What runs in the task process.

    Attributes
    ----------
    load
        The tasks.
    folder
        For their files.
    """

    load: Load
    folder: Path
    sizes: np.ndarray = field(init=False)
    block: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", self.load.sizes())
        # Nothing compresses it, should a file system try.
        object.__setattr__(self, "block", np.random.default_rng(0).bytes(_BLOCK))

    def __call__(self, phase: str, task_id: int, attempt: int) -> TaskReport:
        """Do one task."""
        task, size = self.load.task, float(self.sizes[task_id])
        if task.sleep:
            time.sleep(task.sleep * size)
        if task.compute:
            burn(task.compute * size)
        for path, n_bytes in self._files(task_id, size):
            with events.span("write", "synthetic", n_bytes):
                self._write(path, n_bytes)
            with events.span("read", "synthetic", n_bytes):
                path.read_bytes()
            path.unlink()
        return TaskReport(_DONE, self.block[: task.record])

    def _files(self, task_id: int, size: float) -> Iterator[tuple[Path, int]]:
        """Files of different sizes, so that bytes can be told from files."""
        task = self.load.task
        if not task.bytes:
            return
        shares = np.random.default_rng((self.load.seed, task_id)).exponential(size=task.files)
        for number, share in enumerate(shares / shares.sum()):
            yield (
                self.folder / f"{task_id}-{number}",
                max(int(task.bytes * size * share / 2), 1),
            )

    def _write(self, path: Path, n_bytes: int) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            for start in range(0, n_bytes, len(self.block)):
                os.write(descriptor, memoryview(self.block)[: n_bytes - start])
            if self.load.cold:
                os.fdatasync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class _AsUsual:
    """Records are kept as a run's are, if nothing else is asked for."""

    durability: Durability = Durability.POWER
    interval: float | Literal["auto"] = "auto"
    mtbf: float = 20000.0
    files: Literal["auto", "shared", "per-rank"] = "auto"


def burn(seconds: float) -> None:
    """Use so much CPU time, however long that takes."""
    end = time.process_time() + seconds
    total = 0
    while time.process_time() < end:
        for number in range(2000):
            total ^= number


def write_load(load: Load, folder: Path) -> None:
    """Put down for `be_rank` what is to be done in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json_atomically(folder / "load.json", asdict(load))


def read_load(folder: Path) -> Load:
    """What `write_load` has put down.

    Raises
    ------
    BadDataError
        If it is not there.
    """
    found = read_json(folder / "load.json")
    return Load(**found | {"task": Synthetic(**found["task"])})


def be_rank(folder: Path) -> None:
    """What a rank does: all tasks of a folder. Collective.

    Raises
    ------
    MpipipeError
        If not all tasks are done: what such a run takes measures nothing.
    """
    layout = RunLayout.at(folder)
    load = read_load(layout.root)
    files = layout.root / "files"
    with together(Worker(load, files)) as ranks:
        on_master(ranks.world, lambda: _begin(layout, load, ranks, files))
        rank = ranks.world.original_rank
        events.start(layout.trace_of(_INCARNATION), rank)
        events.note_clock(behind_master(ranks.world))
        number = np.arange(load.n_tasks)
        config, size = _AsUsual(), ranks.world.size
        tasks = SpecTable(
            number, np.ones(load.n_tasks), np.full(load.n_tasks, -1), load.deadline_s(size)
        )
        mine: list[int] = []
        with open_checkpoint(layout, config, load.n_tasks, _INCARNATION, rank, size) as writer:
            commit = committing(writer, PHASE)

            def commit_mine(result: TaskResult) -> None:
                mine.append(result.task_id)
                commit(result)

            report = ranks.run_phase(PHASE, tasks, commit_mine)
            with events.span("checkpoint", "sync"):
                writer.sync()
        on_master(ranks.world, lambda: _insist(layout, report))
        _exchange(ranks, load, np.array(mine, dtype=np.int64))
        events.flush()


def _begin(layout: RunLayout, load: Load, ranks: Ranks, files: Path) -> int:
    files.mkdir(exist_ok=True)
    layout.record_folder(_INCARNATION).mkdir(parents=True)
    size = ranks.world.size
    begin_checkpoint(layout, _AsUsual(), load.n_tasks, _INCARNATION, size)
    return _INCARNATION


def _exchange(ranks: Ranks, load: Load, mine: np.ndarray) -> None:
    """Every task's rows to ranks by their number. Collective."""
    if not load.task.rows:
        return
    world = ranks.world
    got = [0]

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rows = np.zeros(load.task.rows, dtype=_ROW)
        for task in mine.tolist():
            rows["task"] = task
            yield rows.copy(), (task + np.arange(len(rows))) % world.size

    def deliver(rows: np.ndarray) -> None:
        got[0] += len(rows)

    def all_rows() -> int:
        got[0] = 0
        return exchange(world, batches(), deliver, _ROW, _ROUND_BYTES)

    world.step(all_rows, "exchange")


def _insist(layout: RunLayout, report: PhaseReport) -> int:
    """That all tasks are done."""
    n_tasks, n_done = len(report.kinds), report.counts.get(OutcomeKind.DONE, 0)
    if n_done < n_tasks:
        reasons = (task.outcome.reason for task in report.summaries if task.outcome.reason)
        why = next(reasons, "the run was asked to stop" if report.interrupted else "")
        raise MpipipeError(
            f"{n_tasks - n_done} of {n_tasks} tasks not done: no measurement"
            + (f"; {why}" if why else ""),
            file=layout.root,
        )
    return n_done
