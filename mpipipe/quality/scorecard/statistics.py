"""Robust statistics, and how far a sample can be trusted: the bootstrap.

Samples are drawn again by unit (a star, a CCD), not by number, as numbers of one unit are not
independent (Efron & Tibshirani 1993, An Introduction to the Bootstrap). Numbers of pairs belong to
two units, and count the product of how often both were drawn (Owen 2007, Annals of Applied
Statistics 1, 386, of crossed random effects). What is drawn follows from the sample's content, so
the same run gives the same interval.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Of values (n,) in ascending order and how often each counts, whole numbers (..., n): (...)."""

Drawn = Callable[[np.ndarray], Sequence[np.ndarray]]
"""Several statistics of a sample, of how often each of its units counts."""

N_DRAWS = 200
MOST_AT_ONCE = 1_000_000
"""Numbers that the draws of one go are made of."""
MOST_VALUES = 3_000
"""Of a larger sample some units are drawn from; the interval is made narrower accordingly."""
FEW, MOST_STEPS, WHOLE = 20_000, 3_000, 500
"""Of more numbers of pairs than few, neighbours are taken as equal for their interval, in so many
steps; those at either end are not, as shares of outliers are made of them."""
QUARTILES_OF_SIGMA = 1.3489795


class Estimate(NamedTuple):
    """A number with its interval of 95 %; NaN where there is none."""

    value: float
    low: float
    high: float


NOTHING = Estimate(np.nan, np.nan, np.nan)


def percentiles(values: np.ndarray, counts: np.ndarray, *percents: float) -> list[np.ndarray]:
    """As `numpy.percentile` of the values, each repeated as often as it counts."""
    n, shape = len(values), counts.shape[:-1]
    if not n:
        return [np.full(shape, np.nan) for _ in percents]
    # One after another, so that the place in any of them is one search.
    ends = np.cumsum(counts)
    lasts = ends[n - 1 :: n]
    starts = np.concatenate([[0], lasts[:-1]])
    total = lasts - starts

    def at(place: np.ndarray) -> np.ndarray:
        found = np.searchsorted(ends, starts + place, side="right")
        return values[np.minimum(found - n * np.arange(len(total)), n - 1)]

    several = []
    for percent in percents:
        place = percent / 100.0 * np.maximum(total - 1, 0)
        below = place.astype(np.int64)
        low, high = at(below), at(np.minimum(below + 1, np.maximum(total - 1, 0)))
        found = np.where(total > 0, low + (place - below) * (high - low), np.nan)
        several.append(found.reshape(shape))
    return several


