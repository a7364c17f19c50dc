"""Stars that move farther than an object is wide: parts of a group that lie on one line in time.

A track is a set of sources of different visits whose places are those of a star in uniform motion,
with its parallax where there are enough visits: the scatter about the fit is small, small as well
beside the scatter about rest, and the motion is one that stars have. Two stars that visits show in
turn fail, as time does not order them; an asteroid fails by its speed.

Parts are joined like this: each pair that follow each other in time and share no visit proposes a
line; it takes up the parts near its places at their times, in order of time; if the whole fits, it
is a candidate. The candidate of most sources wins (then of least scatter, then the first), and
again, until there is none.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from mpipipe.stages.sa.epochs import Epochs
from mpipipe.stages.sa.friends import root
from mpipipe.stages.sa.motion import ARCSEC, along, axes, fit_motion

MIN_SOURCES = 3
_MAX_PARTS = 128
"""Groups of more parts are crowds in which any line finds something."""
PARALLAX_SOURCES = 6
"""From how many on a parallax is fitted."""
_OVERLAP = 0.3
"""Share of the shorter part's time that two parts of one star may have in common."""


class TrackRules(NamedTuple):
    """What may be one moving star.

    Attributes
    ----------
    scatter
        Largest rms about the fit, per axis, arcsec.
    ratio
        Largest rms about the fit, in units of the rms about rest.
    near
        How far a part may be from a proposed line, arcsec.
    motion
        Largest proper motion, arcsec a year.
    """

    scatter: float
    ratio: float
    near: float
    motion: float


@njit(cache=True)
def is_track(group: np.ndarray, vectors: np.ndarray, epochs: Epochs, rules: TrackRules) -> bool:
    """Whether sources of different epochs are one moving star."""
    if len(group) < MIN_SOURCES:
        return False
    years, places, factors = _places(group, vectors, epochs)
    return bool(_scatter(years, places, factors, rules) >= 0.0)


@njit(cache=True)
def join_tracks(
    group: np.ndarray,
    parent: np.ndarray,
    vectors: np.ndarray,
    epochs: Epochs,
    bit: np.ndarray,
    n_epochs: int,
    rules: TrackRules,
) -> None:
    """Join parts of a group that are one moving star; `parent` is changed.

    Parameters
    ----------
    group
        Indices of the group's sources.
    parent
        Union-find over places in the group; roots are lowest.
    bit, n_epochs
        Number of every epoch within the group, and how many there are.
    """
    n = len(group)
    part = np.full(n, -1)
    n_parts = 0
    for k in range(n):
        if parent[k] == k:
            part[k] = n_parts
            n_parts += 1
    if not 2 <= n_parts <= _MAX_PARTS or n < MIN_SOURCES:
        return
    for k in range(n):
        part[k] = part[root(parent, k)]
    years, places, factors = _places(group, vectors, epochs)
    visit = np.empty(n, np.int64)
    for k in range(n):
        visit[k] = bit[epochs.number[group[k]]]
    alive = np.ones(n_parts, np.bool_)
    while _join_best(part, alive, years, places, factors, visit, n_epochs, rules):
        pass
    first = np.full(n_parts, -1)
    for k in range(n):
        if first[part[k]] < 0:
            first[part[k]] = k
        parent[k] = first[part[k]]


