"""Robust statistics, and how far a sample can be trusted: the bootstrap.

Samples are drawn again by unit (a star, a CCD), not by number, as numbers of one unit are not
independent (Efron & Tibshirani 1993, An Introduction to the Bootstrap). Numbers of pairs belong to
two units, and count the product of how often both were drawn (Owen 2007, Annals of Applied
Statistics 1, 386, of crossed random effects). What is drawn follows from the sample's content, so
the same run gives the same interval.
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
MOST_STEPS, WHOLE = 3_000, 500
"""Of many numbers of pairs, neighbours are taken as equal for their interval, in so many steps;
those at either end are not, as shares of outliers are made of them."""
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
        (n,) whole numbers: what the values belong to; (n, 2) where each belongs to two, of one
        kind.
    name
        Of the metric: part of the seed.
    """
    finite = np.isfinite(values)
    values, units = np.asarray(values, float)[finite], np.asarray(units)[finite]
    if not len(values):
        return NOTHING
    # Numbers of a unit in a fixed order, whatever order the rows came in.
    order = np.lexsort((*np.atleast_2d(units.T), values))
    values, units = values[order], units[order]
    value = statistic(values, np.ones(len(values), np.int64))
    names, inverse = np.unique(units, return_inverse=True)
    units = inverse.reshape(units.shape)
    n_units = len(names)
    if n_units < 2:
        return Estimate(value, np.nan, np.nan)
    rng = np.random.default_rng(_seed(name, values))
    if units.ndim == 2:
        return _interval(_of_pairs(statistic, values, units), n_units, rng, value)
    narrower = 1.0
    if len(values) > MOST_VALUES:
        n_kept = max(2, n_units * MOST_VALUES // len(values))
        narrower = float(np.sqrt(n_kept / n_units))
        is_kept = np.zeros(n_units, bool)
        is_kept[rng.permutation(n_units)[:n_kept]] = True
        chosen = is_kept[units]
        values, units = values[chosen], (np.cumsum(is_kept) - 1)[units[chosen]]
        n_units = n_kept

    def again(counts: np.ndarray) -> float:
        return statistic(values, counts[units])

    return _interval(again, n_units, rng, value, narrower)


def _of_pairs(
    statistic: Statistic, values: np.ndarray, units: np.ndarray
) -> Callable[[np.ndarray], float]:
    """The statistic, of how often each unit counts, of ascending values that belong to two."""
    from scipy.sparse import coo_array

    n_units = int(units.max()) + 1
    keys, pair = np.unique(units[:, 0] * n_units + units[:, 1], return_inverse=True)
    first, second = np.divmod(keys, n_units)
    n = len(values)
    place = np.arange(n)
    is_first = (place < WHOLE) | (place >= n - WHOLE)
    is_first[np.linspace(0, n - 1, min(n, MOST_STEPS)).astype(int)] = True
    step, starts = np.cumsum(is_first) - 1, np.flatnonzero(is_first)
    table = coo_array((np.ones(n, np.int64), (step, pair)), shape=(len(starts), len(keys))).tocsr()
    middles = values[(starts + np.append(starts[1:], n) - 1) // 2]

    def again(counts: np.ndarray) -> float:
        return statistic(middles, table @ (counts[first] * counts[second]))

    return again


def estimate_ratio(above: np.ndarray, below: np.ndarray, name: str = "") -> Estimate:
    """Sum of some numbers over the sum of others, and its interval.

    Parameters
    ----------
    above, below
        (n,) what each unit adds to either sum.
    name
        Of the metric: part of the seed.
    """

    def ratio(counts: np.ndarray) -> float:
        total = float((counts * below).sum())
        return float((counts * above).sum()) / total if total else float("nan")

    return estimate_units(ratio, np.concatenate([above, below]), len(above), name)


def estimate_units(
    statistic: Callable[[np.ndarray], float], content: np.ndarray, n_units: int, name: str = ""
) -> Estimate:
    """A statistic of whole units, and its interval.

    Parameters
    ----------
    statistic
        Of how often each unit counts.
    content
        What it is made of, in an order that is always the same: makes the seed.
    n_units
        Number of units.
    name
        Of the metric: part of the seed.
    """
    value = statistic(np.ones(n_units, np.int64)) if n_units else float("nan")
    if n_units < 2 or not np.isfinite(value):
        return Estimate(value, np.nan, np.nan)
    return _interval(statistic, n_units, np.random.default_rng(_seed(name, content)), value)


def _interval(
    statistic: Callable[[np.ndarray], float], n_units: int, rng: np.random.Generator,
    value: float, narrower: float = 1.0,
) -> Estimate:  # fmt: skip
    """The value with the interval of a statistic of units drawn again, moved to the value."""
    drawn = np.empty(N_DRAWS)
    for k in range(N_DRAWS):
        counts = np.bincount(rng.integers(0, n_units, n_units), minlength=n_units)
        drawn[k] = statistic(counts)
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return Estimate(value, np.nan, np.nan)
    middle = statistic(np.ones(n_units, np.int64))
    low, high = (
        value + narrower * float(end - middle) for end in np.percentile(drawn, (2.5, 97.5))
    )
    # What can not be negative stays so when its interval is moved to the value of all.
    return Estimate(value, max(low, 0.0) if drawn.min() >= 0.0 else low, high)


def _seed(name: str, values: np.ndarray) -> int:
    digest = hashlib.sha256(name.encode() + np.float32(values).tobytes()).digest()
    return int.from_bytes(digest[:8], "little")
