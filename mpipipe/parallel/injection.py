"""Disturbances on purpose: a rank that kills or stops itself at a named point, to try survival.

Does nothing unless ``MPIPIPE_INJECT`` is set. It lists disturbances, separated by commas, each
``RANK:POINT:NTH:ACTION[:DELAY_MS]``: the rank (by its number at the start), one of `POINTS`, which
passage of it, ``kill`` or ``stop``, and after how many milliseconds, while the rank goes on.
``MPIPIPE_INJECT_LOG`` names a folder where a rank leaves a file before it does it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mpipipe.data.errors import ConfigError

POINTS = (
    "send",
    "commit",
    "hello",
    "shrink",
    "agree",
    "exchange",
    "publish",
    "final",
    "finalize",
)
"""Before a message, before a commit, before the first word to a master; on entering Shrink, an
agreement at the end of a step, a round of an exchange, a table's publication, the last agreement,
MPI_Finalize."""

_ACTIONS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


@dataclass(frozen=True)
class Disturbance:
    """One entry of the list."""

    rank: int
    point: str
    nth: int
    action: str
    delay_s: float = 0.0


def parse(text: str) -> list[Disturbance]:
    """The disturbances that a text lists.

    Raises
    ------
    ConfigError
        If it makes no sense.
    """
    found = []
    for entry in filter(None, text.split(",")):
        fields = [*entry.split(":"), "0"][:5]
        try:
            rank, point, nth, action, delay = fields
            found.append(Disturbance(int(rank), point, int(nth), action, float(delay) / 1000))
        except ValueError as error:
            raise ConfigError(f"{entry!r} is no disturbance", key="MPIPIPE_INJECT") from error
        if point not in POINTS or action not in _ACTIONS:
            raise ConfigError(f"{entry!r} names no known point or action", key="MPIPIPE_INJECT")
    return found


class _Injector:
    """What this rank is to suffer."""

    def __init__(self) -> None:
        self.planned: list[Disturbance] = []
        self._passed: Counter[str] = Counter()
        self._folder: Path | None = None

    def start(self, rank: int, environ: Mapping[str, str]) -> None:
        listed = parse(environ.get("MPIPIPE_INJECT", ""))
        self.planned = [entry for entry in listed if entry.rank == rank]
        folder = environ.get("MPIPIPE_INJECT_LOG")
        self._folder = Path(folder) if folder else None

    def here(self, point: str) -> None:
        self._passed[point] += 1
        for entry in self.planned:
            if entry.point == point and entry.nth == self._passed[point]:
                if entry.delay_s > 0:
                    threading.Timer(entry.delay_s, self._strike, [entry]).start()
                else:
                    self._strike(entry)

    def _strike(self, entry: Disturbance) -> None:
        if self._folder is not None:
            (self._folder / f"{entry.rank}-{entry.point}-{entry.nth}-{entry.action}").touch()
        os.kill(os.getpid(), _ACTIONS[entry.action])


_injector = _Injector()


def start(rank: int, environ: Mapping[str, str] | None = None) -> None:
    """Take up what the environment plans for this rank."""
    _injector.start(rank, os.environ if environ is None else environ)


def here(point: str) -> None:
    """This rank comes to a named point."""
    if _injector.planned:
        _injector.here(point)
