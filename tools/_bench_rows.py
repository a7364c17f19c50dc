"""What several runs of benchmarks say together, and what has moved since an earlier entry."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

SMALL = 0.03
"""Relative change that never counts, as repeats on one machine do not see what differs from day to
day."""

LONE = 0.1
"""The same of a number that was measured once: its spread is not known."""


@dataclass
class Row:
    """One number of a benchmark, over the repeats.

    Attributes
    ----------
    name
        Benchmark and number: ``cr: search on one image``.
    target
        In words, as the benchmark says it; empty for a number that is only reported.
    values
        As measured; NaN where that was not possible.
    n_ok
        How often the target was met.
    """

    name: str
    target: str = ""
    values: list[float] = field(default_factory=list)
    n_ok: int = 0

    @property
    def known(self) -> list[float]:
        """The values that are numbers."""
        return [value for value in self.values if math.isfinite(value)]

    @property
    def value(self) -> float:
        """The median; NaN where nothing was measured."""
        return median(self.known) if self.known else math.nan

    @property
    def spread(self) -> float:
        """Half the distance of the smallest and the largest value; NaN of one value."""
        return (max(self.known) - min(self.known)) / 2 if len(self.known) > 1 else math.nan

    @property
    def is_missed(self) -> bool:
        """The target is missed by half of the repeats or more."""
        return bool(self.target) and 2 * self.n_ok <= len(self.values)

    @property
    def verdict(self) -> str:
        """``met``, ``missed`` or ``reported``, as the history has it."""
        return "reported" if not self.target else "missed" if self.is_missed else "met"

    def as_metric(self) -> list[Any]:
        """Median, smallest, largest (null where unknown), verdict: a metric of the history."""
        if not self.known:
            return [None, None, None, self.verdict]
        ends = [None, None] if len(self.known) < 2 else [min(self.known), max(self.known)]
        return [self.value, *ends, self.verdict]


@dataclass(frozen=True)
class Move:
    """How a number has changed.

    Attributes
    ----------
    name
        Of the row.
    before, now
        Medians.
    is_worse
        Away from what the target asks; None where no target tells a direction.
    """

    name: str
    before: float
    now: float
    is_worse: bool | None

    @property
    def words(self) -> str:
        """In a few words: ``1.3 -> 1.5 (+15 %), worse``."""
        kind = {None: "", True: ", worse", False: ", better"}[self.is_worse]
        share = f" ({100 * (self.now / self.before - 1):+.0f} %)" if self.before else ""
        return f"{self.before:.4g} -> {self.now:.4g}{share}{kind}"


def rows_of(name: str, tables: Sequence[Sequence[Mapping[str, Any]]]) -> list[Row]:
    """The rows of a benchmark from the tables of its repeats, in the order they stand there."""
    rows: dict[str, Row] = {}
    for table in tables:
        seen: Counter[str] = Counter()
        for check in table:
            key = f"{name}: {str(check['what']).strip()}"
            seen[key] += 1
            # A table may say one thing of several parts, under headings of its own.
            if seen[key] > 1:
                key += f" ({seen[key]})"
            row = rows.setdefault(key, Row(key))
            row.target = str(check["target"])
            row.values.append(math.nan if check["value"] is None else float(check["value"]))
            row.n_ok += bool(check["ok"])
    return list(rows.values())


def moved(row: Row, history: Sequence[Mapping[str, Any]]) -> Move | None:
    """How a number has moved beyond its spreads since the last entry that has it; None if not."""
    earlier = [line["metrics"][row.name] for line in history if row.name in line["metrics"]]
    earlier = [metric for metric in earlier if metric[0] is not None]
    if not earlier or not row.known:
        return None
    before, low, high, _ = earlier[-1]
    is_lone = low is None or math.isnan(row.spread)
    spread = (0.0 if low is None else (high - low) / 2) + (0.0 if is_lone else row.spread)
    if abs(row.value - before) <= max(spread, (LONE if is_lone else SMALL) * abs(before)):
        return None
    up = row.value > before
    worse = {"<": up, ">": not up}.get(row.target[:1])
    return Move(row.name, float(before), row.value, worse)
