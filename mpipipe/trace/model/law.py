"""Laws: sums of a few columns, each a product of powers, chosen by cross-validation.

What a run is measured by are its ranks p, tasks n, and what follows from them: tasks of a rank
n / p, ranks of a core, transfers at the same time. A law takes two or three columns of those that
a term may have; growth with p is a column ``p^i log2(p)^j``. A column more has to earn its place:
runs on numbers of ranks that were left out must be predicted better by a tenth.

References
----------
Calotoiu, Hoefler, Poke, Wolf (2013), "Using automated performance modeling to find scalability
bugs in complex codes": the performance model normal form. Lawson, Hanson (1974): least squares
that are not negative. Wu (1986): the wild bootstrap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

POWERS = (0.0, 1 / 3, 0.5, 2 / 3, 1.0, 1.5, 2.0)
LOGS = (0, 1, 2)
_GAIN, _WORTH = 0.9, 5e-4
"""By what a column more has to lower the error of what was left out: a factor, and a difference."""
_REACH = 0.01
"""Of the wall time: what is smaller need not be right relative to itself."""


@dataclass(frozen=True)
class At:
    """A size of run at which laws are asked.

    Attributes
    ----------
    n_ranks, n_tasks
        p and n.
    load
        Ranks of a core, at least 1.
    busy
        Cores that are busy.
    users
        Transfers at the same time.
    schedule
        Imbalance of a schedule of such tasks, seconds (`mpipipe.trace.model.schedule`).
    """

    n_ranks: float
    n_tasks: float
    load: float = 1.0
    busy: float = 1.0
    users: float = 1.0
    schedule: float = 0.0


@dataclass(frozen=True)
class Column:
    """``n^a p^b log2(p)^c load^d``, times what is named.

    Attributes
    ----------
    tasks, ranks, log, load
        The powers.
    busy
        Power of the cores that are busy besides the first.
    users
        Power of the number of transfers at the same time, or of what of it is above `knee`.
    schedule
        Power of the imbalance of a schedule.
    """

    tasks: int = 0
    ranks: float = 0.0
    log: int = 0
    load: float = 0
    busy: int = 0
    users: int = 0
    knee: float = 0.0
    schedule: int = 0

    def at(self, place: At) -> float:
        """The value there."""
        found = place.n_tasks**self.tasks * place.n_ranks**self.ranks * place.load**self.load
        if self.log:
            found *= float(np.log2(place.n_ranks)) ** self.log
        if self.busy:
            found *= (place.busy - 1) ** self.busy
        if self.users:
            found *= max(place.users - self.knee, 0.0) ** self.users
        if self.schedule:
            found *= place.schedule**self.schedule
        return float(found)

    def __str__(self) -> str:
        parts = []
        if self.tasks and self.ranks == -1:
            parts.append("n/p")
        elif self.tasks:
            parts.append("n")
        if self.ranks and not (self.tasks and self.ranks == -1):
            parts.append("p" if self.ranks == 1 else f"p^{self.ranks:.3g}")
        if self.log:
            parts.append("log2(p)" if self.log == 1 else f"log2(p)^{self.log}")
        if self.load:
            parts.append("ranks/core" if self.load == 1 else f"(ranks/core)^{self.load:.3g}")
        if self.busy:
            parts.append("(busy cores-1)")
        if self.users:
            parts.append(f"max(users-{self.knee:g}, 0)" if self.knee else "users")
        if self.schedule:
            parts.append("schedule")
        return " * ".join(parts) or "1"


ONE, TASKS, SHARE = Column(), Column(tasks=1), Column(tasks=1, ranks=-1.0)
LOAD, LOAD_SHARE = Column(load=1), Column(tasks=1, ranks=-1.0, load=1)


def normal_form() -> list[Column]:
    """Columns ``p^i log2(p)^j`` that grow."""
    return [Column(ranks=i, log=j) for i in POWERS for j in LOGS if i or j]


def sets_of(
    plain: Sequence[Column], grown: Sequence[Column] = (), most: int = 3
) -> list[tuple[Column, ...]]:
    """Sets of columns: some of the plain ones, and at most one that grows; small sets first."""
    found: list[tuple[Column, ...]] = []
    for size in range(1, most + 1):
        found += combinations(plain, size)
        found += [
            (*few, one) for few in combinations(plain, size - 1) for one in grown if few or size > 1
        ]
    return found


@dataclass(frozen=True)
class Law:
    """A sum of columns.

    Attributes
    ----------
    columns, factors
        Each with what it is multiplied by; none is negative.
    draws
        (n_draws, n_columns), factors of repeated fits to data that might have been.
    error
        Mean error of what was left out, relative.
    """

    columns: tuple[Column, ...] = ()
    factors: np.ndarray = field(default_factory=lambda: np.zeros(0))
    draws: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    error: float = 0.0

    def at(self, place: At, draw: int | None = None) -> float:
        """The value there; of one of the draws, if one is named."""
        factors = self.factors if draw is None else self.draws[draw % max(len(self.draws), 1)]
        return float(sum(f * c.at(place) for c, f in zip(self.columns, factors, strict=True)))

    def interval(self, level: float = 0.95) -> np.ndarray:
        """(n_columns, 2), limits of the factors."""
        edges = (50 * (1 - level), 50 * (1 + level))
        found: np.ndarray = np.percentile(self.draws, edges, axis=0).T
        return found

    def __str__(self) -> str:
        parts = [f"{f:.4g} * {c}" for c, f in zip(self.columns, self.factors, strict=True) if f]
        return " + ".join(parts).replace(" * 1", "") or "0"


def choose_law(
    places: Sequence[At],
    values: np.ndarray,
    scale: np.ndarray,
    candidates: Iterable[tuple[Column, ...]],
    *,
    n_draws: int = 200,
    seed: int = 0,
) -> Law:
    """The law that predicts best what was left out, of these sets of columns.

    Parameters
    ----------
    places, values
        Where it was measured, and what; several of the same place are repeats.
    scale
        What an error counts against, besides the value itself: a hundredth of this.
    candidates
        Small sets first: a larger one has to be better by a tenth.
    n_draws, seed
        Of the bootstrap.
    """
    weights = _weights(places, values, scale)
    if not np.any(values > 0):
        return Law((ONE,), np.zeros(1), np.zeros((n_draws, 1)))
    groups = np.array([place.n_ranks for place in places])
    names = np.unique(groups)
    if len(names) < 3:  # too few numbers of ranks: sizes are left out instead
        sizes = [(place.n_ranks, place.n_tasks) for place in places]
        groups = np.unique(sizes, axis=0, return_inverse=True)[1].ravel()
        names = np.unique(groups)
    sets = list(candidates)
    known = {
        column: np.array([column.at(place) for place in places])
        for column in {column for columns in sets for column in columns}
    }
    best, best_error, best_size = None, np.inf, 1
    for columns in sets:
        if len(columns) >= max(len(names), 2):
            continue
        design = np.stack([known[column] for column in columns], axis=1)
        if not design.any(axis=0).all():
            continue
        error = _left_out(design * weights[:, None], values * weights, groups, names)
        more = max(len(columns) - best_size, 0)
        if best is None or error < best_error * _GAIN**more - _WORTH * more:
            best, best_error, best_size = columns, error, len(columns)
    if best is None:
        best, best_error = (ONE,), np.inf
    return fit_law(best, places, values, weights, best_error, n_draws=n_draws, seed=seed)


def fit_law(
    columns: tuple[Column, ...],
    places: Sequence[At],
    values: np.ndarray,
    weights: np.ndarray,
    error: float = 0.0,
    *,
    n_draws: int = 200,
    seed: int = 0,
) -> Law:
    """The factors of these columns, with those of data that might have been.

    Residuals, enlarged by what the fit has taken of them, are added to the fitted values with
    random signs, and fitted again.
    """
    design = np.array([[column.at(place) for column in columns] for place in places])
    design = design * weights[:, None]
    scaled = values * weights
    factors = _solve(design, scaled)
    used = factors > 0
    leverage = np.zeros(len(values))
    if used.any():
        q, _ = np.linalg.qr(design[:, used])
        leverage = np.minimum((q**2).sum(axis=1), 0.9)
    fitted = design @ factors
    residual = (scaled - fitted) / (1 - leverage)
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), (n_draws, len(values)))
    draws = np.array([_solve(design, fitted + sign * residual) for sign in signs])
    return Law(columns, factors, draws.reshape(n_draws, len(columns)), float(error))


def _weights(places: Sequence[At], values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """One over the size of a value, by the median of its repeats."""
    size = np.empty(len(values))
    for k, place in enumerate(places):
        same = [j for j, other in enumerate(places)
                if (other.n_ranks, other.n_tasks) == (place.n_ranks, place.n_tasks)]  # fmt: skip
        size[k] = abs(float(np.median(values[same])))
    found: np.ndarray = 1.0 / np.maximum(size + _REACH * scale, 1e-12)
    return found


def _left_out(
    design: np.ndarray, values: np.ndarray, groups: np.ndarray, names: np.ndarray
) -> float:
    """Mean error of the groups, each predicted from the others; infinite if there are none."""
    if len(names) < 2:
        return np.inf
    errors = []
    for name in names:
        inside = groups == name
        factors = _solve(design[~inside], values[~inside])
        errors.append(np.abs(design[inside] @ factors - values[inside]).mean())
    return float(np.mean(errors))


def _solve(design: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Factors that are not negative; columns are brought to one size before."""
    from scipy.optimize import nnls

    size = np.maximum(np.abs(design).max(axis=0, initial=0.0), 1e-300)
    found: np.ndarray = nnls(design / size, values)[0] / size
    return found
