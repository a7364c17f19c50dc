"""Small messages between ranks that never make anybody wait.

Sends are started and forgotten until they are done; receiving looks first whether something is
there. So no rank can be held up by another one, and no receive is ever left open on a rank that
may die. What a rank sends to itself does not go through MPI, which therefore is not needed when
there is one rank.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from mpipipe.parallel import injection
from mpipipe.parallel.messages import Tag, decode
from mpipipe.parallel.survival import RankLostError
from mpipipe.parallel.world import World


class Mailbox:
    """One rank's messages, as long as the world stays as it is.

    Attributes
    ----------
    is_woken
        Whether all who send to this rank can wake it (`World.bell`).
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._rank = world.rank
        self._comm: Any = world.comm if world.size > 1 else None
        self._to_self: deque[tuple[Tag, np.ndarray]] = deque()
        self._sending: deque[tuple[Any, np.ndarray]] = deque()
        self._status: Any = world.new_status() if self._comm is not None else None
        senders = range(1, world.size) if world.is_master else (0,)
        self.is_woken = all(rank == world.rank or world.ring(rank) for rank in senders)

    def post(self, rank: int, tag: Tag, message: np.ndarray) -> None:
        """Send a message; its buffer must not be changed afterwards."""
        if rank == self._rank:
            self._to_self.append((tag, message))
            return
        assert self._comm is not None
        injection.here("send")
        buffer = message.view(np.uint8)
        try:
            self._sending.append((self._comm.Isend(buffer, dest=rank, tag=tag), buffer))
            self.world.ring(rank)
        except self.world.mpi_error as error:
            self._only_lost(error)

    def collect(self, limit: int = 256) -> list[tuple[int, Tag, np.ndarray]]:
        """Messages that have come, as (rank, tag, records), at most `limit` of them.

        Raises
        ------
        RankLostError
            If a rank was lost of which this one has not heard yet (`World.acknowledge`), or the
            communicator was given up, and no message is left to be taken before.
        """
        found = []
        while self._to_self:
            tag, message = self._to_self.popleft()
            found.append((self._rank, tag, message))
        if self._comm is None:
            return found
        self.all_sent()
        try:
            while len(found) < limit and self._probe():
                raw = np.empty(self._status.count, dtype=np.uint8)
                source, tag = self._status.source, Tag(self._status.tag)
                self._comm.Recv(raw, source=source, tag=tag)
                found.append((source, tag, decode(tag, raw)))
        except self.world.mpi_error as error:
            if not found:  # else it will be met again at once
                raise self.world.translate(error) from error
            self._only_lost(error)
        return found

    def _probe(self) -> bool:
        """Whether a message is there; `_status` tells which."""
        # Open MPI looks first and lets messages in afterwards, so one look finds what was there
        # at the look before.
        probe, status = self._comm.Iprobe, self._status
        return bool(probe(status=status) or probe(status=status))

    @property
    def has_own(self) -> bool:
        """Whether a message of this rank to itself waits."""
        return bool(self._to_self)

    def all_sent(self) -> bool:
        """Whether all that was posted to others is on its way."""
        while self._sending:
            try:
                if not self._sending[0][0].Test():
                    break
            except self.world.mpi_error as error:
                self._only_lost(error)
            self._sending.popleft()
        return not self._sending

    def _only_lost(self, error: BaseException) -> None:
        """Pass over the loss of a rank, which receiving meets, too; nothing else."""
        found = self.world.translate(error)
        if not isinstance(found, RankLostError):
            raise found from error


class DeskMailbox(Mailbox):
    """Messages of one of several workers of a single process, which need no MPI.

    Parameters
    ----------
    world
        What this worker sees: its number among them, and how many they are.
    letters
        What waits for each worker, as (from, tag, records); all workers share it. The master
        reads at the first one's desk.
    """

    def __init__(self, world: World, letters: Sequence[deque[tuple[int, Tag, np.ndarray]]]) -> None:
        self.world, self._letters, self._own = world, letters, letters[world.rank]
        self.is_woken = True

    def post(self, rank: int, tag: Tag, message: np.ndarray) -> None:
        """Lay a message on another worker's desk, or the own one."""
        self._letters[rank].append((self.world.rank, tag, message))

    def collect(self, limit: int = 256) -> list[tuple[int, Tag, np.ndarray]]:
        """Messages that have come, as (worker, tag, records)."""
        return [self._own.popleft() for _ in range(min(len(self._own), limit))]

    @property
    def has_own(self) -> bool:
        """Whether a message waits here."""
        return bool(self._own)

    def all_sent(self) -> bool:
        """Always: a message is there as soon as it is posted."""
        return True
