"""How uneven a phase ends: tasks of different length, each for the next rank that is free."""

from __future__ import annotations

from heapq import heapify, heapreplace

import numpy as np

_ROUNDS = 20
"""Tasks of a rank that are scheduled: how ranks began is forgotten by then."""
_DRAWS, _MOST = 5, 200_000


def imbalance(durations: np.ndarray, n_ranks: int, n_tasks: int, seed: int = 0) -> float:
    """The last rank's time in tasks less the mean of ranks, in units of a task's mean.

    Parameters
    ----------
    durations
        A sample of durations relative to their mean.

    Returns
    -------
    float
        On the mean of some draws; of fewer, where ranks are many.

    References
    ----------
    Graham (1969): list scheduling.
    """
    if n_tasks <= 0 or n_ranks <= 1:
        return 0.0
    least = _ROUNDS * n_ranks
    taken = n_tasks if n_tasks <= least else least + n_tasks % n_ranks
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(max(1, min(_DRAWS, _MOST // taken))):
        lengths = generator.choice(durations, taken).tolist()
        ends = lengths[:n_ranks] + [0.0] * (n_ranks - min(taken, n_ranks))
        heapify(ends)
        for length in lengths[n_ranks:]:
            heapreplace(ends, ends[0] + length)
        found.append(max(ends) - sum(lengths) / n_ranks)
    return float(np.mean(found))
