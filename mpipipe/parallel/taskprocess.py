"""The task process: runs one task after the other and reports each.

Whatever a task does in Python becomes an `Outcome` here; what ends the process (a segfault,
`os._exit`) is seen by its MPI process as the end of the connection.
"""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence

import numpy as np

from mpipipe.data.errors import BadDataError, MpipipeError, NoWorkError
from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.parallel.bulletin import Bulletin
from mpipipe.parallel.frames import (
    REPORTS,
    TASKS,
    Closed,
    Frame,
    FrameKind,
    FrameReader,
    send_frame,
)
from mpipipe.parallel.memory import give_back_memory, keep_memory
from mpipipe.parallel.tasks import Execute, Prepare, TaskReport
from mpipipe.trace import events, log

DONE = Outcome(OutcomeKind.DONE)
"""What needs no words."""

_SHARE_S = 0.005
_WORTH_SAMPLES_S = 0.05
"""Plain reports of so many seconds go together, at the end of a task."""

_stage = ""
_announce: Callable[[str], None] | None = None


def note_stage(name: str) -> None:
    """Tell where the running task has come to, so that it is known if the process dies there."""
    global _stage
    _stage = name
    log.set_stage(name)
    if _announce is not None:
        _announce(name)


class Program:
    """What runs tasks, and the phase it was made ready for.

    Parameters
    ----------
    execute, prepare
        As `launch` got them.
    """

    def __init__(self, execute: Execute, prepare: Prepare | None = None) -> None:
        self._execute = execute
        self._prepare = prepare
        self._phase = ""
        self._unprepared: BaseException | None = None

    def begin(self, phase: str, context: bytes) -> None:
        """Make ready for a phase; if that fails, every task of it will."""
        self._phase, self._unprepared = phase, None
        give_back_memory()
        if self._prepare is None:
            return
        try:
            self._prepare(phase, context)
        except BaseException as error:
            self._unprepared = error

    def run(
        self,
        task_id: int,
        attempt: int,
        on_error: Callable[[BaseException], object] | None = None,
    ) -> Frame:
        """Run one attempt at a task and make a report of whatever happens."""
        global _stage
        _stage = ""
        payload = b""
        events.set_task(task_id)
        wall, cpu, faults = time.perf_counter(), time.process_time(), events.count_faults()
        try:
            if self._unprepared is not None:
                raise self._unprepared
            report = self._execute(self._phase, task_id, attempt)
            if not isinstance(report, TaskReport):
                raise TypeError(f"the task gave back a {type(report).__name__}, not a TaskReport")
            outcome, payload = report.outcome, report.payload
        except BaseException as error:
            outcome = outcome_of(error, _stage)
            if on_error is not None:
                on_error(error)
        wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
        n_faults = events.count_faults() - faults
        events.record("task", self._phase, wall, cpu_s, len(payload), n_faults)
        if wall_s > _WORTH_SAMPLES_S:
            events.sample_process()
        events.set_task(-1)
        return Frame(
            FrameKind.REPORT,
            task_id,
            attempt,
            b"" if outcome == DONE else outcome.to_json(),
            payload,
            # After MemoryError the process may be full of half-made things: start afresh.
            outcome.starved,
            wall_s,
            cpu_s,
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )


def outcome_of(error: BaseException, stage: str = "") -> Outcome:
    """The outcome that an exception stands for."""
    if isinstance(error, NoWorkError):
        return Outcome(OutcomeKind.NO_WORK, str(error), stage)
    if isinstance(error, BadDataError):
        return Outcome(OutcomeKind.BAD_DATA, str(error), stage)
    if isinstance(error, MpipipeError):
        return Outcome(OutcomeKind.FAILED, str(error), stage)
    if isinstance(error, SystemExit):
        reason = f"the task called sys.exit({error.code!r})"
    elif isinstance(error, MemoryError):
        reason = "the task ran out of memory"
    else:
        reason = f"{type(error).__name__}: {_text(error)}".rstrip(": ")
    starved = isinstance(error, MemoryError)
    return Outcome(OutcomeKind.FAILED, reason, stage, _trace(error), starved=starved)


def _text(error: BaseException) -> str:
    """First line of an exception's text; its __str__ is foreign code."""
    try:
        return (str(error).splitlines() or [""])[0]
    except Exception:
        return "(its text can not be made)"


def _trace(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception:
        return "(the traceback can not be made)"


class _Outbox:
    """What goes to the MPI process; plain reports wait for each other, but overtake nothing."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._plain: list[tuple[int, int, float, float]] = []
        self._last = 0.0

    def report(self, report: Frame, *, at_once: bool) -> None:
        """Send a report; a plain one soon."""
        if report.text or report.data or report.retire:
            _flush()
            self.send(report)
            return
        self._plain.append((report.task_id, report.attempt, report.wall_s, report.cpu_s))
        if at_once or time.perf_counter() - self._last > _SHARE_S:
            _flush()
            self.send_plain()

    def send(self, frame: Frame) -> None:
        """Send a message."""
        self.send_plain()
        send_frame(self._connection, frame)

    def send_plain(self) -> None:
        """Send what has waited."""
        self._last = time.perf_counter()
        if self._plain:
            data = np.array(self._plain, dtype=REPORTS).tobytes()
            self._plain.clear()
            send_frame(self._connection, Frame(FrameKind.REPORTS, data=data))


def serve(connection: socket.socket, program: Program, bulletin: Bulletin) -> None:
    """Run what comes over the socket until the other side closes it."""
    global _announce
    keep_memory()
    reader, outbox = FrameReader(connection), _Outbox(connection)

    def announce(name: str) -> None:
        bulletin.note_stage(name)
        outbox.send_plain()

    _announce = announce
    with contextlib.suppress(Closed):
        while True:
            frame = reader.read()
            if frame is None:
                continue
            if frame.kind == FrameKind.PHASE:
                settings = json.loads(frame.text)
                log.resume(settings["log"])
                events.resume(settings["events"])
                program.begin(settings["phase"], frame.data)
            elif frame.kind == FrameKind.RUN:
                tasks = np.frombuffer(frame.data, dtype=TASKS).tolist()
                if not _run_all(tasks, outbox, program, bulletin):
                    return


def _run_all(
    tasks: Sequence[tuple[int, int]], outbox: _Outbox, program: Program, bulletin: Bulletin
) -> bool:
    """Run tasks one after the other. Whether this process may go on."""
    n_left = len(tasks)
    for task_id, attempt in tasks:
        if bulletin.must_drop:
            break
        n_left -= 1
        bulletin.note_begun(bulletin.n_begun + 1)
        report = program.run(task_id, attempt)
        outbox.report(report, at_once=n_left == 0)
        if report.retire:
            return False
    outbox.send_plain()
    if bulletin.must_drop:
        outbox.send(Frame(FrameKind.DROPPED, n_left))
    return True


def _flush() -> None:
    """What a task has printed must not be lost with the process."""
    events.flush()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
