"""Rows from the ranks that have them to the ranks that need them, in bounded rounds.

In a round every rank sends each other one no more than its share of a fixed number of bytes, so
what it sends and what it gets stays within that number, however many rows there are, and whoever
they are for. Rows that wait for their round come from an iterator, which is asked for more only
when few wait. Counts are of 64 bits; a round is far below MPI's 2 GB.

Bottleneck: when all rows are for one rank, the rounds carry one share each, not all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from mpipipe.parallel import injection
from mpipipe.parallel.together import all_or_none
from mpipipe.parallel.world import World
from mpipipe.trace import events

Batch = tuple[np.ndarray, np.ndarray]
"""Rows (n,) of one dtype, and the rank that each is for, (n,)."""


def exchange(
    world: World,
    batches: Iterator[Batch],
    deliver: Callable[[np.ndarray], None],
    dtype: np.dtype,
    round_bytes: int,
) -> int:
    """Bring rows to their ranks. Collective.

    A rank that is lost on the way makes it raise `RankLostError`: call it within a step that does
    everything again. An error of `batches` or `deliver` ends it on all ranks.

    Parameters
    ----------
    batches
        What this rank has; taken one at a time.
    deliver
        Called with rows for this rank, many times; their order is not told.
    dtype
        Of the rows; no objects.
    round_bytes
        What a rank sends in a round, and gets, at most; more only if a row a rank is more.

    Returns
    -------
    int
        Rounds that it took.

    Raises
    ------
    MpipipeError
        On every rank, if one of them could not give or take its rows.
    """
    waiting = _Waiting(world.size, dtype, max(round_bytes // world.size // dtype.itemsize, 1))
    n_rounds = 0
    while True:
        injection.here("exchange")
        with all_or_none(world):
            more = waiting.fill(batches)
        with events.span("exchange", "round", waiting.n_rows * dtype.itemsize):
            parts = [waiting.take(rank) for rank in range(world.size)]
            coming = world.alltoall(parts)
        with all_or_none(world):
            for part in coming:
                if len(part):
                    deliver(part.view(dtype))
        n_rounds += 1
        if world.agree(not more and not waiting.n_rows):
            return n_rounds


class _Waiting:
    """Rows that wait for their round, by rank."""

    def __init__(self, n_ranks: int, dtype: np.dtype, share: int) -> None:
        self._rows: list[deque[np.ndarray]] = [deque() for _ in range(n_ranks)]
        self._dtype, self._share = dtype, share
        self._most = share * n_ranks
        self.n_rows = 0

    def fill(self, batches: Iterator[Batch]) -> bool:
        """Take batches until a round's worth of rows waits; whether there may be more."""
        while self.n_rows < self._most:
            batch = next(batches, None)
            if batch is None:
                return False
            rows, ranks = batch
            order = np.argsort(ranks, kind="stable")
            ends = np.searchsorted(ranks[order], np.arange(len(self._rows)), side="right")
            begin = 0
            for waiting, end in zip(self._rows, ends.tolist(), strict=True):
                if end > begin:
                    waiting.append(rows[order[begin:end]])
                begin = end
            self.n_rows += len(rows)
        return True

    def take(self, rank: int) -> np.ndarray:
        """A rank's share of this round, as bytes."""
        waiting, wanted, found = self._rows[rank], self._share, []
        while waiting and wanted:
            rows = waiting.popleft()
            if len(rows) > wanted:
                waiting.appendleft(rows[wanted:])
                rows = rows[:wanted]
            found.append(rows)
            wanted -= len(rows)
            self.n_rows -= len(rows)
        taken = np.concatenate(found) if found else np.empty(0, dtype=self._dtype)
        return taken.view(np.uint8)
