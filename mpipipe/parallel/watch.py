"""Ranks that live but say nothing: found, and killed by a rank on the same host.

The loss of a process is seen by MPI, its silence is not, and whoever waits for a silent rank in a
collective call waits for ever. There are two ways to be found:

- stopped (SIGSTOP): every rank looks once in a while at the next living one on its host, from a
  thread, whatever the rank itself is at (`Watch`).
- in a phase, not heard of by the master (or the master by a worker), for whatever reason: then
  the rank is killed on order of the master, the master by the lowest rank beside it (`Pulse`).

In both cases the silent rank becomes a dead one, which the others survive. A process is killed
only if it is still the one that introduced itself at the start: same number, same start time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

SILENCE_S = 60.0
"""Seconds without a sign of life after which a rank is killed, if nobody says otherwise."""

PATIENCE = 2.5
"""After so many times that long without the silent rank's death the run has to be ended."""


@dataclass(frozen=True)
class Peer:
    """Where a rank's MPI process lives.

    Attributes
    ----------
    host, pid
        Host and process number.
    started
        When the process was started, in ticks since the boot; -1 if unknown.
    namespace
        Which table of processes `pid` belongs to: containers on one host have several.
    """

    host: str
    pid: int
    started: int = -1
    namespace: str = ""

    def is_beside(self, other: Peer) -> bool:
        """Whether one can see and kill the other."""
        return (self.host, self.namespace) == (other.host, other.namespace)


def introduce(host: str, pid: int) -> Peer:
    """This process, for the others."""
    namespace = ""
    with contextlib.suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    found = _look(pid)
    return Peer(host, pid, -1 if found is None else found[1], namespace)


def _look(pid: int) -> tuple[str, int] | None:
    """State letter and start time of a process; None if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return fields[0].decode(), int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def state_of(peer: Peer) -> str:
    """The state letter of a peer on this host; empty if it is gone (or another has its number)."""
    found = _look(peer.pid)
    if found is None or found[0] in "ZX" or peer.started not in (-1, found[1]):
        return ""
    return found[0]


def kill(peer: Peer) -> bool:
    """SIGKILL a peer on this host if it is still itself; one that is debugged is left alone."""
    if peer.started == -1 or state_of(peer) in ("", "t"):
        return False
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(peer.pid, signal.SIGKILL)
        return True
    return False


class Watch:
    """A thread that kills the next living rank on this host if that stays stopped.

    Parameters
    ----------
    neighbours
        Gives the other ranks on this host, beginning with the one after this.
    say
        Told in words when one is killed.
    """

    def __init__(
        self,
        neighbours: Callable[[], Iterable[Peer]],
        say: Callable[[str], object],
        silence_s: float = SILENCE_S,
    ) -> None:
        self.silence_s = silence_s
        self._neighbours = neighbours
        self._say = say
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mpipipe-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Watch no more."""
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        suspect, stopped_s = None, 0.0
        last = time.monotonic()
        while not self._end.wait(min(1.0, self.silence_s / 4)):
            now = time.monotonic()
            passed, last = now - last, now
            found = next(((p, s) for p in self._neighbours() if (s := state_of(p))), None)
            # If this rank has slept, too (Ctrl-Z stops all of them), its time does not count.
            if found is None or found[1] != "T" or found[0] != suspect or passed > 5:
                suspect, stopped_s = found[0] if found else None, 0.0
                continue
            stopped_s += passed
            if stopped_s >= self.silence_s and kill(found[0]):
                self._say(f"process {suspect.pid} was stopped for {stopped_s:.0f} s: killed")


class Pulse:
    """When this rank must give a sign of life, and which others have been silent for too long.

    Parameters
    ----------
    others
        Numbers of the ranks to hear of.
    silence_s
        Bound; infinite for no watching at all.
    """

    def __init__(self, others: Iterable[int], silence_s: float) -> None:
        self.silence_s = silence_s
        now = time.monotonic()
        self._heard = dict.fromkeys(others, now)
        self._ordered: set[int] = set()
        self._looked = self._beaten = now

    def heard(self, rank: int) -> None:
        """A message of `rank` has come."""
        if rank in self._heard:
            self._heard[rank] = self._looked
            self._ordered.discard(rank)

    def forget(self, rank: int) -> None:
        """`rank` is dead."""
        self._heard.pop(rank, None)

    def must_beat(self) -> bool:
        """Whether it is time for a sign of life; true once in a while."""
        now = time.monotonic()
        if now - self._looked > self.silence_s / 4:
            # It was this rank that slept; what came meanwhile was not taken.
            self._heard = dict.fromkeys(self._heard, now)
        self._looked = now
        if now - self._beaten < self.silence_s / 6:
            return False
        self._beaten = now
        return True

    def silent(self) -> list[int]:
        """Ranks that were silent for too long and were not in the last such list."""
        limit = self._looked - self.silence_s
        found = [r for r, at in self._heard.items() if at < limit and r not in self._ordered]
        self._ordered.update(found)
        return found

    def hopeless(self) -> int | None:
        """A rank that is silent still, long after it should have died; None if there is none."""
        limit = self._looked - PATIENCE * self.silence_s
        return next((rank for rank, at in self._heard.items() if at < limit), None)
