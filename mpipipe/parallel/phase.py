"""`run_phase`: all tasks of one kind, on all ranks.

Every rank computes. Its MPI process goes round one loop: take messages, look after the task
process, and on rank 0 do what the master has to do; then it sleeps until its task process has
something to say or another rank on its host rings (`doorbell`); with other hosts not longer than a
message may have to wait. There is no collective call between the first task and the last, so
nothing can hang on one rank.

A worker may die: the master hands its tasks out again. When the master dies the survivors leave
the loop, shrink the world (`survival.step`) and enter it again with all that they hold; the new
master takes what is committed as done, and nothing that runs on survivors is done twice.

Where there is no MPI, one process may have several task processes: each has a worker of its own
here, and to the master they are what ranks are.

Measured with 2 ranks on 2 shared cores (Open MPI 5.0.11, `tools/bench_dispatch`): the MPI process
takes 0.9 % of a core beside 250 ms tasks and 0.6 % when its rank has nothing to do (2 to 3 % and
6 % without bells: a round of the loop costs 0.2 ms, most of it in the kernel); a rank that has
asked for a task begins it after 0.9 ms; 80,000 empty tasks a second go through in batches of 64,
11,000 one by one.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Sequence

import numpy as np

from mpipipe.data.outcome import RETRYABLE
from mpipipe.parallel.executor import Executor, wait_for
from mpipipe.parallel.mailbox import DeskMailbox, Mailbox
from mpipipe.parallel.master import Master
from mpipipe.parallel.messages import BATCH, TO_WORKER, Tag
from mpipipe.parallel.progress import Progress
from mpipipe.parallel.signals import StopRequest, listen_for_stop
from mpipipe.parallel.summaries import SummaryTable
from mpipipe.parallel.survival import RankLostError
from mpipipe.parallel.tasks import (
    Commit,
    Committed,
    PhaseReport,
    Policy,
    TaskSpec,
    TaskSummary,
    costs_of,
    deadlines_of,
)
from mpipipe.parallel.worker import MASTER, Worker
from mpipipe.parallel.world import World
from mpipipe.trace import events

# A rank that is woken for its messages looks by itself only for signals and losses. One that is not
# looks again soon after a message, since the next one is likely; every millisecond without work, as
# does the master of ranks that hold one task each; every ten when busy, having its next task.
_PAUSE_WOKEN_S = 0.1
_PAUSE_FIRST_S, _PAUSE_DRY_S, _PAUSE_BUSY_S = 0.0002, 0.001, 0.010

_epochs = itertools.count(1)


def run_phase(
    world: World,
    executors: Sequence[Executor],
    phase: str,
    tasks: Sequence[TaskSpec],
    commit: Commit,
    progress: Progress | None = None,
    *,
    context: bytes = b"",
    policy: Policy | None = None,
    committed: Committed | None = None,
) -> PhaseReport:
    """Run every task of a phase. Collective: every rank calls it with the same list.

    Parameters
    ----------
    executors
        Where this rank's tasks run: one, or several in a world of one rank.
    commit
        Called in this rank's MPI process with every attempt that ran here, before the master
        hears of it.
    progress
        What rank 0 shows; None for nothing.
    context
        Handed to the task processes (`prepare`) before their first task of this phase.
    policy
        Limits of attempts, prefetch, grace time.
    committed
        What is committed for good, if a rank is lost. Without it, what a lost master has heard of
        is done again.

    Returns
    -------
    PhaseReport
        Outcome by task and whether the phase was interrupted (Ctrl-C, SIGTERM, SIGUSR1) on every
        rank, the summaries on rank 0.

    Raises
    ------
    MpipipeError
        If the task process can not be replaced. Let it end all ranks (`launch` does).
    """
    policy = policy or Policy()
    if not 1 <= policy.batch <= BATCH:
        raise ValueError(f"batch is {policy.batch}, not between 1 and {BATCH}")
    progress = progress or Progress()
    begin, cpu = time.perf_counter(), time.process_time()
    with listen_for_stop() as stop:
        share = _Share(world, executors, phase, tasks, commit, progress, context, policy, committed)
        kinds = world.step(lambda: share.run(stop))
    # What is spent here besides the tasks: messages, commits, looking after each other.
    events.record("phase", phase, begin, time.process_time() - cpu)
    events.sample_process()
    events.flush()
    wall_s = time.perf_counter() - begin
    # Only a master that was it to the end has all summaries.
    summaries = share.ended.in_order() if world.is_master else ()
    report = PhaseReport(phase, kinds, share.interrupted, summaries, wall_s)
    if world.is_master and share.announced:
        progress.finish(report)
    return report


class _Share:
    """This rank's share of a phase: what stays when another rank is lost.

    Attributes
    ----------
    ended
        How tasks have ended, as far as this rank knows as a master.
    announced
        Whether this rank has shown the progress of the phase.
    interrupted
        Whether the phase was asked to stop.
    """

    def __init__(
        self,
        world: World,
        executors: Sequence[Executor],
        phase: str,
        tasks: Sequence[TaskSpec],
        commit: Commit,
        progress: Progress,
        context: bytes,
        policy: Policy,
        committed: Committed | None,
    ) -> None:
        self._world = world
        self._executors = executors
        self._phase, self._context = phase, context
        self._tasks = tasks
        self._progress = progress
        self._policy = policy
        self._committed = committed
        self._generation = world.generation
        self._was_master = world.is_master
        self._begun = False
        self._epoch = next(_epochs)
        deadlines = deadlines_of(tasks)
        self._workers = [
            Worker(self._epoch, executor, commit, deadlines, policy.prefetch)
            for executor in executors
        ]
        self.ended = SummaryTable(tasks)
        self.announced = False
        self.interrupted = False

    def run(self, stop: StopRequest) -> np.ndarray:
        """Go through the phase, or on with it after a loss; how every task ended. Collective.

        Raises
        ------
        RankLostError
            If the master was lost, or another rank in a collective call.
        """
        world = self._world
        is_first = world.generation == self._generation
        if is_first and not world.agree(not stop.asked):
            self.interrupted = True
            return np.full(len(self._tasks), -1, dtype=np.int8)
        self.interrupted = False
        if not self._begun:
            for executor in self._executors:
                executor.begin_phase(self._phase, self._context)
            self._begun = True
        mailboxes = _mailboxes(world, len(self._executors))
        silence_s = self._policy.silence_s
        if any(executor.blocks for executor in self._executors) or not world.can_survive:
            silence_s = math.inf
        master = self._make_master(mailboxes[0], silence_s) if world.is_master else None
        for mailbox, worker in zip(mailboxes, self._workers, strict=True):
            worker.begin(mailbox, silence_s)
        _loop(mailboxes, self._workers, master, self._executors, stop)
        self.interrupted = any(worker.interrupted for worker in self._workers)
        return self._share_kinds()

    def _make_master(self, mailbox: Mailbox, silence_s: float) -> Master:
        """Become the master, or go on as such with another world."""
        if not self.announced:
            costs = costs_of(self._tasks)
            n_workers = mailbox.world.size
            self._progress.begin(self._phase, len(self._tasks), n_workers, costs)
            self.announced = True
        if not self._was_master and self._committed is not None:
            for task_id, outcome in self._committed().items():
                if outcome.kind not in RETRYABLE and self.ended.is_open(task_id):
                    summary = TaskSummary(task_id, 0, outcome, -1)
                    self.ended[task_id] = summary
                    self._progress.ended(summary)
        self._was_master = True
        return Master(
            mailbox,
            self._epoch,
            self._tasks,
            self._policy,
            silence_s,
            self._progress,
            self._committed,
            self.ended,
        )

    def _share_kinds(self) -> np.ndarray:
        """Tell all ranks how every task ended. Collective."""
        kinds = self._world.broadcast(self.ended.kinds.tobytes())
        return np.frombuffer(kinds, dtype=np.int8)


class _Losses:
    """The dead ranks of a world that this rank has acknowledged."""

    _MOST_IN_VAIN = 5

    def __init__(self, world: World) -> None:
        self._world = world
        self._known: set[int] = set()
        self._n_in_vain = 0

    def take(self, error: RankLostError) -> set[int]:
        """Ranks that have died since the last time.

        Raises
        ------
        RankLostError
            If they can not be done without: the master is dead, or somebody has given up.
        """
        if self._world.is_revoked():
            raise error
        dead = self._world.acknowledge()
        new = dead - self._known
        self._known |= new
        self._n_in_vain = 0 if new else self._n_in_vain + 1
        if MASTER in dead or self._n_in_vain > self._MOST_IN_VAIN:
            raise error
        return new


def _mailboxes(world: World, n_workers: int) -> list[Mailbox]:
    """One for each worker of this process."""
    if n_workers == 1:
        return [Mailbox(world)]
    letters: list[deque[tuple[int, Tag, np.ndarray]]] = [deque() for _ in range(n_workers)]
    return [DeskMailbox(world.seen_by(worker, n_workers), letters) for worker in range(n_workers)]


def _loop(
    mailboxes: Sequence[Mailbox],
    workers: Sequence[Worker],
    master: Master | None,
    executors: Sequence[Executor],
    stop: StopRequest,
) -> None:
    """Go round until the master says that the phase is over."""
    pause = _PAUSE_FIRST_S
    losses = _Losses(mailboxes[0].world)
    bell = mailboxes[0].world.bell
    while not all(w.stopped and m.all_sent() for w, m in zip(workers, mailboxes, strict=True)):
        found = active = False
        for mailbox, worker in zip(mailboxes, workers, strict=True):
            found |= _read(mailbox, worker, master, losses)
            active |= worker.step(stop.level)
        if master is not None:
            master.step()
        if any(mailbox.has_own for mailbox in mailboxes):
            continue
        if all(mailbox.is_woken and mailbox.all_sent() for mailbox in mailboxes):
            pause = _PAUSE_WOKEN_S
        elif found or active:
            pause = _PAUSE_FIRST_S
        else:
            is_dry = not all(worker.busy for worker in workers)
            is_awaited = is_dry or (master is not None and master.is_awaited)
            longest = _PAUSE_DRY_S if is_awaited else _PAUSE_BUSY_S
            pause = min(pause * 3, longest)
        if not all(worker.stopped for worker in workers):
            wait_for(executors, pause, bell)


def _read(mailbox: Mailbox, worker: Worker, master: Master | None, losses: _Losses) -> bool:
    """Take the messages of a worker, and of the master if it sits there; whether there were any."""
    found: list[tuple[int, Tag, np.ndarray]] = []
    try:
        found = mailbox.collect()
    except RankLostError as error:
        for rank in losses.take(error):
            if master is not None:
                master.lost(rank)
    for source, tag, records in found:
        if tag in TO_WORKER:
            worker.handle(tag, records)
        elif master is not None:
            master.handle(source, tag, records)
    return bool(found)
