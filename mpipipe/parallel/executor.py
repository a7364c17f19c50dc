"""Where a rank's tasks run: in its task process, or in the same process for debugging."""

from __future__ import annotations

import json
import select
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.parallel.frames import Closed, Frame, FrameError, FrameKind, FrameReader
from mpipipe.parallel.taskprocess import Program, serve
from mpipipe.parallel.tasks import Execute, Prepare, TaskResult
from mpipipe.parallel.zygote import Ending, Zygote
from mpipipe.trace import events, log


@dataclass
class Running:
    """The task that runs now."""

    task_id: int
    attempt: int
    deadline_s: float | None
    started: float
    stage: str = ""

    @property
    def seconds_left(self) -> float:
        """Until its deadline; infinite without one."""
        if self.deadline_s is None:
            return float("inf")
        return self.started + self.deadline_s - time.monotonic()


class Executor(ABC):
    """Runs one task at a time for a rank. None of the calls waits for a task except `wait`.

    Attributes
    ----------
    blocks
        Whether `poll` takes as long as a task does after all.
    """

    blocks = False

    def __init__(self) -> None:
        self.running: Running | None = None
        self.phase = ""
        self._context = b""

    def begin_phase(self, phase: str, context: bytes = b"") -> None:
        """Make ready for the tasks of a phase."""
        self.phase, self._context = phase, context

    @abstractmethod
    def submit(self, task_id: int, attempt: int, deadline_s: float | None) -> None:
        """Start a task; none may be running."""

    @abstractmethod
    def poll(self) -> TaskResult | None:
        """The result of the running task if it has ended."""

    @abstractmethod
    def wait(self, timeout: float) -> None:
        """Sleep until a task may have ended, or for `timeout` seconds."""

    @abstractmethod
    def drop(self) -> None:
        """End the running task without a result."""

    @abstractmethod
    def guard(self, silence_s: float) -> None:
        """From now on, have this rank's MPI process ended if it is stopped for so long."""

    @abstractmethod
    def close(self) -> None:
        """End everything that was started."""


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
        self._zygote = Zygote(lambda link: serve(link, Program(execute, prepare)), memory_limit)
        self._socket: socket.socket | None = None
        self._out = bytearray()
        self.n_replaced = 0

    def begin_phase(self, phase: str, context: bytes = b"") -> None:
        """Send the phase and its context to the task process, starting it if need be."""
        super().begin_phase(phase, context)
        if self._socket is None:
            self._replace()
        else:
            self._send_phase()

    def submit(self, task_id: int, attempt: int, deadline_s: float | None) -> None:
        """Start a task; none may be running."""
        assert self.running is None, "one task at a time"
        self.running = Running(task_id, attempt, deadline_s, time.monotonic())
        self._send(Frame(FrameKind.RUN, task_id, attempt))

    def poll(self) -> TaskResult | None:
        """The result of the running task if it has ended, in whatever way."""
        try:
            self._push()
            while (frame := self._reader.read()) is not None:
                if frame.kind == FrameKind.STAGE and self.running is not None:
                    self.running.stage = frame.text.decode()
                elif frame.kind == FrameKind.REPORT:
                    return self._accept(frame)
                else:
                    raise FrameError(f"a {frame.kind.name} frame from the task process")
        except Closed:
            return self._bury(OutcomeKind.FAILED, lambda ending: ending.reason)
        except (FrameError, ValueError) as error:
            reason = f"the task process sent nonsense: {error}"
            return self._bury(OutcomeKind.FAILED, lambda ending: reason)
        if self.running is not None and self.running.seconds_left <= 0:
            reason = f"longer than its deadline of {self.running.deadline_s:g} s"
            return self._bury(OutcomeKind.TIMED_OUT, lambda ending: reason, dump=True)
        return None

    def wait(self, timeout: float) -> None:
        """Sleep until the task process has something to say, or for `timeout` seconds."""
        if self.running is not None:
            timeout = min(timeout, self.running.seconds_left)
        assert self._socket is not None
        to_write = [self._socket] if self._out else []
        select.select([self._socket], to_write, [], max(timeout, 0.0))

    def drop(self) -> None:
        """Kill the running task without a result."""
        if self.running is not None:
            self.running = None
            self._replace()

    def guard(self, silence_s: float) -> None:
        """From now on, have this rank's MPI process ended if it is stopped for so long."""
        self._zygote.guard(silence_s)

    def close(self) -> None:
        """End task process and zygote."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._zygote.close()

    # -- inside ----------------------------------------------------------------------------------

    def _accept(self, frame: Frame) -> TaskResult | None:
        """Make a result of a report."""
        outcome = Outcome.from_json(frame.text)
        running, self.running = self.running, None
        if running is None or (running.task_id, running.attempt) != (frame.task_id, frame.attempt):
            self.running = running
            raise FrameError(f"a report on task {frame.task_id}, which does not run")
        if frame.retire:
            self._replace()
        return TaskResult(
            self.phase,
            frame.task_id,
            frame.attempt,
            outcome,
            frame.data,
            frame.wall_s,
            frame.cpu_s,
            frame.peak_bytes,
        )

    def _bury(
        self, kind: OutcomeKind, reason: Callable[[Ending], str], *, dump: bool = False
    ) -> TaskResult | None:
        """Replace the task process; the running task's result, if one ran."""
        running, self.running = self.running, None
        ending = self._replace(dump=dump)
        if running is None:
            return None
        return TaskResult(
            self.phase,
            running.task_id,
            running.attempt,
            Outcome(
                kind,
                reason(ending),
                running.stage,
                ending.dump,
                # Not this program's doing, which comes with a time out: the kernel's, most likely.
                starved=kind is OutcomeKind.FAILED and ending.was_killed,
            ),
            wall_s=time.monotonic() - running.started,
            peak_bytes=ending.peak_bytes,
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
        self._send_phase()
        return ending

    def _send_phase(self) -> None:
        settings = {"phase": self.phase, "log": log.settings(), "events": events.settings()}
        frame = Frame(FrameKind.PHASE, text=json.dumps(settings).encode(), data=self._context)
        self._send(frame)

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
        self._program = Program(execute, prepare)
        self._on_error = on_error

    def begin_phase(self, phase: str, context: bytes = b"") -> None:
        """Prepare for a phase."""
        super().begin_phase(phase, context)
        self._program.begin(phase, context)

    def submit(self, task_id: int, attempt: int, deadline_s: float | None) -> None:
        """Note the task; `poll` runs it."""
        assert self.running is None, "one task at a time"
        self.running = Running(task_id, attempt, None, time.monotonic())

    def poll(self) -> TaskResult | None:
        """Run the task that was submitted."""
        if self.running is None:
            return None
        task_id, attempt = self.running.task_id, self.running.attempt
        frame = self._program.run(task_id, attempt, self._on_error)
        self.running = None
        return TaskResult(
            self.phase,
            task_id,
            attempt,
            Outcome.from_json(frame.text),
            frame.data,
            frame.wall_s,
            frame.cpu_s,
            frame.peak_bytes,
        )

    def wait(self, timeout: float) -> None:
        """Sleep if there is nothing to run."""
        if self.running is None:
            time.sleep(timeout)

    def drop(self) -> None:
        """Forget the task that was submitted."""
        self.running = None

    def guard(self, silence_s: float) -> None:
        """There is nobody to do it."""

    def close(self) -> None:
        """Nothing was started."""
