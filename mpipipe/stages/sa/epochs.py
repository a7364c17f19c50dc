"""The visits of a table of sources."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mpipipe.stages.sa.motion import YEAR, earth_positions


class Epochs(NamedTuple):
    """When sources were seen.

    Attributes
    ----------
    number
        (n,) number of every source's visit, below the number of visits.
    moment
        (n,) number of its time: CCDs of a visit may differ in theirs.
    n_visits
        Number of visits.
    years
        (n_moments,) times, Julian years.
    earth
        (n_moments, 3) barycentric place of the Earth, AU.
    """

    number: np.ndarray
    moment: np.ndarray
    n_visits: int
    years: np.ndarray
    earth: np.ndarray

    def of(self, chosen: np.ndarray) -> Epochs:
        """The epochs of some of the sources, numbered as before."""
        return self._replace(number=self.number[chosen], moment=self.moment[chosen])


def epochs_of(rows: np.ndarray, which: np.ndarray) -> Epochs:
    """Visits and times of the sources at some indices, each numbered in ascending order."""
    visits, number = _numbered(rows["visit"][which])
    times, moment = _numbered(rows["mjd"][which])
    return Epochs(number, moment, len(visits), times / YEAR, earth_positions(times))


def _numbered(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Different values, ascending, and the number of each one's."""
    # Ids ascend with visits and CCDs, so there are few runs of equal values.
    begins = np.flatnonzero(np.append(True, values[1:] != values[:-1])[: len(values)])
    found, of_run = np.unique(values[begins], return_inverse=True)
    return found, np.repeat(of_run, np.diff(begins, append=len(values)))
