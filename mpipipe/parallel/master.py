"""Rank 0 as the master: carries the scheduler's actions out and keeps the ledger of outcomes."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from mpipipe.data.outcome import RETRYABLE, Outcome, OutcomeKind
from mpipipe.parallel import messages
from mpipipe.parallel.mailbox import Mailbox
from mpipipe.parallel.messages import BATCH, Tag
from mpipipe.parallel.progress import Progress, RunningTask
from mpipipe.parallel.scheduler import Action, Assign, Ended, Scheduler
from mpipipe.parallel.summaries import SummaryTable
from mpipipe.parallel.tasks import Committed, Policy, TaskSpec, TaskSummary
from mpipipe.parallel.watch import PATIENCE, Pulse

_KINDS = tuple(OutcomeKind)
_PLAIN = {kind: Outcome(kind) for kind in OutcomeKind}

_ANSWER_S = 30.0
"""Seconds in which a worker must have dropped what it does; writing to a slow disk takes some."""


class Master:
    """The master's share of a phase.

    Parameters
    ----------
    silence_s
        After that time without a sign of life a worker is killed.
    committed
        What is committed for good; asked when a worker is lost.
    ended
        How tasks have ended already: grows as they do, and outlives this master.

    Notes
    -----
    It hands out nothing before it has heard of every rank what that holds: after the loss of a
    master most tasks are with the workers still.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        epoch: int,
        tasks: Sequence[TaskSpec],
        policy: Policy,
        silence_s: float,
        progress: Progress,
        committed: Committed | None,
        ended: SummaryTable,
    ) -> None:
        self._mailbox = mailbox
        self._epoch = epoch
        self._policy = policy
        self._progress = progress
        self._scheduler = Scheduler(tasks, policy)
        self._committed = committed
        self._world = mailbox.world
        self._workers = list(range(self._world.size))
        self._unheard = set(self._workers)
        self._held: dict[int, list[tuple[int, int]]] = {}
        self._early: list[tuple[int, Tag, np.ndarray]] = []
        self._pulse = Pulse(self._workers[1:], silence_s)
        self._assigned: dict[int, list[tuple[int, int]]] = {}
        self._texts: dict[tuple[int, int, int], np.ndarray] = {}
        self._since: dict[int, tuple[tuple[int, int], float]] = {}
        self._drain_level = 0
        self._drain_time = 0.0
        self._stopped = self._is_open = False
        self.summaries = ended
        self._scheduler.on_committed(ended.ended_ids())

    def handle(self, source: int, tag: Tag, records: np.ndarray) -> None:
        """Take a message of a worker."""
        self._take(source, tag, records)
        self._assign()

    def _take(self, source: int, tag: Tag, records: np.ndarray) -> None:
        self._pulse.heard(source)
        if tag == Tag.TEXT:
            epoch, task_id, attempt, _ = messages.split_text(records, OutcomeKind.DONE)
            if epoch == self._epoch:
                self._texts[source, task_id, attempt] = records
            return
        if tag == Tag.HELLO and records["epoch"][0] == self._epoch:
            self._on_hello(source, records)
            return
        if not self._is_open and tag in (Tag.OUTCOME, Tag.GIVEN_BACK):
            # About what a worker holds; the scheduler learns of that when all have told.
            self._early.append((source, tag, records))
            return
        if records["epoch"][0] != self._epoch:
            return
        if tag == Tag.OUTCOME:
            for row in records.tolist():
                self._on_outcome(source, *row[1:])
        elif tag == Tag.GIVEN_BACK:
            self._perform(self._scheduler.on_given_back(source), None)
        elif tag == Tag.ASK_STOP:
            self.drain(int(records["level"][0]))

    def step(self) -> None:
        """Look after what depends on the time; tell the workers when all is over."""
        self._look_after_workers()
        if self._unheard:
            return
        waited = time.monotonic() - self._drain_time
        if self._drain_level == 1 and waited > self._policy.grace_s:
            self.drain(2)
        self._give_up_on_deaf()
        if self._scheduler.finished and not self._stopped:
            self._stopped = True
            left = self._scheduler.n_waiting > 0
            self._tell_all(Tag.STOP, int(left))
        self._progress.update(self._running)

    @property
    def is_awaited(self) -> bool:
        """Whether workers do nothing between the end of a task and the word of the next one."""
        return self._policy.prefetch == 1 and self._scheduler.n_waiting > 0

    def drain(self, level: int) -> None:
        """Hand out nothing more; at level 2 have the workers drop what runs."""
        if level <= self._drain_level or self._stopped:
            return
        if self._drain_level == 0:
            self._scheduler.on_drain()
        self._drain_time = time.monotonic()
        self._drain_level = level
        self._progress.draining(level, self._scheduler.n_held)
        self._tell_all(Tag.DRAIN, level)

    def lost(self, worker: int) -> None:
        """A rank has died: what it has committed counts, what else it held is done again."""
        if worker not in self._workers:
            return
        self._workers.remove(worker)
        self._pulse.forget(worker)
        self._held.pop(worker, None)
        held = self._scheduler.held_by(worker)
        found = self._committed() if self._committed is not None and held else {}
        for task_id, attempt in held:
            outcome = found.get(task_id)
            if outcome is not None and outcome.kind not in RETRYABLE:
                summary = TaskSummary(task_id, attempt, outcome, worker)
                actions = self._scheduler.on_outcome(worker, task_id, attempt, outcome.kind)
                # More for the dead is handed out again below.
                self._perform(actions, summary)
        n_held = len(self._scheduler.held_by(worker))
        self._progress.rank_lost(self._world.members[worker], n_held)
        self._perform(self._scheduler.on_lost(worker), None)
        self._unheard.discard(worker)
        self._open()
        self._assign()

    # -- inside ----------------------------------------------------------------------------------

    def _on_hello(self, source: int, records: np.ndarray) -> None:
        """Note what a worker holds; when all have told, begin."""
        held = zip(records["task_id"].tolist(), records["attempt"].tolist(), strict=True)
        self._held.setdefault(source, []).extend(pair for pair in held if pair[0] >= 0)
        if records["drain"][0]:
            self.drain(int(records["drain"][0]))
        if not records["more"][0]:
            self._unheard.discard(source)
            self._open()

    def _open(self) -> None:
        """Hand out the first tasks when all workers have introduced themselves."""
        if not self._unheard and not self._is_open:
            self._is_open = True
            self._perform(self._scheduler.on_join(self._workers, self._held, self._nodes()), None)
            early, self._early = self._early, []
            for source, tag, records in early:
                self._take(source, tag, records)

    def _nodes(self) -> dict[int, int]:
        """Which workers share a node: each has the number of the first one there."""
        first: dict[str, int] = {}
        peers = self._world.peers
        return {worker: first.setdefault(peers[worker].host, worker) for worker in self._workers}

    def _look_after_workers(self) -> None:
        """Give a sign of life; have workers that give none killed."""
        if self._pulse.must_beat():
            for worker in self._workers[1:]:
                self._mailbox.post(worker, Tag.PULSE, messages.level(self._epoch, 0))
        for worker in self._pulse.silent():
            beside = [rank for rank in self._world.ranks_beside(worker) if rank in self._workers]
            if not beside:
                self._world.give_up(worker)
            elif self._world.rank in beside:
                self._world.kill(worker)
            else:
                order = messages.level(self._epoch, worker)
                self._mailbox.post(beside[0], Tag.KILL, order)
        if (worker_left := self._pulse.hopeless()) is not None:
            self._world.give_up(worker_left)

    def _give_up_on_deaf(self) -> None:
        """End the run if workers do not answer the order to drop what they do at once."""
        if self._drain_level < 2 or self._scheduler.finished:
            return
        if time.monotonic() - self._drain_time > min(_ANSWER_S, PATIENCE * self._pulse.silence_s):
            deaf = next(w for w in self._workers if self._scheduler.held_by(w))
            self._world.give_up(deaf)

    def _on_outcome(
        self,
        source: int,
        attempt: int,
        task_id: int,
        kind_number: int,
        has_text: int,
        starved: int,
        wall_s: float,
        cpu_s: float,
        peak_bytes: int,
    ) -> None:
        """Pass an outcome to the scheduler; note it if it counts. Arguments as in a record."""
        kind = _KINDS[kind_number]
        outcome = _PLAIN[kind]
        if has_text and (text := self._texts.pop((source, task_id, attempt), None)) is not None:
            outcome = messages.split_text(text, kind)[3]
        summary = TaskSummary(task_id, attempt, outcome, source, wall_s, cpu_s, peak_bytes)
        n_ignored = self._scheduler.n_ignored
        actions = self._scheduler.on_outcome(source, task_id, attempt, kind, starved=bool(starved))
        if self._scheduler.n_ignored > n_ignored:
            return
        if not any(isinstance(action, Ended) for action in actions):
            self._progress.retried(summary)
        self._perform(actions, summary)

    def _assign(self) -> None:
        """Send what was assigned since the last time, a worker's tasks together."""
        for worker, tasks in self._assigned.items():
            for first in range(0, len(tasks), BATCH):
                message = messages.assign(self._epoch, tasks[first : first + BATCH])
                self._mailbox.post(worker, Tag.ASSIGN, message)
        self._assigned.clear()

    def _perform(self, actions: Sequence[Action], summary: TaskSummary | None) -> None:
        """Carry out what the scheduler wants."""
        for action in actions:
            if isinstance(action, Ended):
                if summary is None or summary.task_id != action.task_id:
                    outcome = Outcome(action.kind, "its rank was lost, every time")
                    ended = TaskSummary(action.task_id, action.attempt, outcome, action.worker)
                else:
                    ended = summary
                self.summaries[action.task_id] = ended
                self._progress.ended(ended)
            elif isinstance(action, Assign) and action.worker in self._workers:
                self._assigned.setdefault(action.worker, []).extend(action.tasks)

    def _tell_all(self, tag: Tag, level: int) -> None:
        for worker in self._workers:
            self._mailbox.post(worker, tag, messages.level(self._epoch, level))

    def _running(self) -> list[RunningTask]:
        """What the workers are at, as far as the master knows, the longest first."""
        now = time.monotonic()
        found = []
        for worker in self._workers:
            held = self._scheduler.held_by(worker)
            if not held:
                self._since.pop(worker, None)
                continue
            if self._since.get(worker, (None,))[0] != held[0]:
                self._since[worker] = (held[0], now)
            found.append(RunningTask(held[0][0], worker, now - self._since[worker][1]))
        return sorted(found, key=lambda task: (-task.seconds, task.rank))
