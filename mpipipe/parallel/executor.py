"""Where a rank's tasks run: in its task process, or in the same process for debugging.

Why a process of its own: measured with prototypes on 2 shared cores, task time over twice the wall
time, medians of a few runs, good to about 0.03; `even` are tasks of 80 ms that leave the GIL,
`hold` the same with the GIL held, `mix` GIL-holding ones of 60 ms in the mean and 400 ms at most.

======================================  ====  ====  ====
design                                  even  hold  mix
======================================  ====  ====  ====
free processes, fixed halves            0.99  1.00  0.93
master in a thread of rank 0            0.96  0.95  0.92
rank 0's tasks in a thread              0.97  0.97  0.89
rank 0's tasks in a process             0.95  0.96  0.99
every rank's tasks in a process (this)  0.96  0.96  0.98
one rank more, for the master alone     0.97  0.98  0.99
======================================  ====  ====  ====

Threads lose where a task holds the GIL, and a rank more takes a slot. What decides is survival:
the ranks that are left can agree only when every one of them answers, which an MPI process that
runs a stage of four seconds does after four seconds, and one that only passes messages at once.
"""

from __future__ import annotations

import json
import select
import socket
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.parallel.bulletin import Bulletin
from mpipipe.parallel.doorbell import Doorbell
from mpipipe.parallel.frames import (
    REPORTS,
    TASKS,
    Closed,
    Frame,
    FrameError,
    FrameKind,
    FrameReader,
)
from mpipipe.parallel.taskprocess import DONE, Program, serve
from mpipipe.parallel.tasks import Execute, Prepare, TaskResult
from mpipipe.parallel.zygote import Ending, Zygote
from mpipipe.trace import events, log


class Submitted(NamedTuple):
    """A task for an executor; it may run for `deadline_s` seconds, None for any time."""

    task_id: int
    attempt: int
    deadline_s: float | None = None


class Executor(ABC):
    """Runs a rank's tasks one after the other. No call waits for a task; `wait_for` does.

    Attributes
    ----------
    blocks
        Whether `poll` takes as long as a task does after all.
    """

    blocks = False

    def __init__(self) -> None:
        self.phase = ""
        self._context = b""

    def begin_phase(self, phase: str, context: bytes = b"") -> None:
        """Make ready for the tasks of a phase."""
        self.phase, self._context = phase, context

    @abstractmethod
    def submit(self, tasks: Sequence[Submitted]) -> None:
        """Let tasks run one after the other, behind those that were submitted before."""

    @abstractmethod
    def poll(self) -> list[TaskResult]:
        """The results of tasks that have ended since the last call."""

    @property
    @abstractmethod
    def n_held(self) -> int:
        """How many tasks were submitted and have no result yet."""

    @abstractmethod
    def held(self) -> list[tuple[int, int]]:
        """The (task id, attempt) of what was submitted and has no result yet, in order."""

    @abstractmethod
    def drop_waiting(self) -> None:
        """Forget what was submitted and has not begun."""

    @abstractmethod
    def seconds_left(self) -> float:
        """Until the next call of `poll` is due, whatever happens."""

    def sockets(self) -> tuple[Sequence[socket.socket], Sequence[socket.socket]]:
        """What can be read, and what be written, when a call of `poll` is due."""
        return (), ()

    @abstractmethod
    def drop(self) -> None:
        """End what runs, and forget what waits, without results."""

    @abstractmethod
    def guard(self, silence_s: float) -> None:
        """From now on, have this rank's MPI process ended if it is stopped for so long."""

    @abstractmethod
    def close(self) -> None:
        """End everything that was started."""


def wait_for(executors: Sequence[Executor], timeout: float, bell: Doorbell | None = None) -> None:
    """Sleep until a task may have ended or the bell rings, not longer than `timeout` seconds.

    Look for messages after that: a ring is forgotten.
    """
    readers: list[socket.socket | Doorbell] = []
    writers: list[socket.socket] = []
    for executor in executors:
        to_read, to_write = executor.sockets()
        readers.extend(to_read)
        writers.extend(to_write)
        timeout = min(timeout, executor.seconds_left())
    if bell is not None and bell.fileno() >= 0:
        readers.append(bell)
    ready = select.select(readers, writers, [], max(timeout, 0.0))[0]
    if bell is not None and bell in ready:
        bell.clear()


def _result(phase: str, frame: Frame) -> TaskResult:
    """What a report says."""
    return TaskResult(
        phase,
        frame.task_id,
        frame.attempt,
        Outcome.from_json(frame.text) if frame.text else DONE,
        frame.data,
        frame.wall_s,
        frame.cpu_s,
        frame.peak_bytes,
    )


