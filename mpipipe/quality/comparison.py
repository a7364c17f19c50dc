"""What is different between two runs: numbers of their scorecards, and their sources."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mpipipe.quality.scorecard.measured import NOT_MEASURABLE, NotMeasurable
from mpipipe.quality.scorecard.run_data import MOST_ROWS, Columns, RunData, sampled
from mpipipe.quality.scorecard.scoring import read_scorecard, score, write_text
from mpipipe.store.layout import RunLayout

REACH = 1.5
"""Pixels within which sources are the same."""
SAME = 1e-6
"""Relative difference of numbers without an interval that is none."""
LISTED = 200
"""Changed sources that are told."""

_COLUMNS = (
    "id", "visit", "ccdNumber", "x", "y", "snr", "psfInstFlux", "psfInstFluxErr", "psfFlux",
    "psfFluxErr",
)  # fmt: skip

CHANGE = np.dtype(
    [("visit", "i8"), ("ccdNumber", "i4"), ("id1", "i8"), ("id2", "i8"), ("x", "f8"), ("y", "f8"),
     ("snr", "f8"), ("sigmas", "f8")]
)  # fmt: skip
"""A source that differs; id -1 where a run does not have it, sigmas NaN then."""


@dataclass(frozen=True)
class Moved:
    """One number in two runs.

    Attributes
    ----------
    before, after
        NaN where it was not measurable.
    sigmas
        Change over the noise of both; infinite where a number has none, or one is not measurable.
    is_moved
        It changed by more than noise.
    is_worse
        It is farther from what is required, or not measurable any more; None where nobody says
        what is better.
    verdicts
        Before and after.
    """

    name: str
    title: str
    unit: str
    before: float
    after: float
    sigmas: float
    is_moved: bool
    is_worse: bool | None
    verdicts: tuple[str, str]


class Sources(NamedTuple):
    """Sources of two runs.

    Attributes
    ----------
    n_matched
        In both.
    only_first, only_second
        How many are in one only.
    n_changed
        Of those in both, whose flux changed by more than so many sigma.
    changes
        Of dtype `CHANGE`: those in one run only and those that changed, the most striking first.
    why
        Why they could not be compared; empty if they were.
    """

    n_matched: int
    only_first: int
    only_second: int
    n_changed: int
    changes: np.ndarray
    why: str = ""

    @property
    def are_same(self) -> bool:
        """Nothing differs."""
        return not (self.only_first or self.only_second or self.n_changed)


@dataclass(frozen=True)
class Comparison:
    """Two runs beside each other.

    Attributes
    ----------
    names
        Of the runs.
    numbers
        All that either has, in the order of the first.
    sources
        None where a scorecard alone was given.
    """

    names: tuple[str, str]
    numbers: tuple[Moved, ...]
    sources: Sources | None

    @property
    def moved(self) -> list[Moved]:
        """Numbers that changed by more than noise."""
        return [one for one in self.numbers if one.is_moved]

    @property
    def is_different(self) -> bool:
        """A number or a source differs."""
        return bool(self.moved) or (self.sources is not None and not self.sources.are_same)

    @property
    def is_worse(self) -> bool:
        """A number that has a requirement moved away from it."""
        return any(one.is_worse for one in self.moved)

    def as_json(self) -> dict[str, Any]:
        """What JSON can say of it."""
        found: dict[str, Any] = {
            "format": "mpipipe comparison",
            "version": 1,
            "runs": list(self.names),
            "is_different": self.is_different,
            "is_worse": self.is_worse,
            "metrics": [
                {
                    "name": one.name,
                    "unit": one.unit,
                    "before": _finite(one.before),
                    "after": _finite(one.after),
                    "sigmas": _finite(one.sigmas),
                    "is_moved": one.is_moved,
                    "is_worse": one.is_worse,
                    "verdicts": list(one.verdicts),
                }
                for one in self.numbers
            ],
        }
        if self.sources is not None:
            counts = self.sources._asdict()
            del counts["changes"]
            names = CHANGE.names or ()
            found["sources"] = counts | {
                "changes": [
                    {
                        name: _finite(value) if isinstance(value, float) else value
                        for name, value in zip(names, row, strict=True)
                    }
                    for row in self.sources.changes[:LISTED].tolist()
                ]
            }
        return found


def _finite(value: float) -> float | None:
    return float(f"{value:.7g}") if math.isfinite(value) else None


def compare_runs(first: Path, second: Path, sigmas: float) -> Comparison:
    """Compare two runs; either may be the JSON of a scorecard, then sources are left out.

    Raises
    ------
    ConfigError
        If a folder holds no run.
    BadDataError
        If a file is no scorecard.
    """
    names = first.resolve().name, second.resolve().name
    if first.is_file() or second.is_file():
        moved = compare_numbers(_numbers_of(first), _numbers_of(second), sigmas)
        return Comparison(names, moved, None)
    with RunData(RunLayout.at(first)) as one, RunData(RunLayout.at(second)) as two:
        moved = compare_numbers(_by_name(one), _by_name(two), sigmas)
        return Comparison(names, moved, compare_sources(one, two, sigmas))


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write it as JSON."""
    write_text(path, json.dumps(comparison.as_json(), indent=1, allow_nan=False) + "\n")


