"""A rank as a worker: keeps its executor busy, commits what comes out, tells the master."""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.parallel import messages
from mpipipe.parallel.executor import Executor
from mpipipe.parallel.mailbox import Mailbox
from mpipipe.parallel.messages import Tag
from mpipipe.parallel.tasks import Commit, TaskResult
from mpipipe.trace import events

MASTER = 0


class Worker:
    """This rank's share of a phase.

    Parameters
    ----------
    deadlines
        Seconds by task id, for the tasks that have one.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        epoch: int,
        executor: Executor,
        commit: Commit,
        deadlines: Mapping[int, float],
    ) -> None:
        self._mailbox = mailbox
        self._epoch = epoch
        self._executor = executor
        self._commit = commit
        self._deadlines = deadlines
        self._queue: deque[tuple[int, int]] = deque()
        self._drain_level = 0
        self._asked_level = 0
        self._given_back = False
        self._idle_since: float | None = time.perf_counter()
        self.stopped = False
        self.interrupted = False

    @property
    def busy(self) -> bool:
        """Whether a task runs."""
        return self._executor.running is not None

    def handle(self, tag: Tag, records: np.ndarray) -> None:
        """Take a message of the master."""
        if records["epoch"][0] != self._epoch:
            return
        if tag == Tag.ASSIGN:
            self._queue.extend(
                zip(records["task_id"].tolist(), records["attempt"].tolist(), strict=True)
            )
        elif tag == Tag.DRAIN:
            self._drain(int(records["level"][0]))
        elif tag == Tag.STOP:
            self.stopped = True
            self.interrupted = bool(records["level"][0])

    def step(self, stop_level: int) -> bool:
        """Do what can be done now, without waiting; whether anything was done.

        Parameters
        ----------
        stop_level
            How urgently this rank was asked to stop: 0, 1, 2 (at once).
        """
        if stop_level > self._asked_level:
            self._asked_level = stop_level
            self._post(Tag.ASK_STOP, messages.level(self._epoch, stop_level))
        result = self._executor.poll()
        started = self._start_next()
        if not self.busy and self._idle_since is None:
            self._idle_since = time.perf_counter()
        if result is not None:
            self._finish(result)
        if self._drain_level and not self.busy and not self._given_back:
            self._given_back = True
            self._post(Tag.GIVEN_BACK, messages.level(self._epoch, 0))
        return started or result is not None

    def _start_next(self) -> bool:
        """Start the next task if none runs; before the last one is committed, which takes time."""
        if self.busy or not self._queue:
            return False
        task_id, attempt = self._queue.popleft()
        if self._idle_since is not None:
            events.record("wait", "no task", self._idle_since)
            self._idle_since = None
        self._executor.submit(task_id, attempt, self._deadlines.get(task_id))
        return True

    def _finish(self, result: TaskResult) -> None:
        """Commit a result, then tell the master."""
        events.set_task(result.task_id)
        try:
            self._commit(result)
        except Exception as error:
            # The attempt does not count if it can not be made to last.
            outcome = Outcome(
                OutcomeKind.FAILED,
                f"the result could not be committed: {error}",
                "commit",
                traceback.format_exc(),
            )
            result = replace(result, outcome=outcome, payload=b"")
        events.set_task(-1)
        if messages.has_text(result.outcome):
            self._post(Tag.TEXT, messages.text(self._epoch, result))
        self._post(Tag.OUTCOME, messages.outcome(self._epoch, result))

    def _drain(self, level: int) -> None:
        """Drop what has not started; at level 2 also what runs."""
        self._drain_level = max(level, self._drain_level)
        self._queue.clear()
        if self._drain_level >= 2:
            self._executor.drop()

    def _post(self, tag: Tag, message: np.ndarray) -> None:
        self._mailbox.post(MASTER, tag, message)
