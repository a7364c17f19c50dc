"""Which places on the sky are near each other.

Places are put in order along the axis on which they spread most: what is near another is near it in
that order, too. A tree would be no faster for what is asked here, and loading one takes longer than
many of a small run's numbers.
"""

from __future__ import annotations

import numpy as np

_ROUNDING = 1e-15


class Places:
    """Places, ready to be asked for neighbours.

    Parameters
    ----------
    vectors
        (n, 3) unit vectors, all finite.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors = vectors
        self._axis = int(np.ptp(vectors, axis=0).argmax()) if len(vectors) else 0
        self._order = np.argsort(vectors[:, self._axis], kind="stable")
        self._along = vectors[self._order, self._axis]

    def around(self, one: int, near: float, far: float) -> np.ndarray:
        """Numbers of the places at such chords from one of them, ascending."""
        here = self._vectors[one]
        reach = far + _ROUNDING
        first, end = np.searchsorted(self._along, here[self._axis] + np.array([-reach, reach]))
        some = np.sort(self._order[first:end])
        apart = np.linalg.norm(self._vectors[some] - here, axis=1)
        return some[(apart >= near) & (apart <= far)]

    def pairs(self, reach: float) -> np.ndarray:
        """(n, 2) numbers of the places that are no farther apart than this chord."""
        found = [np.zeros((0, 2), np.intp)]
        for shift in range(1, len(self._order)):
            near = np.flatnonzero(self._along[shift:] - self._along[:-shift] <= reach)
            if not len(near):
                break
            one, two = self._order[near], self._order[near + shift]
            apart = np.linalg.norm(self._vectors[two] - self._vectors[one], axis=1)
            found.append(np.stack([one, two], axis=1)[apart <= reach])
        return np.concatenate(found)
