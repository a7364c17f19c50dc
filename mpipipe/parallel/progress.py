"""What a person sees of a phase: live on a terminal, a line every so often in a file.

Rank 0 tells a `Progress` what happens; the base class shows nothing.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from mpipipe.data.outcome import OutcomeKind
from mpipipe.parallel.tasks import PhaseReport, TaskSummary


@dataclass(frozen=True)
class RunningTask:
    """A task that runs: which, where, and for how long as far as the master knows."""

    task_id: int
    rank: int
    seconds: float


Running = Callable[[], Sequence[RunningTask]]
Describe = Callable[[int], str]


class Progress:
    """Hears what happens in a phase, and shows nothing."""

    def begin(
        self, phase: str, n_tasks: int, n_ranks: int, costs: Mapping[int, float] | None = None
    ) -> None:
        """A phase begins; `costs` tells what each task is expected to cost."""

    def ended(self, summary: TaskSummary) -> None:
        """A task has come to its end."""

    def retried(self, summary: TaskSummary) -> None:
        """An attempt has failed, and there will be another."""

    def rank_lost(self, rank: int, n_held: int) -> None:
        """A rank has died that held so many tasks, which are done again."""

    def draining(self, level: int, n_running: int) -> None:
        """The phase was asked to stop: 1 after the running tasks, 2 at once."""

    def update(self, running: Running) -> None:
        """Called often; `running` is asked only when something is shown."""

    def finish(self, report: PhaseReport) -> None:
        """The phase is over."""


class LineProgress(Progress):
    """Counts, and writes a line every so often.

    Parameters
    ----------
    stream
        Where to; stderr if None.
    every_s
        Seconds between lines.
    describe
        Makes a name of a task id, e.g. ``visit 12 R22 S11``.
    worker
        What tasks run on: ranks, or processes where there is no MPI.
    """

    def __init__(
        self,
        stream: IO[str] | None = None,
        every_s: float = 10.0,
        describe: Describe | None = None,
        worker: str = "rank",
    ) -> None:
        self._worker = worker
        self._stream = stream or sys.stderr
        self._every_s = every_s
        self._describe = describe or (lambda task_id: f"task {task_id}")
        self._reset("", 0, 0)

    def _reset(self, phase: str, n_tasks: int, n_ranks: int) -> None:
        self.phase, self.n_tasks, self.n_ranks = phase, n_tasks, n_ranks
        self.kinds: Counter[OutcomeKind] = Counter()
        self.n_retried = 0
        self._peak_bytes = 0
        self._costs: Mapping[int, float] = {}
        self._cost_left = self._cost_done = 0.0
        self._first: dict[OutcomeKind, TaskSummary] = {}
        self._begin = self._last = time.monotonic()

    # -- what is known ---------------------------------------------------------------------------

    @property
    def n_ended(self) -> int:
        """Number of tasks with an outcome."""
        return self.kinds.total()

    @property
    def seconds(self) -> float:
        """Since the phase began."""
        return time.monotonic() - self._begin

    @property
    def rate(self) -> float:
        """Tasks per second so far."""
        return self.n_ended / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds left if it goes on like this; None if nothing is known yet.

        By the tasks' expected costs, since the longest come first; by their number without. Before
        any has ended: what they are expected to take.
        """
        if not self.n_ended:
            at_once = max(min(self.n_ranks, self.n_tasks), 1)
            left = self._cost_left / at_once - self.seconds
            return left if left > 0 else None
        if self._cost_done > 0:
            return self.seconds * max(self._cost_left, 0.0) / self._cost_done
        return (self.n_tasks - self.n_ended) / self.rate

    def line(self) -> str:
        """Where the phase stands, in one line."""
        counts = [f"{self.kinds[kind]} {kind.label}" for kind in OutcomeKind if self.kinds[kind]]
        if self.n_retried:
            counts.append(f"{self.n_retried} tried again")
        eta = "" if self.eta_s is None else f", about {format_seconds(self.eta_s)} left"
        memory = f", largest task {self._peak_bytes / 1e9:.1f} GB" if self._peak_bytes else ""
        return (
            f"{self.phase}: {self.n_ended}/{self.n_tasks} ({', '.join(counts) or 'none yet'}), "
            f"{self.rate:.3g}/s{eta}; {self._workers(self.n_ranks)}{memory}"
        )

    # -- what happens ----------------------------------------------------------------------------

    def begin(
        self, phase: str, n_tasks: int, n_ranks: int, costs: Mapping[int, float] | None = None
    ) -> None:
        """Say how much there is to do."""
        self._reset(phase, n_tasks, n_ranks)
        self._costs = costs or {}
        self._cost_left = sum(self._costs.values())
        self._say(f"{phase}: {n_tasks} tasks on {self._workers(n_ranks)}")

    def ended(self, summary: TaskSummary) -> None:
        """Count; show the first failure of a kind in full."""
        kind = summary.outcome.kind
        self.kinds[kind] += 1
        self._peak_bytes = max(self._peak_bytes, summary.peak_bytes)
        cost = self._costs.get(summary.task_id, 0.0)
        self._cost_done += cost
        self._cost_left -= cost
        if not kind.is_success and kind is not OutcomeKind.PARTIAL and kind not in self._first:
            self._first[kind] = summary
            self._say(self._in_full(summary))

    def retried(self, summary: TaskSummary) -> None:
        """Count."""
        self.n_retried += 1

    def rank_lost(self, rank: int, n_held: int) -> None:
        """Say so."""
        self.n_ranks -= 1
        self._say(f"{self.phase}: rank {rank} was lost; {n_held} tasks are handed out again")

    def draining(self, level: int, n_running: int) -> None:
        """Say that the wish to stop was heard."""
        if level == 1:
            self._say(f"{self.phase}: stopping when the running tasks are done; again: at once")
        else:
            self._say(f"{self.phase}: stopping at once")

    def update(self, running: Running) -> None:
        """Write a line if it is time."""
        now = time.monotonic()
        if now - self._last >= self._every_s:
            self._last = now
            slowest = running()[:1]
            at = "".join(
                f"; longest running: {self._describe(task.task_id)} "
                f"on {self._worker} {task.rank}, {format_seconds(task.seconds)}"
                for task in slowest
            )
            self._say(self.line() + at)

    def finish(self, report: PhaseReport) -> None:
        """Sum up."""
        counts = [f"{number} {kind.label}" for kind, number in report.counts.items()]
        if report.n_left:
            counts.append(f"{report.n_left} not done")
        if self.n_retried:
            counts.append(f"{self.n_retried} tried again")
        word = "interrupted" if report.interrupted else "ended"
        seconds = format_seconds(report.wall_s)
        self._say(f"{self.phase} {word} after {seconds}: {', '.join(counts) or 'no tasks'}")
        for kind, first in self._first.items():
            if self.kinds[kind] > 1:
                self._say(
                    f"  {kind.label}: {self.kinds[kind]} tasks, the first "
                    f"{self._describe(first.task_id)}: {first.outcome.reason}"
                )

    def _in_full(self, summary: TaskSummary) -> str:
        found = summary.outcome
        stage = f" in {found.stage}" if found.stage else ""
        head = (
            f"{self._describe(summary.task_id)}: {found.kind.label}{stage} "
            f"({self._worker} {summary.rank}, attempt {summary.attempts}): {found.reason}"
        )
        return f"{head}\n{found.traceback.rstrip()}" if found.traceback else head

    def _workers(self, number: int) -> str:
        plural = "processes" if self._worker == "process" else f"{self._worker}s"
        return "1 process" if number == 1 else f"{number} {plural}"

    def _say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class LiveProgress(LineProgress):
    """A live table on a terminal, above it the lines that matter."""

    _N_RUNNING = 8

    def __init__(self, describe: Describe | None = None, worker: str = "rank") -> None:
        super().__init__(sys.stderr, 0.5, describe, worker)
        self._live: Any = None

    def begin(
        self, phase: str, n_tasks: int, n_ranks: int, costs: Mapping[int, float] | None = None
    ) -> None:
        """Open the display."""
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
        self._live.start()
        super().begin(phase, n_tasks, n_ranks, costs)

    def update(self, running: Running) -> None:
        """Draw again if it is time."""
        now = time.monotonic()
        if self._live is not None and now - self._last >= self._every_s:
            self._last = now
            self._live.update(self._table(running()), refresh=True)

    def finish(self, report: PhaseReport) -> None:
        """Close the display and sum up."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        super().finish(report)

    def _table(self, running: Sequence[RunningTask]) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, padding=(0, 2), show_header=False)
        for task in running[: self._N_RUNNING]:
            seconds = format_seconds(task.seconds)
            table.add_row(f"  {self._worker} {task.rank}", self._describe(task.task_id), seconds)
        if len(running) > self._N_RUNNING:
            table.add_row("", f"and {len(running) - self._N_RUNNING} more", "")
        bar = ProgressBar(total=max(self.n_tasks, 1), completed=self.n_ended, width=60)
        return Group(bar, Text(self.line()), table)

    def _say(self, text: str) -> None:
        if self._live is None:
            super()._say(text)
        else:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)


def make_progress(
    describe: Describe | None = None, every_s: float = 10.0, worker: str = "rank"
) -> Progress:
    """The display that suits stderr: live on a terminal, else lines."""
    if sys.stderr.isatty():
        return LiveProgress(describe, worker)
    return LineProgress(None, every_s, describe, worker)


def format_seconds(seconds: float) -> str:
    """A duration for people: ``4.2 s``, ``3 min 05 s``, ``2 h 07 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