def _by_name(data: RunData) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in score(data).as_json()["metrics"]}


def _numbers_of(path: Path) -> dict[str, dict[str, Any]]:
    if path.is_file():
        return read_scorecard(path)
    with RunData(RunLayout.at(path)) as data:
        return _by_name(data)


def compare_numbers(
    first: Mapping[str, Mapping[str, Any]], second: Mapping[str, Mapping[str, Any]], sigmas: float
) -> tuple[Moved, ...]:
    """Numbers of two scorecards, as JSON has them, by name.

    One has moved if it differs by more than `sigmas` times the root of the sum of the squares of
    both standard errors; without errors, if it differs at all. As two runs on the same frames share
    their noise, small changes of one are not seen: that is what the sources are compared for.
    """
    return tuple(
        _moved(name, first.get(name), second.get(name), sigmas) for name in {**first, **second}
    )


def _moved(
    name: str, one: Mapping[str, Any] | None, two: Mapping[str, Any] | None, sigmas: float
) -> Moved:
    any_of = two or one or {}
    before, after = (math.nan if part is None else _value(part["value"]) for part in (one, two))
    verdicts = tuple("absent" if part is None else str(part["verdict"]) for part in (one, two))
    known = math.isfinite(before), math.isfinite(after)
    if any_of.get("group") == "truth" and (one is None or two is None):
        known = False, False  # one of the runs was scored without truth
    is_worse: bool | None = None
    if known == (True, True):
        noise = math.hypot(_sigma(one), _sigma(two))
        change = abs(after - before)
        if noise > 0.0:
            far = change / noise
        else:
            far = math.inf if change > SAME * max(abs(before), abs(after)) else 0.0
        worse = _distance(any_of, after) - _distance(any_of, before)
        is_worse = None if math.isnan(worse) else worse > 0.0
    elif known == (False, False):
        far = 0.0
    else:
        far = math.inf
        is_worse = known[0]
    is_moved = far > sigmas
    unit = str((one or any_of)["unit"] or any_of["unit"])
    return Moved(
        name, str(any_of["title"]), unit, before, after, far, is_moved,
        is_worse if is_moved else None, (verdicts[0], verdicts[1]),
    )  # fmt: skip


def _value(value: Any) -> float:
    return math.nan if value is None else float(value)


def _sigma(one: Mapping[str, Any] | None) -> float:
    if one is None or one["low"] is None or one["high"] is None:
        return 0.0
    return max((float(one["high"]) - float(one["low"])) / 3.92, 0.0)


def _distance(one: Mapping[str, Any], value: float) -> float:
    """How far a number is from what is right; NaN where nothing is required."""
    asked = one["requirement"]
    if asked is None or one["verdict"] == NOT_MEASURABLE:
        return math.nan
    if asked["is_floor"]:
        return -value
    return value if asked["centre"] is None else abs(value - float(asked["centre"]))


# -- sources ---------------------------------------------------------------------------------------


