"""Rank 0 as the master: carries the scheduler's actions out and keeps the ledger of outcomes."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.parallel import messages
from mpipipe.parallel.mailbox import Mailbox
from mpipipe.parallel.messages import BATCH, Tag
from mpipipe.parallel.progress import Progress, RunningTask
from mpipipe.parallel.scheduler import Action, Assign, Ended, Scheduler
from mpipipe.parallel.summaries import SummaryTable
from mpipipe.parallel.tasks import Policy, TaskSpec, TaskSummary


class Master:
    """The master's share of a phase.

    Parameters
    ----------
    n_workers
        Number of ranks, this one included.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        epoch: int,
        tasks: Sequence[TaskSpec],
        n_workers: int,
        policy: Policy,
        progress: Progress,
    ) -> None:
        self._mailbox = mailbox
        self._epoch = epoch
        self._policy = policy
        self._progress = progress
        self._scheduler = Scheduler(tasks, policy)
        self._n_workers = n_workers
        self._texts: dict[tuple[int, int, int], np.ndarray] = {}
        self._since: dict[int, tuple[tuple[int, int], float]] = {}
        self._drain_level = 0
        self._drain_time = 0.0
        self._stopped = False
        self.summaries = SummaryTable(tasks)
        self._perform(self._scheduler.on_join(range(n_workers)), None)

    def handle(self, source: int, tag: Tag, records: np.ndarray) -> None:
        """Take a message of a worker."""
        if tag == Tag.TEXT:
            epoch, task_id, attempt, _ = messages.split_text(records, OutcomeKind.DONE)
            if epoch == self._epoch:
                self._texts[source, task_id, attempt] = records
            return
        for record in records:
            if record["epoch"] != self._epoch:
                continue
            if tag == Tag.OUTCOME:
                self._on_outcome(source, record)
            elif tag == Tag.GIVEN_BACK:
                self._perform(self._scheduler.on_given_back(source), None)
            elif tag == Tag.ASK_STOP:
                self.drain(int(record["level"]))

    def step(self) -> None:
        """Look after what depends on the time; tell the workers when all is over."""
        waited = time.monotonic() - self._drain_time
        if self._drain_level == 1 and waited > self._policy.grace_s:
            self.drain(2)
        if self._scheduler.finished and not self._stopped:
            self._stopped = True
            left = self._scheduler.n_waiting > 0
            self._tell_all(Tag.STOP, int(left))
        self._progress.update(self._running)

    def drain(self, level: int) -> None:
        """Hand out nothing more; at level 2 have the workers drop what runs."""
        if level <= self._drain_level or self._stopped:
            return
        if self._drain_level == 0:
            self._drain_time = time.monotonic()
            self._scheduler.on_drain()
        self._drain_level = level
        self._progress.draining(level, self._scheduler.n_held)
        self._tell_all(Tag.DRAIN, level)

    # -- inside ----------------------------------------------------------------------------------

    def _on_outcome(self, source: int, record: np.void) -> None:
        """Pass an outcome to the scheduler; note it if it counts."""
        task_id, attempt = int(record["task_id"]), int(record["attempt"])
        kind = OutcomeKind(int(record["kind"]))
        text = self._texts.pop((source, task_id, attempt), None)
        outcome = Outcome(kind) if text is None else messages.split_text(text, kind)[3]
        summary = TaskSummary(
            task_id,
            attempt,
            outcome,
            source,
            float(record["wall_s"]),
            float(record["cpu_s"]),
            int(record["peak_bytes"]),
        )
        n_ignored = self._scheduler.n_ignored
        actions = self._scheduler.on_outcome(source, task_id, attempt, kind)
        if self._scheduler.n_ignored > n_ignored:
            return
        if not any(isinstance(action, Ended) for action in actions):
            self._progress.retried(summary)
        self._perform(actions, summary)

    def _perform(self, actions: Sequence[Action], summary: TaskSummary | None) -> None:
        """Carry out what the scheduler wants."""
        for action in actions:
            if isinstance(action, Ended):
                if summary is not None and summary.task_id == action.task_id:
                    self.summaries[action.task_id] = summary
                    self._progress.ended(summary)
            elif isinstance(action, Assign):
                for first in range(0, len(action.tasks), BATCH):
                    batch = action.tasks[first : first + BATCH]
                    message = messages.assign(self._epoch, batch)
                    self._mailbox.post(action.worker, Tag.ASSIGN, message)

    def _tell_all(self, tag: Tag, level: int) -> None:
        for worker in range(self._n_workers):
            self._mailbox.post(worker, tag, messages.level(self._epoch, level))

    def _running(self) -> list[RunningTask]:
        """What the workers are at, as far as the master knows, the longest first."""
        now = time.monotonic()
        found = []
        for worker in range(self._n_workers):
            held = self._scheduler.held_by(worker)
            if not held:
                self._since.pop(worker, None)
                continue
            if self._since.get(worker, (None,))[0] != held[0]:
                self._since[worker] = (held[0], now)
            found.append(RunningTask(held[0][0], worker, now - self._since[worker][1]))
        return sorted(found, key=lambda task: (-task.seconds, task.rank))