class ProcessExecutor(Executor):
    """Runs tasks in the task process, which is replaced when a task takes it along.

    Make it before MPI starts: it forks the zygote.

    Parameters
    ----------
    execute, prepare
        What runs in the task process.
    memory_limit
        Bytes of address space it may have; None for no limit.
    """

    def __init__(
        self, execute: Execute, prepare: Prepare | None = None, memory_limit: int | None = None
    ) -> None:
        super().__init__()
        self._bulletin = bulletin = Bulletin()
        self._zygote = Zygote(
            lambda link: serve(link, Program(execute, prepare), bulletin), memory_limit
        )
        self._socket: socket.socket | None = None
        self._out = bytearray()
        self._given: deque[Submitted] = deque()  # to the task process, without a result yet
        self._n_ended = 0  # of those that were given to this task process
        self._current, self._since = 0, 0.0  # number of its task, since when
        self.n_replaced = 0

    def begin_phase(self, phase: str, context: bytes = b"") -> None:
        """Send the phase and its context to the task process, starting it if need be."""
        super().begin_phase(phase, context)
        if self._socket is None:
            self._replace()
        else:
            self._send_phase()

    def submit(self, tasks: Sequence[Submitted]) -> None:
        """Let tasks run one after the other, behind those that were submitted before."""
        if not self._given:
            self._since = time.monotonic()
            self._bulletin.ask_to_drop(False)
        self._given.extend(tasks)
        self._send_tasks(tasks)

    @property
    def n_held(self) -> int:
        """How many tasks were submitted and have no result yet."""
        return len(self._given)

    def held(self) -> list[tuple[int, int]]:
        """The (task id, attempt) of what was submitted and has no result yet, in order."""
        return [(task.task_id, task.attempt) for task in self._given]

    def poll(self) -> list[TaskResult]:
        """The results of tasks that have ended since the last call, in whatever way."""
        results: list[TaskResult] = []
        try:
            self._push()
            while (frame := self._reader.read()) is not None:
                self._take(frame, results)
        except Closed:
            self._bury(OutcomeKind.FAILED, lambda ending: ending.reason, results)
        except (FrameError, ValueError) as error:
            reason = f"the task process sent nonsense: {error}"
            self._bury(OutcomeKind.FAILED, lambda ending: reason, results)
        if self._given and self._seconds_left() <= 0:
            reason = f"longer than its deadline of {self._running().deadline_s:g} s"
            self._bury(OutcomeKind.TIMED_OUT, lambda ending: reason, results, dump=True)
        return results

    def seconds_left(self) -> float:
        """Until the running task's deadline."""
        return self._seconds_left() if self._given else float("inf")

    def sockets(self) -> tuple[Sequence[socket.socket], Sequence[socket.socket]]:
        """Those to the task process."""
        assert self._socket is not None
        return [self._socket], [self._socket] if self._out else []

    def drop_waiting(self) -> None:
        """Have the task process begin no more; it says when it has heard that."""
        if len(self._given) > 1:
            self._bulletin.ask_to_drop()

    def drop(self) -> None:
        """Kill what runs, and forget what waits, without results."""
        if self._given:
            self._given.clear()
            self._replace()

    def close(self) -> None:
        """End task process and zygote."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._zygote.close()

    def guard(self, silence_s: float) -> None:
        """From now on, have this rank's MPI process ended if it is stopped for so long."""
        self._zygote.guard(silence_s)

    # -- inside ----------------------------------------------------------------------------------

    def _place_of_running(self) -> int:
        """Which of `_given` runs: those before it have ended, but that was not heard of yet."""
        place = max(self._bulletin.n_begun - self._n_ended - 1, 0)
        return min(place, len(self._given) - 1)

    def _running(self) -> Submitted:
        return self._given[self._place_of_running()]

    def _seconds_left(self) -> float:
        """Until the running task's deadline; infinite without one."""
        begun = self._bulletin.n_begun
        if begun != self._current:
            # Seen late, so it has a little more time than it should.
            self._current, self._since = begun, time.monotonic()
        deadline_s = self._running().deadline_s
        if deadline_s is None:
            return float("inf")
        return self._since + deadline_s - time.monotonic()

    def _take(self, frame: Frame, results: list[TaskResult]) -> None:
        """Make results of what the task process says."""
        if frame.kind == FrameKind.REPORTS:
            for row in np.frombuffer(frame.data, dtype=REPORTS).tolist():
                task_id, attempt, wall_s, cpu_s = row
                self._end(task_id, attempt)
                results.append(TaskResult(self.phase, task_id, attempt, DONE, b"", wall_s, cpu_s))
        elif frame.kind == FrameKind.REPORT:
            results.append(self._result_of(frame))
        elif frame.kind == FrameKind.DROPPED:
            for _ in range(frame.task_id):
                self._given.pop()
            self._bulletin.ask_to_drop(False)
        else:
            raise FrameError(f"a {frame.kind.name} frame from the task process")

    def _end(self, task_id: int, attempt: int) -> None:
        """The first of what was given has ended."""
        if not self._given or self._given[0][:2] != (task_id, attempt):
            raise FrameError(f"a report on task {task_id}, which does not run")
        self._given.popleft()
        self._n_ended += 1

    def _result_of(self, frame: Frame) -> TaskResult:
        """Make a result of a report."""
        result = _result(self.phase, frame)
        self._end(frame.task_id, frame.attempt)
        if frame.retire:
            self._replace()
        return result

    def _bury(
        self,
        kind: OutcomeKind,
        reason: Callable[[Ending], str],
        results: list[TaskResult],
        *,
        dump: bool = False,
    ) -> None:
        """Replace the task process; the task that ran has its result, the others begin anew."""
        running, stage, since = None, self._bulletin.stage, self._since
        if self._given:
            place = self._place_of_running()
            running = self._given[place]
            del self._given[place]
        ending = self._replace(dump=dump)
        if running is None:
            return
        outcome = Outcome(
            kind,
            reason(ending),
            stage,
            ending.dump,
            # Not this program's doing, which comes with a time out: the kernel's, most likely.
            starved=kind is OutcomeKind.FAILED and ending.was_killed,
        )
        seconds, peak = time.monotonic() - since, ending.peak_bytes
        results.append(
            TaskResult(
                self.phase,
                running.task_id,
                running.attempt,
                outcome,
                wall_s=seconds,
                peak_bytes=peak,
            )
        )

    def _replace(self, *, dump: bool = False) -> Ending:
        """End the task process and start a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self.n_replaced += 1
        self._socket, ending = self._zygote.replace(dump=dump)
        self._socket.setblocking(False)
        self._reader = FrameReader(self._socket)
        self._out.clear()
        self._bulletin.clear()
        self._n_ended, self._current = 0, 0
        self._since = time.monotonic()
        self._send_phase()
        self._send_tasks(self._given)
        return ending

    def _send_phase(self) -> None:
        settings = {"phase": self.phase, "log": log.settings(), "events": events.settings()}
        frame = Frame(FrameKind.PHASE, text=json.dumps(settings).encode(), data=self._context)
        self._send(frame)

    def _send_tasks(self, tasks: Iterable[Submitted]) -> None:
        rows = [task[:2] for task in tasks]
        if rows:
            data = np.array(rows, dtype=TASKS).tobytes()
            self._send(Frame(FrameKind.RUN, data=data))

    def _send(self, frame: Frame) -> None:
        self._out += frame.head()
        self._out += frame.data
        self._push()

    def _push(self) -> None:
        """Send what the socket takes; a dead process is noticed by reading."""
        assert self._socket is not None
        while self._out:
            try:
                count = self._socket.send(self._out)
            except BlockingIOError:
                return
            except OSError:
                self._out.clear()
                return
            del self._out[:count]


class InProcessExecutor(Executor):
    """Runs tasks in the same process: for a debugger, and where there is no fork.

    A task that ends the process ends the rank, and there are no deadlines. `poll` runs the task.

    Parameters
    ----------
    on_error
        Called with an exception that a task let out, while it is being handled (`pdb.post_mortem`
        wants its traceback: ``lambda error: pdb.post_mortem(error.__traceback__)``).
    """

    def __init__(
        self,
        execute: Execute,
        prepare: Prepare | None = None,
        on_error: Callable[[BaseException], object] | None = None,
    ) -> None:
        super().__init__()
        self.blocks = True
        self._waiting: deque[Submitted] = deque()
        self._program = Program(execute, prepare)
        self._on_error = on_error

    def begin_phase(self, phase: str, context: bytes = b"") -> None:
        """Prepare for a phase."""
        super().begin_phase(phase, context)
        self._program.begin(phase, context)

    def submit(self, tasks: Sequence[Submitted]) -> None:
        """Note tasks; `poll` runs them."""
        self._waiting.extend(tasks)

    @property
    def n_held(self) -> int:
        """How many tasks were submitted and have not run."""
        return len(self._waiting)

    def held(self) -> list[tuple[int, int]]:
        """What was submitted and has not run."""
        return [(task.task_id, task.attempt) for task in self._waiting]

    def poll(self) -> list[TaskResult]:
        """Run a task that was submitted."""
        if not self._waiting:
            return []
        task_id, attempt, _ = self._waiting.popleft()
        frame = self._program.run(task_id, attempt, self._on_error)
        return [_result(self.phase, frame)]

    def seconds_left(self) -> float:
        """None if there is anything to run."""
        return 0.0 if self._waiting else float("inf")

    def drop_waiting(self) -> None:
        """Forget what was submitted: nothing of it has begun."""
        self._waiting.clear()

    def drop(self) -> None:
        """Forget what was submitted."""
        self._waiting.clear()

    def guard(self, silence_s: float) -> None:
        """There is nobody to do it."""

    def close(self) -> None:
        """Nothing was started."""
