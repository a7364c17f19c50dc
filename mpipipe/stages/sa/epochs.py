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
        (n,) number of every source's epoch, below the number of epochs.
    years
        (n_epochs,) time of every epoch, Julian years.
    earth
        (n_epochs, 3) barycentric place of the Earth, AU.
    """

    number: np.ndarray
    years: np.ndarray
    earth: np.ndarray

    def of(self, chosen: np.ndarray) -> Epochs:
        """The epochs of some of the sources, numbered as before."""
        return self._replace(number=self.number[chosen])


def epochs_of(rows: np.ndarray, which: np.ndarray) -> Epochs:
    """Epochs of the sources at some indices: one a visit, in ascending order of their numbers."""
    visits = rows["visit"][which]
    # Ids ascend with visits, so there are few runs of equal ones.
    begins = np.flatnonzero(np.diff(visits, prepend=visits[:1] - 1))
    _, first, of_run = np.unique(visits[begins], return_index=True, return_inverse=True)
    number = np.repeat(of_run, np.diff(begins, append=len(visits)))
    times = rows["mjd"][which[begins[first]]]
    return Epochs(number, times / YEAR, earth_positions(times))