def width(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Distance of the quartiles over that of a normal distribution of sigma 1."""
    low, high = percentiles(values, counts, 25.0, 75.0)
    return np.asarray((high - low) / QUARTILES_OF_SIGMA)


def median(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The value in the middle."""
    return percentiles(values, counts, 50.0)[0]


def mean(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sum over number."""
    return _ratio((values * counts).sum(axis=-1), counts.sum(axis=-1))


def rms(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Root of the mean square."""
    return np.sqrt(mean(values**2, counts))


def beyond(limit: float) -> Statistic:
    """Percent of values farther than this from 0."""

    def percent(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return 100.0 * mean((np.abs(values) > limit).astype(float), counts)

    return percent


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """One sum over another; NaN over nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(below == 0, np.nan, above / below))


def estimate(
    statistic: Statistic, values: np.ndarray, units: np.ndarray, name: str = ""
) -> Estimate:
    """A statistic of a sample with its interval; see `estimates`."""
    return estimates([statistic], values, units, name)[0]


def estimates(
    statistics: Sequence[Statistic], values: np.ndarray, units: np.ndarray, name: str = ""
) -> list[Estimate]:
    """Statistics of a sample with their intervals, of the same draws.

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
        return [NOTHING] * len(statistics)
    # Numbers of a unit in a fixed order, whatever order the rows came in.
    order = np.lexsort((*np.atleast_2d(units.T), values))
    values, units = values[order], units[order]
    once = np.ones(len(values), np.int64)
    found = [float(statistic(values, once)) for statistic in statistics]
    names, inverse = np.unique(units, return_inverse=True)
    units = inverse.reshape(units.shape)
    n_units = len(names)
    if n_units < 2:
        return [Estimate(value, np.nan, np.nan) for value in found]
    rng = np.random.default_rng(_seed(name, values))
    if units.ndim == 2:
        of_pairs = _of_pairs(statistics, values, units)
        return _intervals(of_pairs, n_units, len(values), rng, found)
    narrower = 1.0
    if len(values) > MOST_VALUES:
        n_kept = max(2, n_units * MOST_VALUES // len(values))
        narrower = float(np.sqrt(n_kept / n_units))
        is_kept = np.zeros(n_units, bool)
        is_kept[rng.permutation(n_units)[:n_kept]] = True
        chosen = is_kept[units]
        values, units = values[chosen], (np.cumsum(is_kept) - 1)[units[chosen]]
        n_units = n_kept

    def again(counts: np.ndarray) -> list[np.ndarray]:
        of_values = counts[..., units]
        return [statistic(values, of_values) for statistic in statistics]

    return _intervals(again, n_units, len(values), rng, found, narrower)


def _of_pairs(statistics: Sequence[Statistic], values: np.ndarray, units: np.ndarray) -> Drawn:
    """The statistics, of how often each unit counts, of ascending values that belong to two."""
    n_units = int(units.max()) + 1
    keys, pair = np.unique(units[:, 0] * n_units + units[:, 1], return_inverse=True)
    first, second = np.divmod(keys, n_units)
    n = len(values)
    starts = np.zeros(0, np.intp)
    if n > FEW:
        place = np.arange(n)
        is_first = (place < WHOLE) | (place >= n - WHOLE)
        is_first[np.linspace(0, n - 1, MOST_STEPS).astype(int)] = True
        starts = np.flatnonzero(is_first)
        values = values[(starts + np.append(starts[1:], n) - 1) // 2]

    def again(counts: np.ndarray) -> list[np.ndarray]:
        of_values = (counts[..., first] * counts[..., second])[..., pair]
        if len(starts):
            of_values = np.add.reduceat(of_values, starts, axis=-1)
        return [statistic(values, of_values) for statistic in statistics]

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

    def ratio(counts: np.ndarray) -> np.ndarray:
        return _ratio((counts * above).sum(axis=-1), (counts * below).sum(axis=-1))

    return estimate_units(ratio, np.concatenate([above, below]), len(above), name)


def estimate_units(
    statistic: Callable[[np.ndarray], np.ndarray],
    content: np.ndarray,
    n_units: int,
    name: str = "",
) -> Estimate:
    """A statistic of whole units, and its interval.

    Parameters
    ----------
    statistic
        Of how often each unit counts, (..., n_units): (...).
    content
        What it is made of, in an order that is always the same: makes the seed.
    n_units
        Number of units.
    name
        Of the metric: part of the seed.
    """
    value = float(statistic(np.ones(n_units, np.int64))) if n_units else float("nan")
    if n_units < 2 or not np.isfinite(value):
        return Estimate(value, np.nan, np.nan)
    rng = np.random.default_rng(_seed(name, content))
    return _intervals(lambda counts: [statistic(counts)], n_units, n_units, rng, [value])[0]


def _intervals(
    statistics: Drawn, n_units: int, n_values: int, rng: np.random.Generator,
    values: Sequence[float], narrower: float = 1.0,
) -> list[Estimate]:  # fmt: skip
    """The values with the intervals of statistics of units drawn again."""
    drawn = np.empty((len(values), N_DRAWS))
    at_once = max(1, MOST_AT_ONCE // max(n_units, n_values))
    for start in range(0, N_DRAWS, at_once):
        n = min(at_once, N_DRAWS - start)
        units = rng.integers(0, n_units, (n, n_units)) + n_units * np.arange(n)[:, None]
        counts = np.bincount(units.ravel(), minlength=n * n_units).reshape(n, n_units)
        drawn[:, start : start + n] = statistics(counts)
    middles = statistics(np.ones(n_units, np.int64))
    return [
        _interval(value, float(middle), of_one[np.isfinite(of_one)], narrower)
        for value, middle, of_one in zip(values, middles, drawn, strict=True)
    ]


def _interval(value: float, middle: float, drawn: np.ndarray, narrower: float) -> Estimate:
    """The value with the interval of what was drawn about the middle, moved to the value."""
    if not len(drawn):
        return Estimate(value, np.nan, np.nan)
    low, high = (
        value + narrower * float(end - middle) for end in np.percentile(drawn, (2.5, 97.5))
    )
    # What can not be negative stays so when its interval is moved to the value of all.
    return Estimate(value, max(low, 0.0) if drawn.min() >= 0.0 else low, high)


def _seed(name: str, values: np.ndarray) -> int:
    digest = hashlib.sha256(name.encode() + np.float32(values).tobytes()).digest()
    return int.from_bytes(digest[:8], "little")
