"""Which CCDs stand behind a number: the same quantity of each CCD-visit alone."""

from __future__ import annotations

import numpy as np

from mpipipe.quality.scorecard.measured import CONTRIBUTION, NotMeasurable
from mpipipe.quality.scorecard.run_data import RunData
from mpipipe.quality.scorecard.statistics import Statistic

LEAST = 3
"""Values that a CCD-visit needs to have a number of its own."""


def by_ccd(
    data: RunData,
    visit: np.ndarray,
    number: np.ndarray,
    values: np.ndarray,
    statistic: Statistic,
    least: int = LEAST,
) -> np.ndarray:
    """A statistic of the values of each CCD-visit.

    Parameters
    ----------
    visit, number
        Visit and number of the CCD of each value.
    least
        Values without which a CCD-visit is left out.

    Returns
    -------
    numpy.ndarray
        Of dtype `CONTRIBUTION`; none where numbers of CCDs are not known.
    """
    try:
        place = data.at_exposures(visit, number)
    except NotMeasurable:
        return np.zeros(0, CONTRIBUTION)
    known = (place >= 0) & np.isfinite(values)
    place, values = place[known], values[known]
    order = np.lexsort((values, place))
    place, values = place[order], values[order]
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    found = np.zeros(len(starts), CONTRIBUTION)
    n_kept = 0
    for start, end in zip(
        starts.tolist(), [*starts[1:].tolist(), len(place)][: len(starts)], strict=True
    ):
        if end - start < least:
            continue
        exposure = data.exposures[place[start]]
        value = statistic(values[start:end], np.ones(end - start, np.int64))
        found[n_kept] = (exposure["visit"], exposure["ccd"], value, end - start)
        n_kept += 1
    return found[:n_kept]


def of_rows(
    data: RunData, rows: np.ndarray, values: np.ndarray, statistic: Statistic
) -> np.ndarray:
    """The same for values at these places of the repeats' sources."""
    sources = data.repeats.sources
    return by_ccd(data, sources["visit"][rows], sources["ccdNumber"][rows], values, statistic)
