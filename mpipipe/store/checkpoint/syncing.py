"""When records are made durable, and against what."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from time import monotonic

_SHARE = 0.01
"""Of the time that may go into syncing when the interval is left to us."""
_MAX_RECORDS = 4096
_WEIGHT = 0.2


class Durability(StrEnum):
    """What a committed record survives."""

    POWER = "power"
    """The loss of the machine: every sync reaches the disk."""
    PROCESS = "process"
    """The death of processes: what was written is in the hands of the operating system."""
    NONE = "none"
    """As `PROCESS`, and no space is reserved ahead: for speed alone."""


@dataclass
class SyncTimer:
    """Says when the records written so far are to be synced.

    Parameters
    ----------
    durability
        Only `Durability.POWER` asks for syncs.
    interval_s
        Seconds for which a record may stay unsynced; 0 for every record by itself; None to
        choose: after Young and Daly ``sqrt(2 * cost * mtbf)`` loses least, and syncing shall take
        no more than 1 % of the time, so the shorter of the two. With tasks of a second or more
        every record is synced by itself.
    mtbf_s
        Mean time between losses of a node.
    """

    durability: Durability = Durability.POWER
    interval_s: float | None = 0.0
    mtbf_s: float = 1e8
    cost_s: float = field(default=0.0, init=False)
    n_unsynced: int = field(default=0, init=False)
    _last: float = field(default=-math.inf, init=False)

    @property
    def gap_s(self) -> float:
        """Seconds from one sync to the next."""
        if self.interval_s is not None:
            return self.interval_s
        return min(math.sqrt(2 * self.cost_s * self.mtbf_s), self.cost_s / _SHARE)

    @property
    def is_due(self) -> bool:
        """Whether what was written has waited long enough."""
        if self.durability is not Durability.POWER or not self.n_unsynced:
            return False
        return self.n_unsynced >= _MAX_RECORDS or monotonic() - self._last >= self.gap_s

    def wrote(self) -> None:
        """Note a record."""
        self.n_unsynced += 1

    def synced(self, seconds: float) -> None:
        """Note that all is durable, and how long that took."""
        first = math.isinf(self._last)
        self.cost_s = seconds if first else (1 - _WEIGHT) * self.cost_s + _WEIGHT * seconds
        self.n_unsynced = 0
        self._last = monotonic()
