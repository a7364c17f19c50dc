"""A rank as a worker: keeps its executor busy, commits what comes out, tells the master."""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.parallel import injection, messages
from mpipipe.parallel.executor import Executor, Submitted
from mpipipe.parallel.mailbox import Mailbox
from mpipipe.parallel.messages import BATCH, Tag
from mpipipe.parallel.tasks import Commit, TaskResult
from mpipipe.parallel.watch import Pulse
from mpipipe.trace import events

MASTER = 0


class Worker:
    """This rank's share of a phase.

    Parameters
    ----------
    deadlines
        Seconds by task id, for the tasks that have one.
    prefetch
        Tasks that a rank holds if they are not small.
    """

    def __init__(
        self,
        epoch: int,
        executor: Executor,
        commit: Commit,
        deadlines: Mapping[int, float],
        prefetch: int = 2,
    ) -> None:
        self._prefetch = prefetch
        self._mailbox: Mailbox
        self._pulse: Pulse
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

    def begin(self, mailbox: Mailbox, silence_s: float) -> None:
        """Introduce itself to a master, telling it what this rank holds already.

        Parameters
        ----------
        silence_s
            After that time without a word of the master it is killed.
        """
        self._mailbox = mailbox
        others = [] if mailbox.world.rank == MASTER else [MASTER]
        self._pulse = Pulse(others, silence_s)
        self.stopped = self._given_back = False
        self._asked_level = 0
        held = [*self._executor.held(), *self._queue]
        injection.here("hello")
        for message in messages.hello(self._epoch, held, self._drain_level):
            self._post(Tag.HELLO, message)

    @property
    def busy(self) -> bool:
        """Whether a task runs."""
        return self._executor.n_held > 0

    def handle(self, tag: Tag, records: np.ndarray) -> None:
        """Take a message of the master."""
        self._pulse.heard(MASTER)
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
        elif tag == Tag.KILL:
            self._mailbox.world.kill(int(records["level"][0]))

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
        self._look_after_master()
        results = self._executor.poll()
        started = self._start_next()
        if not self.busy and self._idle_since is None:
            self._idle_since = time.perf_counter()
        if results:
            self._finish(results)
        if self._drain_level and not self.busy and not self._given_back:
            self._given_back = True
            self._post(Tag.GIVEN_BACK, messages.level(self._epoch, 0))
        return started or bool(results)

    def _look_after_master(self) -> None:
        """Give a sign of life; end a master that gives none."""
        if self._pulse.must_beat():
            self._post(Tag.BEAT, messages.level(self._epoch, 0))
        world = self._mailbox.world
        if self._pulse.silent() and world.ranks_beside(MASTER)[:1] == [world.rank]:
            world.kill(MASTER)
        if self._pulse.hopeless() is not None:
            world.give_up(MASTER)

    def _start_next(self) -> bool:
        """Start the next task if none runs; before the last one is committed, which takes time.

        When more wait than the prefetch of long tasks, they are small: many are started together.
        """
        n_held, n_waiting = self._executor.n_held, len(self._queue)
        is_small = n_waiting > self._prefetch
        if not n_waiting or n_held > (BATCH // 2 if is_small else 0):
            return False
        number = n_waiting if is_small else 1
        tasks = [self._queue.popleft() for _ in range(number)]
        if self._idle_since is not None:
            events.record("idle", "no task", self._idle_since)
            self._idle_since = None
        deadline_of = self._deadlines.get
        self._executor.submit([Submitted(i, attempt, deadline_of(i)) for i, attempt in tasks])
        return True

    def _finish(self, results: Sequence[TaskResult]) -> None:
        """Commit results, then tell the master."""
        committed = []
        for result in results:
            kept = self._make_last(result)
            if messages.has_text(kept.outcome):
                self._post(Tag.TEXT, messages.text(self._epoch, kept))
            committed.append(kept)
        for first in range(0, len(committed), BATCH):
            batch = committed[first : first + BATCH]
            self._post(Tag.OUTCOME, messages.outcomes(self._epoch, batch))

    def _make_last(self, result: TaskResult) -> TaskResult:
        """Commit a result; it has failed if that does."""
        injection.here("commit")
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
        return result

    def _drain(self, level: int) -> None:
        """Drop what has not started; at level 2 also what runs."""
        self._drain_level = max(level, self._drain_level)
        self._queue.clear()
        if self._drain_level >= 2:
            self._executor.drop()
        else:
            self._executor.drop_waiting()

    def _post(self, tag: Tag, message: np.ndarray) -> None:
        begin = time.perf_counter()
        self._mailbox.post(MASTER, tag, message)
        events.record("send", tag.name, begin, n_bytes=message.nbytes)
