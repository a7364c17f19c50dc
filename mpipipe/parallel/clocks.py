"""How the clocks of the ranks' hosts differ, so that events of all ranks fit on one axis."""

from __future__ import annotations

import struct
import time
from statistics import median

from mpipipe.parallel.world import World
from mpipipe.trace import events

_ROUNDS = 7
_NUMBER = struct.Struct("<d")


def behind_master(world: World) -> float:
    """Seconds that this rank's clock of events is behind rank 0's. Collective.

    On rank 0's host it is known: both read the same steady clock. On others it is estimated: all
    ranks leave a collective call soon after the last has entered it, so the times at which they
    leave tell the difference, up to the latency of the network; the median of some calls is taken.
    """
    epochs = [_NUMBER.unpack(part)[0] for part in world.allgather(_NUMBER.pack(events.EPOCH))]
    left: list[float] = []
    told: list[bytes] = []
    for _ in range(_ROUNDS + 1):
        told.append(world.allgather(_NUMBER.pack(left[-1] if left else 0.0))[0])
        left.append(time.perf_counter() + events.EPOCH)
    me = world.peers[world.rank]
    if world.peers[0].is_beside(me):
        return float(epochs[0] - events.EPOCH)
    # What rank 0 tells in a call is when it left the one before.
    master = [_NUMBER.unpack(part)[0] for part in told[1:]]
    return float(median(m - mine for m, mine in zip(master, left, strict=False)))
