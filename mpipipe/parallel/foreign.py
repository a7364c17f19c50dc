"""CPU time that others use on this host while something is measured."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

from mpipipe.parallel.host import cores

_STAT = Path("/proc/stat")
_TICK = os.sysconf("SC_CLK_TCK")


def busy_seconds(stat: Path = _STAT) -> float:
    """CPU seconds that this host has spent for anybody, those taken by its own host included.

    0 where the system does not tell.
    """
    try:
        fields = stat.read_text().splitlines()[0].split()[1:9]
    except OSError:
        return 0.0
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / _TICK


def own_seconds() -> float:
    """CPU seconds of this process and of those of its descendants that have ended."""
    found = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        found += usage.ru_utime + usage.ru_stime
    return found


class ForeignWatch:
    """Tells what share of the cores others have used since it was made.

    Meaningful once everything that was started meanwhile has ended, and if all of it descends from
    this process: it sees this host alone, and what others have started for us is others'.
    """

    def __init__(self) -> None:
        self._wall, self._busy, self._own = time.perf_counter(), busy_seconds(), own_seconds()

    def share(self) -> float | None:
        """At least 0.

        None where it can not be known: the system does not tell, or we have only some of its cores,
        and others may have used the rest without disturbing us.
        """
        busy, n_cores = busy_seconds(), os.cpu_count() or 1
        if not busy or cores() < n_cores:
            return None
        wall = max(time.perf_counter() - self._wall, 1e-9)
        others = busy - self._busy - (own_seconds() - self._own)
        return max(others, 0.0) / (wall * n_cores)
