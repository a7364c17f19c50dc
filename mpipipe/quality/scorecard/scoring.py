"""The scorecard of a run: all metrics, the night log, and the same read back from JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mpipipe.data.errors import BadDataError, ConfigError
from mpipipe.quality.scorecard.measured import (
    MISSED,
    NOT_MEASURABLE,
    REPORTED,
    Measured,
)
from mpipipe.quality.scorecard.metric import Metric, metrics
from mpipipe.quality.scorecard.night import night_log
from mpipipe.quality.scorecard.run_data import RunData

FORMAT, VERSION = "mpipipe scorecard", 1
_NUMBER = {"value", "low", "high", "unit", "title", "group", "verdict", "requirement"}
_REQUIREMENT = {"limits", "centre", "is_floor"}
"""What each number, and each requirement, has in the JSON at least."""


@dataclass(frozen=True, eq=False)
class Scorecard:
    """What was measured of a run.

    Attributes
    ----------
    data
        The run.
    numbers
        Metrics with their numbers, in the order of the page.
    """

    data: RunData
    numbers: tuple[tuple[Metric, tuple[Measured, ...]], ...]

    @property
    def measured(self) -> list[Measured]:
        """All numbers, in order."""
        return [one for _, several in self.numbers for one in several]

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many numbers met their requirement, missed it, are reported, are not measurable."""
        found = {"met": 0, MISSED: 0, REPORTED: 0, NOT_MEASURABLE: 0}
        for one in self.measured:
            found[one.verdict if one.verdict in found else "met"] += 1
        return found

    def as_json(self) -> dict[str, Any]:
        """What JSON can say of it; names of numbers are stable."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "run": self.data.layout.root.name,
            "counts": self.counts,
            "metrics": [
                {"metric": metric.name, "group": metric.group, **one.as_json()}
                for metric, several in self.numbers
                for one in several
            ],
            "definitions": {metric.name: metric.definition for metric, _ in self.numbers},
            "night": [_plain(row) for row in night_log(self.data)],
            "problems": list(dict.fromkeys(self.data.problems)),
        }


def score(data: RunData) -> Scorecard:
    """Measure all metrics of a run.

    Raises
    ------
    ConfigError
        If the folder is no run.
    """
    root = data.layout.root
    if not root.is_dir():
        raise ConfigError("does not exist", file=root)
    layout = data.layout
    marks = (layout.plan, layout.completion, layout.camera, layout.books / "catalogs")
    if not any(mark.exists() for mark in marks):
        raise ConfigError(
            "holds no run", file=root, way_out="start one with: mpipipe run RAW -o RUN"
        )
    numbers = [
        (metric, tuple(metric.run(data)))
        for metric in metrics()
        if data.truth is not None or not metric.needs_truth
    ]
    return Scorecard(data, tuple(numbers))


def write_scorecard(card: Scorecard, path: Path) -> None:
    """Write it as JSON.

    Raises
    ------
    ConfigError
        If the file can not be written.
    """
    text = json.dumps(card.as_json(), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file of text.

    Raises
    ------
    ConfigError
        If that fails.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"can not be written: {error.strerror}", file=path) from error


def read_scorecard(path: Path) -> dict[str, dict[str, Any]]:
    """Numbers of a scorecard's JSON by name.

    Raises
    ------
    BadDataError
        If it is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT or content["version"] != VERSION:
            raise ValueError("of another format or version")
        found = {str(one["name"]): dict(one) for one in content["metrics"]}
        for name, one in found.items():
            _refuse_incomplete(name, one)
    except KeyError as error:
        raise BadDataError(f"is no scorecard: it lacks {error}", file=path) from error
    except (OSError, ValueError, TypeError) as error:
        raise BadDataError(f"is no scorecard: {error}", file=path) from error
    return found


def _refuse_incomplete(name: str, one: Mapping[str, Any]) -> None:
    asked = one.get("requirement")
    missing = _NUMBER - one.keys()
    if asked is not None:
        missing |= _REQUIREMENT - dict(asked).keys()
    if missing:
        raise ValueError(f"{name} lacks {', '.join(sorted(missing))}")
    numbers = [one["value"], one["low"], one["high"]]
    if asked is not None:
        numbers.append(asked["centre"])
    if not all(value is None or isinstance(value, (int, float)) for value in numbers):
        raise ValueError(f"{name} has a value that is no number")


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: None
        if isinstance(value, float) and not math.isfinite(value)
        else float(f"{value:.8g}")
        if isinstance(value, float)
        else value
        for name, value in row.items()
    }
