"""Robust statistics, and how far a sample can be trusted: the bootstrap.

Samples are drawn again by unit (a star, a CCD), not by number, as numbers of one unit are not
independent (Efron & Tibshirani 1993, An Introduction to the Bootstrap). What is drawn follows from
the sample's content, so the same run gives the same interval.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Statistic = Callable[[np.ndarray, np.ndarray], float]
"""Of values in ascending order and how often each counts (whole numbers)."""

N_DRAWS = 200
MOST_VALUES = 3_000
"""Of a larger sample some units are drawn from; the interval is made narrower accordingly."""
QUARTILES_OF_SIGMA = 1.3489795


class Estimate(NamedTuple):
    """A number with its interval of 95 %; NaN where there is none."""

    value: float
    low: float
    high: float


NOTHING = Estimate(np.nan, np.nan, np.nan)


def percentile(values: np.ndarray, counts: np.ndarray, percent: float) -> float:
    """As `numpy.percentile` of the values, each repeated as often as it counts."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    if total == 0:
        return float("nan")
    place = percent / 100.0 * (total - 1)
    below = int(place)
    near = np.searchsorted(ends, (below, min(below + 1, total - 1)), side="right")
    low, high = values[near].tolist()
    return float(low + (place - below) * (high - low))


def width(values: np.ndarray, counts: np.ndarray) -> float:
    """Distance of the quartiles over that of a normal distribution of sigma 1."""
    quartiles = percentile(values, counts, 75.0) - percentile(values, counts, 25.0)
    return quartiles / QUARTILES_OF_SIGMA


def median(values: np.ndarray, counts: np.ndarray) -> float:
    """The value in the middle."""
    return percentile(values, counts, 50.0)


def mean(values: np.ndarray, counts: np.ndarray) -> float:
    """Sum over number."""
    total = counts.sum()
    return float((values * counts).sum() / total) if total else float("nan")


def rms(values: np.ndarray, counts: np.ndarray) -> float:
    """Root of the mean square."""
    return float(np.sqrt(mean(values**2, counts)))


def beyond(limit: float) -> Statistic:
    """Percent of values farther than this from 0."""

    def percent(values: np.ndarray, counts: np.ndarray) -> float:
        return 100.0 * mean((np.abs(values) > limit).astype(float), counts)

    return percent


def estimate(
    statistic: Statistic, values: np.ndarray, units: np.ndarray, name: str = ""
) -> Estimate:
    """A statistic of a sample with its interval.

    Parameters
    ----------
    values
        (n,) of any order; those that are not finite are left out.
    units
        (n,) whole numbers: what the values belong to.
    name
        Of the metric: part of the seed.
    """
    finite = np.isfinite(values)
    values, units = np.asarray(values, float)[finite], np.asarray(units)[finite]
    if not len(values):
        return NOTHING
    # Numbers of a unit in a fixed order, whatever order the rows came in.
    order = np.lexsort((units, values))
    values, units = values[order], units[order]
    value = statistic(values, np.ones(len(values), np.int64))
    names, units = np.unique(units, return_inverse=True)
    if len(names) < 2:
        return Estimate(value, np.nan, np.nan)
    rng = np.random.default_rng(_seed(name, values))
    narrower = 1.0
    if len(values) > MOST_VALUES:
        n_kept = max(2, len(names) * MOST_VALUES // len(values))
        narrower = float(np.sqrt(n_kept / len(names)))
        kept = np.zeros(len(names), bool)
        kept[rng.permutation(len(names))[:n_kept]] = True
        chosen = kept[units]
        values, units = values[chosen], (np.cumsum(kept) - 1)[units[chosen]]
        names = names[kept]
    drawn = np.empty(N_DRAWS)
    for k in range(N_DRAWS):
        counts = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
        drawn[k] = statistic(values, counts[units])
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    middle = statistic(values, np.ones(len(values), np.int64))
    low, high = (value + narrower * float(end - middle) for end in (low, high))
    # What can not be negative stays so when its interval is moved to the value of all.
    return Estimate(value, max(low, 0.0) if np.nanmin(drawn) >= 0.0 else low, high)


def _seed(name: str, values: np.ndarray) -> int:
    digest = hashlib.sha256(name.encode() + np.float32(values).tobytes()).digest()
    return int.from_bytes(digest[:8], "little")
