"""A measured number of the scorecard, what is required of it, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mpipipe.quality.scorecard.statistics import Estimate

MISSED, REPORTED, NOT_MEASURABLE = "missed", "reported", "not measurable"

CONTRIBUTION = np.dtype([("visit", "i8"), ("ccd", "U32"), ("value", "f8"), ("n", "i8")])
"""What one CCD of one visit adds to a number: the same quantity of it alone, and its sample."""

SHOWN_CCDS = 100
"""Contributions that a scorecard keeps of a number: those that are worst."""


class NotMeasurable(Exception):
    """A metric can not be measured; the text says why, to people."""


class NotGiven(NotMeasurable):
    """No stage of the run gave the number: it was switched off, or there was nothing to do."""


@dataclass(frozen=True)
class Requirement:
    """What is asked of a number.

    Attributes
    ----------
    limits
        Name of a level to its limit, hardest first: the number, or its distance from `centre`,
        may not exceed it.
    source
        Who asks: SRD, PT1.2, or the project's own target.
    centre
        The number that is right; NaN where only size matters.
    is_floor
        The number must reach the limit instead.
    """

    limits: Mapping[str, float]
    source: str = "SRD"
    centre: float = math.nan
    is_floor: bool = False

    def verdict(self, value: float) -> str:
        """The hardest level that a value meets, or `MISSED`."""
        size = value if math.isnan(self.centre) else abs(value - self.centre)
        for level, limit in self.limits.items():
            if size >= limit if self.is_floor else size <= limit:
                return level
        return MISSED

    def __str__(self) -> str:
        sign = "≥" if self.is_floor else "≤" if math.isnan(self.centre) else f"{self.centre:g} ±"
        return f"{sign} " + " / ".join(f"{limit:g}" for limit in self.limits.values())


def srd(stretch: float, design: float, minimum: float) -> Requirement:
    """The three levels of the LSST Science Requirements Document (LPM-17)."""
    return Requirement({"stretch": stretch, "design": design, "minimum": minimum})


def target(limit: float, source: str, *, centre: float = math.nan) -> Requirement:
    """One limit, with the name of who sets it."""
    return Requirement({"met": limit}, source, centre)


def at_least(limit: float, source: str) -> Requirement:
    """One limit that has to be reached."""
    return Requirement({"met": limit}, source, is_floor=True)


@dataclass(frozen=True, eq=False)
class Measured:
    """One number of the scorecard.

    Attributes
    ----------
    name
        Stable: the metric's name and what it is of, e.g. ``PA1.r``.
    title
        In words.
    value, low, high
        The number and its interval of 95 % (bootstrap); NaN where there is none.
    unit
        Its unit; empty if none.
    n, of
        Size of the sample, and what it counts.
    requirement
        None for a number that is only reported.
    levels
        Numbers, with intervals, that stand for the value at single levels, where each has a
        definition of its own (the outlier fractions of the SRD).
    why
        Why it could not be measured.
    note
        What the reader should know beside the number.
    ccds
        Of dtype `CONTRIBUTION`, the CCDs behind it.
    """

    name: str
    title: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    unit: str = ""
    n: int = 0
    of: str = ""
    requirement: Requirement | None = None
    levels: Mapping[str, Estimate] = field(default_factory=dict)
    why: str = ""
    note: str = ""
    ccds: np.ndarray = field(default_factory=lambda: np.zeros(0, CONTRIBUTION))

    @property
    def verdict(self) -> str:
        """The level that is met, or `MISSED`, `REPORTED`, `NOT_MEASURABLE`."""
        if not math.isfinite(self.value):
            return NOT_MEASURABLE
        if self.requirement is None:
            return REPORTED
        if not self.levels:
            return self.requirement.verdict(self.value)
        for level, limit in self.requirement.limits.items():
            if self.levels[level].value <= limit:
                return level
        return MISSED

    @property
    def is_certain(self) -> bool:
        """Whether the verdict is the same all over the interval, of each level where they have
        their own; what has no interval is not certain."""
        verdict, asked = self.verdict, self.requirement
        if asked is None or verdict == NOT_MEASURABLE:
            return True
        if not self.levels:
            ends = [self.low, self.high]
            if self.low <= asked.centre <= self.high:
                ends.append(asked.centre)
            known = math.isfinite(self.low + self.high)
            return known and all(asked.verdict(end) == verdict for end in ends)
        for level, limit in asked.limits.items():
            _, low, high = self.levels[level]
            if not math.isfinite(low + high) or (low <= limit) != (high <= limit):
                return False
            if level == verdict:
                break
        return True

    @property
    def sigma(self) -> float:
        """Half the width of its interval, as one standard error; NaN without."""
        return (self.high - self.low) / 3.92

    def worst_ccds(self, n: int = SHOWN_CCDS) -> np.ndarray:
        """The contributions farthest from what is right, worst first."""
        known = self.ccds[np.isfinite(self.ccds["value"])]
        requirement = self.requirement
        if requirement is not None and requirement.is_floor:
            badness = -known["value"]
        elif requirement is not None and math.isfinite(requirement.centre):
            badness = np.abs(known["value"] - requirement.centre)
        else:
            badness = np.abs(known["value"])
        order = np.lexsort((known["ccd"], known["visit"], -badness))
        return np.asarray(known[order[:n]])

    def as_json(self) -> dict[str, Any]:
        """What JSON can say of it; numbers that are not finite become None."""
        requirement = None
        if self.requirement is not None:
            requirement = {
                "source": self.requirement.source,
                "limits": dict(self.requirement.limits),
                "centre": _number(self.requirement.centre),
                "is_floor": self.requirement.is_floor,
            }
        return {
            "name": self.name,
            "title": self.title,
            "value": _number(self.value),
            "low": _number(self.low),
            "high": _number(self.high),
            "unit": self.unit,
            "n": int(self.n),
            "of": self.of,
            "requirement": requirement,
            "at_levels": {name: _number(one.value) for name, one in self.levels.items()},
            "verdict": self.verdict,
            "is_certain": self.is_certain,
            "why": self.why,
            "note": self.note,
            "n_ccds": len(self.ccds),
            "ccds": [
                {"visit": int(v), "ccd": str(c), "value": _number(x), "n": int(n)}
                for v, c, x, n in self.worst_ccds().tolist()
            ],
        }


def _number(value: float) -> float | None:
    """Seven digits, so that files do not change with the last bits of a sum."""
    return float(f"{value:.7g}") if math.isfinite(value) else None
