"""The zygote: a process forked before MPI starts, which forks the task process and its successors.

A process in which MPI runs must not fork, and to start a fresh interpreter for every lost task
process would take a second; a fork of the zygote, with all stages imported, takes milliseconds.

The two talk over a socket: the MPI process writes one byte (`_KILL` or `_DUMP_AND_KILL`: what to
do with the task process that is there), the zygote answers with how that one ended, and passes the
socket of its successor. Nothing is left behind: zygote and task process ask the kernel to be
killed when their parent dies. At the very end, when the other ranks on the host are gone or going,
the zygote looks whether its own MPI process is stopped for long (`_GUARD`), and ends it.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

from mpipipe.data.errors import MpipipeError
from mpipipe.parallel import watch
from mpipipe.parallel.signals import STOP_SIGNALS

_ANSWER = struct.Struct("<iiqI")
_KILL, _DUMP_AND_KILL, _GUARD = b"K", b"D", b"G"
_SECONDS = struct.Struct("<d")
_MAX_DUMP = 16384
_ANSWER_TIMEOUT_S = 30.0
_REAP_TIMEOUT_S = 1.0
_DUMP_TIMEOUT_S = 0.25
_PR_SET_PDEATHSIG = 1

Serve = Callable[[socket.socket], None]


@dataclass(frozen=True)
class Ending:
    """How a task process ended.

    Attributes
    ----------
    status
        As `os.waitpid` gives it; None if there was none, or the kernel still holds it.
    peak_bytes
        Its highest resident memory.
    dump
        Where it was in Python when it crashed or was killed.
    """

    status: int | None
    peak_bytes: int = 0
    dump: str = ""

    @property
    def was_killed(self) -> bool:
        """Whether SIGKILL ended it, as the kernel does when memory is short."""
        if self.status is None or not os.WIFSIGNALED(self.status):
            return False
        return os.WTERMSIG(self.status) == signal.SIGKILL

    @property
    def reason(self) -> str:
        """In words."""
        if self.status is None:
            return "the task process is gone"
        if os.WIFSIGNALED(self.status):
            number = os.WTERMSIG(self.status)
            name = signal.Signals(number).name if number in set(signal.Signals) else "?"
            hint = ", perhaps by the kernel for lack of memory" if number == signal.SIGKILL else ""
            return f"the task process was killed by signal {number} ({name}){hint}"
        return f"the task left its process with exit code {os.WEXITSTATUS(self.status)}"


class Zygote:
    """The MPI process's handle on its zygote.

    Parameters
    ----------
    serve
        What a task process does with its socket.
    memory_limit
        Bytes of address space a task process may have; None for no limit.
    """

    def __init__(self, serve: Serve, memory_limit: int | None = None) -> None:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            with _no_way_back():
                here.close()
                _be_child(parent)
                gc.freeze()  # what is there now stays shared between the processes
                _Nursery(there, serve, memory_limit).run()
        there.close()
        here.settimeout(_ANSWER_TIMEOUT_S)
        self._control = here

    def replace(self, *, dump: bool = False) -> tuple[socket.socket, Ending]:
        """End the task process if there is one, and start another.

        Parameters
        ----------
        dump
            Ask it first where it is.

        Returns
        -------
        socket.socket, Ending
            The connection to the new one, and how the old one ended.
        """
        try:
            self._control.sendall(_DUMP_AND_KILL if dump else _KILL)
            raw, fds, _, _ = socket.recv_fds(self._control, _ANSWER.size, 1)
            has_status, status, peak, n_dump = _ANSWER.unpack(raw)
            text = b""
            while len(text) < n_dump:
                text += self._control.recv(n_dump - len(text)) or b"?"
        except (OSError, struct.error) as error:
            raise MpipipeError(f"the zygote (pid {self.pid}) is gone: {error}") from error
        if not fds:
            raise MpipipeError(
                "no new task process could be started",
                way_out="look at the limits of processes and memory (ulimit -u, -v)",
            )
        ending = Ending(status if has_status else None, peak, text.decode(errors="replace"))
        return socket.socket(fileno=fds[0]), ending

    def guard(self, silence_s: float) -> None:
        """From now on, end this MPI process if it is stopped for so many seconds.

        For the way out of MPI, where no other rank is left to do it.
        """
        with contextlib.suppress(OSError):
            self._control.sendall(_GUARD + _SECONDS.pack(silence_s))

    def close(self) -> None:
        """End zygote and task process, and wait for them."""
        self._control.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


class _Nursery:
    """The inside of the zygote."""

    def __init__(self, control: socket.socket, serve: Serve, memory_limit: int | None) -> None:
        self._control = control
        self._serve = serve
        self._memory_limit = memory_limit
        self._child = 0
        self._parent = watch.introduce("", os.getppid())
        self._guard_s: float | None = None
        self._dump_fd = os.memfd_create("mpipipe-dump")

    def run(self) -> None:
        """Answer until the MPI process closes the connection."""
        try:
            while order := self._next_order():
                if order == _GUARD:
                    self._guard_s = _SECONDS.unpack(self._control.recv(_SECONDS.size))[0]
                    continue
                has_status, status, peak, dump = self._end_child(order == _DUMP_AND_KILL)
                head = _ANSWER.pack(has_status, status, peak, len(dump))
                try:
                    connection = self._start_child()
                except OSError:
                    self._control.sendall(head + dump)
                    continue
                with connection:
                    socket.send_fds(self._control, [head], [connection.fileno()])
                self._control.sendall(dump)
        finally:
            self._end_child(False)

    def _next_order(self) -> bytes:
        """Wait for an order; meanwhile look after the MPI process if that was asked for."""
        begun = time.monotonic()
        while self._guard_s is not None:
            pause = min(1.0, self._guard_s / 4)
            if select.select([self._control], [], [], pause)[0]:
                break
            if watch.state_of(self._parent) != "T":
                begun = time.monotonic()
            elif time.monotonic() - begun > self._guard_s:
                watch.kill(self._parent)
        return self._control.recv(1)

    def _end_child(self, dump: bool) -> tuple[int, int, int, bytes]:
        """Kill and reap the task process: (is its status known, status, peak bytes, dump)."""
        pid, self._child = self._child, 0
        if not pid:
            return 0, 0, 0, b""
        # If it has ended by itself, its own status is what it gets, not this signal's.
        if dump:
            self._ask_for_dump(pid)
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)
        give_up = time.monotonic() + _REAP_TIMEOUT_S
        while True:
            done, status, usage = os.wait4(pid, os.WNOHANG)
            if done:
                return 1, status, usage.ru_maxrss * 1024, self._take_dump()
            if time.monotonic() > give_up:  # stuck in the kernel (dead file server)
                return 0, 0, 0, self._take_dump()
            time.sleep(0.0002)

    def _ask_for_dump(self, pid: int) -> None:
        """Have the task process write where it is; it may be stopped, or wait for a core."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR2)
        size, give_up = 0, time.monotonic() + _DUMP_TIMEOUT_S
        while time.monotonic() < give_up:
            time.sleep(0.005)
            last, size = size, os.fstat(self._dump_fd).st_size
            if size and size == last:
                return

    def _take_dump(self) -> bytes:
        """What faulthandler wrote; a new, empty file for the next process."""
        text = os.pread(self._dump_fd, _MAX_DUMP, 0)
        os.ftruncate(self._dump_fd, 0)
        os.lseek(self._dump_fd, 0, os.SEEK_SET)
        return text

    def _start_child(self) -> socket.socket:
        """Fork a task process; the socket for the MPI process."""
        outer, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._be_task_process(parent, outer, inner)
        inner.close()
        self._child = pid
        return outer

    def _be_task_process(self, parent: int, outer: socket.socket, inner: socket.socket) -> NoReturn:
        with _no_way_back():
            self._control.close()
            outer.close()
            # A group of its own: Ctrl-C goes to the MPI process, which decides, and what the task
            # itself may have started ends with it.
            os.setpgid(0, 0)
            _be_child(parent)
            faulthandler.enable(self._dump_fd)
            faulthandler.register(signal.SIGUSR2, self._dump_fd, all_threads=True, chain=False)
            if self._memory_limit is not None:
                resource.setrlimit(resource.RLIMIT_AS, (self._memory_limit, self._memory_limit))
            # A crash is reported; a core file of gigabytes helps nobody.
            hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
            resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
            self._serve(inner)
        raise AssertionError("unreachable: the block above ends the process")


@contextlib.contextmanager
def _no_way_back() -> Iterator[None]:
    """End a forked process after the block: the callers above it belong to another process."""
    code = 0
    try:
        yield
    except BaseException:
        code = 70
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _be_child(parent: int) -> None:
    """Die with the parent, and leave stop signals to the MPI process."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        os._exit(0)
    for number in STOP_SIGNALS:
        # Not SIG_IGN: programs that a task starts would inherit that.
        signal.signal(number, lambda *_: None)