def compare_sources(one: RunData, two: RunData, sigmas: float) -> Sources:
    """Sources of `src` of two runs, CCD-visit by CCD-visit.

    A source is the same if it has the same id and lies within `REACH`, or else is the nearest of
    the rest of either run. Its flux has changed if it differs by more than `sigmas` times the first
    run's error: calibrated where both are, else instrumental. Of large tables the same share of
    CCD-visits is compared."""
    try:
        every = max(1, *(-(-data.n_rows("src") // MOST_ROWS) for data in (one, two)))
        keep: Callable[[Columns], np.ndarray] = lambda chunk: sampled(chunk, every)  # noqa: E731
        tables = [data.read("src", _COLUMNS, keep) for data in (one, two)]
    except NotMeasurable as reason:
        return Sources(0, 0, 0, 0, np.zeros(0, CHANGE), str(reason))
    keys = [table["visit"] * 1024 + table["ccdNumber"] for table in tables]
    orders = [np.argsort(key, kind="stable") for key in keys]
    ccds = np.unique(np.concatenate(keys))
    bounds = [
        np.searchsorted(key[order], ccds, "left") for key, order in zip(keys, orders, strict=True)
    ]
    ends = [
        np.searchsorted(key[order], ccds, "right") for key, order in zip(keys, orders, strict=True)
    ]
    counts, changes = np.zeros(4, np.int64), []
    for k in range(len(ccds)):
        parts = [
            {name: values[order[low[k] : high[k]]] for name, values in table.items()}
            for table, order, low, high in zip(tables, orders, bounds, ends, strict=True)
        ]
        found = _of_ccd(parts[0], parts[1], sigmas)
        counts += found[0]
        changes.append(found[1])
    every_change = np.concatenate(changes) if changes else np.zeros(0, CHANGE)
    striking = np.where(
        np.isfinite(every_change["sigmas"]), every_change["sigmas"], every_change["snr"]
    )
    order = np.lexsort((every_change["x"], every_change["visit"], -striking))
    n_matched, only_first, only_second, n_changed = counts.tolist()
    return Sources(n_matched, only_first, only_second, n_changed, every_change[order])


def matches(one: Columns, two: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Which sources of two runs of one CCD-visit are the same: places in both."""
    from scipy.spatial import cKDTree

    _, i, j = np.intersect1d(one["id"], two["id"], return_indices=True)
    near = np.hypot(one["x"][i] - two["x"][j], one["y"][i] - two["y"][j]) <= REACH
    i, j = i[near], j[near]
    rest = [
        np.setdiff1d(np.flatnonzero(np.isfinite(part["x"] + part["y"])), known)
        for part, known in ((one, i), (two, j))
    ]
    if not (len(rest[0]) and len(rest[1])):
        return i, j
    places = [
        np.stack([part["x"][left], part["y"][left]], axis=1)
        for part, left in zip((one, two), rest, strict=True)
    ]
    apart, there = cKDTree(places[1]).query(places[0], distance_upper_bound=REACH)
    back = cKDTree(places[0]).query(places[1])[1]
    ok = np.flatnonzero(np.isfinite(apart))
    ok = ok[back[there[ok]] == ok]
    return np.concatenate([i, rest[0][ok]]), np.concatenate([j, rest[1][there[ok]]])


def _of_ccd(one: Columns, two: Columns, sigmas: float) -> tuple[np.ndarray, np.ndarray]:
    i, j = matches(one, two)
    far = _flux_change(one, two, i, j)
    is_changed = far > sigmas
    lone = np.setdiff1d(np.arange(len(one["id"])), i), np.setdiff1d(np.arange(len(two["id"])), j)
    rows = np.zeros(len(lone[0]) + len(lone[1]) + int(is_changed.sum()), CHANGE)
    at = 0
    for table, picked, ids in (
        (one, i[is_changed], (one["id"][i[is_changed]], two["id"][j[is_changed]])),
        (one, lone[0], (one["id"][lone[0]], np.full(len(lone[0]), -1))),
        (two, lone[1], (np.full(len(lone[1]), -1), two["id"][lone[1]])),
    ):
        part = rows[at : at + len(picked)]
        for name in ("visit", "ccdNumber", "x", "y", "snr"):
            part[name] = table[name][picked]
        part["id1"], part["id2"] = ids
        part["sigmas"] = np.nan
        at += len(picked)
    rows["sigmas"][: int(is_changed.sum())] = far[is_changed]
    return np.array([len(i), len(lone[0]), len(lone[1]), int(is_changed.sum())]), rows


def _flux_change(one: Columns, two: Columns, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Change of flux over its error; one that only one run has is infinite."""
    flux1, flux2, error = (
        part[name][which].astype(float)
        for part, name, which in (
            (one, "psfFlux", i), (two, "psfFlux", j), (one, "psfFluxErr", i),
        )
    )  # fmt: skip
    raw1, raw2, raw_error = (
        part[name][which].astype(float)
        for part, name, which in (
            (one, "psfInstFlux", i), (two, "psfInstFlux", j), (one, "psfInstFluxErr", i),
        )
    )  # fmt: skip
    calibrated = np.isfinite(flux1) & np.isfinite(flux2)
    before, after = np.where(calibrated, flux1, raw1), np.where(calibrated, flux2, raw2)
    sigma = np.where(calibrated, error, raw_error)
    with np.errstate(invalid="ignore", divide="ignore"):
        far = np.abs(after - before) / sigma
    far[np.isnan(before) & np.isnan(after)] = 0.0
    far[np.isnan(before) ^ np.isnan(after)] = np.inf
    far[before == after] = 0.0
    return np.asarray(np.nan_to_num(far, nan=np.inf, posinf=np.inf))