@njit(cache=True)
def _places(
    group: np.ndarray, vectors: np.ndarray, epochs: Epochs
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times (years from the first source), offsets from it (arcsec), and factors of parallax."""
    n = len(group)
    origin = vectors[group[0]]
    plane = axes(origin)
    years, places, factors = np.empty(n), np.empty((n, 2)), np.empty((n, 2))
    zero = np.zeros(3)
    for k in range(n):
        moment = epochs.moment[group[k]]
        years[k] = epochs.years[moment] - epochs.years[epochs.moment[group[0]]]
        for axis in range(2):
            places[k, axis] = ARCSEC * along(plane[axis], vectors[group[k]], origin)
            factors[k, axis] = -along(plane[axis], epochs.earth[moment], zero)
    return years, places, factors


@njit(cache=True)
def _scatter(
    years: np.ndarray, places: np.ndarray, factors: np.ndarray, rules: TrackRules
) -> float:
    """Rms about the best motion, arcsec; -1 if it is none that a star has."""
    n = len(years)
    weights = np.ones((n, 3))
    weights[:, 1] = 0.0
    values, covariance = np.empty(5), np.empty((5, 5))
    rest = fit_motion(years, places, weights, factors, 2, values, covariance) / (2 * n - 2)
    best = -1.0
    for n_parameters in (4, 5):
        if n_parameters == 5 and n < PARALLAX_SOURCES:
            break
        chi2 = fit_motion(years, places, weights, factors, n_parameters, values, covariance)
        if not chi2 >= 0.0 or not np.hypot(values[2], values[3]) <= rules.motion:
            continue
        square = chi2 / (2 * n - n_parameters)
        if square <= rules.scatter**2 and square <= rules.ratio**2 * rest:
            scatter = np.sqrt(square)
            best = scatter if best < 0.0 else min(best, scatter)
    return best


@njit(cache=True)
def _join_best(
    part: np.ndarray,
    alive: np.ndarray,
    years: np.ndarray,
    places: np.ndarray,
    factors: np.ndarray,
    visit: np.ndarray,
    n_epochs: int,
    rules: TrackRules,
) -> bool:
    """Join the parts of the best candidate; give whether there was one."""
    n_parts = len(alive)
    first, last, middle, count = _summaries(part, n_parts, years, places)
    order = np.argsort(middle[:, 2], kind="mergesort")
    best_n, best_scatter = 0, 0.0
    best = np.zeros(n_parts, np.bool_)
    for p in range(n_parts):
        a = order[p]
        for q in range(p + 1, n_parts):
            b = order[q]
            if not (alive[a] and alive[b]) or not _follow(first, last, a, b):
                continue
            gap = middle[b, 2] - middle[a, 2]
            if not gap > 0.0:
                continue
            east = (middle[b, 0] - middle[a, 0]) / gap
            north = (middle[b, 1] - middle[a, 1]) / gap
            if not np.hypot(east, north) <= rules.motion:
                continue
            taken = np.zeros(n_epochs, np.bool_)
            if not (_take(part, visit, taken, a) and _take(part, visit, taken, b)):
                continue
            chosen = np.zeros(n_parts, np.bool_)
            chosen[a] = chosen[b] = True
            n_chosen = count[a] + count[b]
            for c in order:
                if chosen[c] or not alive[c]:
                    continue
                wait = middle[c, 2] - middle[a, 2]
                off = np.hypot(
                    middle[c, 0] - middle[a, 0] - east * wait,
                    middle[c, 1] - middle[a, 1] - north * wait,
                )
                if off <= rules.near and _take(part, visit, taken, c):
                    chosen[c] = True
                    n_chosen += count[c]
            if n_chosen < max(MIN_SOURCES, best_n):
                continue
            inside = chosen[part]
            scatter = _scatter(years[inside], places[inside], factors[inside], rules)
            if scatter >= 0.0 and (n_chosen > best_n or scatter < best_scatter):
                best_n, best_scatter, best = n_chosen, scatter, chosen
    if best_n == 0:
        return False
    joined = np.flatnonzero(best)
    for k in range(len(part)):
        if best[part[k]]:
            part[k] = joined[0]
    alive[joined[1:]] = False
    return True


@njit(cache=True)
def _summaries(
    part: np.ndarray, n_parts: int, years: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """First and last time, mean place and time, and number of sources of every part."""
    first, last = np.full(n_parts, np.inf), np.full(n_parts, -np.inf)
    middle, count = np.zeros((n_parts, 3)), np.zeros(n_parts, np.int64)
    for k in range(len(part)):
        p = part[k]
        first[p], last[p] = min(first[p], years[k]), max(last[p], years[k])
        middle[p, 0] += places[k, 0]
        middle[p, 1] += places[k, 1]
        middle[p, 2] += years[k]
        count[p] += 1
    for p in range(n_parts):
        middle[p] /= max(count[p], 1)
    return first, last, middle, count


@njit(cache=True)
def _follow(first: np.ndarray, last: np.ndarray, a: int, b: int) -> bool:
    """Whether one part comes after the other but for a share of the shorter's time."""
    overlap = min(last[a], last[b]) - max(first[a], first[b])
    return bool(overlap < _OVERLAP * min(last[a] - first[a], last[b] - first[b]))


@njit(cache=True)
def _take(part: np.ndarray, visit: np.ndarray, taken: np.ndarray, p: int) -> bool:
    """Mark the visits of a part; False, and nothing is marked, if one is marked already."""
    for k in range(len(part)):
        if part[k] == p and taken[visit[k]]:
            return False
    for k in range(len(part)):
        if part[k] == p:
            taken[visit[k]] = True
    return True
