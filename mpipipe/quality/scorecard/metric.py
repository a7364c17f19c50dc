"""What a metric is, and which there are.

A metric is a function of `RunData` in a module of the package `mpipipe.quality.metrics`, which
gives any number of `Measured`. Its docstring defines it, and is shown beside its numbers. A new one
needs a new file there, and nothing else. It raises `NotMeasurable` with the reason where the run
lacks what it needs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from mpipipe.data.errors import MpipipeError
from mpipipe.quality.scorecard.measured import Measured, NotMeasurable
from mpipipe.quality.scorecard.run_data import RunData

GROUPS = (
    "photometry", "astrometry", "PSF", "depth", "galaxies", "detector", "objects", "truth",
)  # fmt: skip
"""Parts of the scorecard, in the order of the page."""

Measurer = Callable[[RunData], Iterable[Measured]]


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes
    ----------
    name
        Stable; names of its numbers begin with it.
    title
        In words.
    group
        Part of the scorecard, of `GROUPS`.
    definition
        How it is defined.
    measure
        What measures it.
    needs_truth
        It is left out where there is no truth.
    """

    name: str
    title: str
    group: str
    definition: str
    measure: Measurer
    needs_truth: bool = False

    def run(self, data: RunData) -> list[Measured]:
        """Its numbers; at least one, which says why if it can not be measured."""
        try:
            found = list(self.measure(data))
        except NotMeasurable as reason:
            return [Measured(self.name, self.title, why=str(reason))]
        except MpipipeError as error:
            return [Measured(self.name, self.title, why=str(error))]
        return found or [Measured(self.name, self.title, why="the run has no exposure of a visit")]


_registry: dict[str, Metric] = {}


def metric(
    name: str, title: str, group: str, *, needs_truth: bool = False
) -> Callable[[Measurer], Measurer]:
    """Make a metric of a function; its docstring is the definition."""

    def register(function: Measurer) -> Measurer:
        if group not in GROUPS:
            raise ValueError(f"{name}: no group is called {group!r}")
        if name in _registry and _registry[name].measure.__module__ != function.__module__:
            raise ValueError(f"two metrics are called {name!r}")
        text = " ".join((inspect.getdoc(function) or "").split())
        _registry[name] = Metric(name, title, group, text, function, needs_truth)
        return function

    return register


@cache
def metrics() -> tuple[Metric, ...]:
    """All metrics: by group, then by module and as they stand there."""
    from mpipipe.quality import metrics as package

    for module in sorted(iter_modules(package.__path__), key=lambda module: module.name):
        import_module(f"{package.__name__}.{module.name}")
    return tuple(one for group in GROUPS for one in _registry.values() if one.group == group)
