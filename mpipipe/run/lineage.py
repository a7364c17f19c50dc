"""What went into a product, and what was made of a file: from the committed records of a run.

Every record tells which files its task has read and written, with checksums, and which masters it
has used. Linked by checksums they make a graph, from raw frames over masters to images and
catalogues; read backward it says what a product was made of, forward what has used a raw frame, a
master or a shard of the reference catalogue.

Bottleneck: forward reads the record of every task once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mpipipe.data.errors import ConfigError
from mpipipe.run.completion import Product, product_of_file, products_of
from mpipipe.run.incarnation import Incarnation, read_incarnation
from mpipipe.run.ledger import NO_OUTCOME, Ledger
from mpipipe.run.plan import CALIB_PHASES, Plan, load_plan, require_run
from mpipipe.run.task import full_label_of
from mpipipe.store.checksums import sha256_file
from mpipipe.store.layout import RunLayout

CATALOGUE = "catalogue"
_PHASE_OF_MASTER = {"flat": "normalise"}
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Source:
    """A file that was read, or a master of this run: where it is (a master: its kind), SHA-256."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Step:
    """The task that made products: what it has read and written, when, where.

    Attributes
    ----------
    name
        Phase and what people call the task.
    host
        Of the rank that committed it; empty if unknown.
    ended
        Seconds since 1970; 0 if unknown.
    inputs
        Files that were read.
    masters
        Masters that were used, by kind.
    """

    name: str
    task: int
    outcome: str
    incarnation: int
    attempt: int
    rank: int
    host: str
    ended: float
    wall_s: float
    products: tuple[Product, ...]
    inputs: tuple[Source, ...]
    masters: tuple[Source, ...]


def find_task(plan: Plan, kind: str, visit: int | None, ccd: str | None, band: str | None) -> int:
    """The task that makes a kind of product of a visit and CCD, or a master of a CCD and band.

    What is left out (None) is that of the first task that fits.

    Raises
    ------
    ConfigError
        If there is none.
    """
    phase = "calibrate"
    if kind in {*CALIB_PHASES, *_PHASE_OF_MASTER}:
        phase = _PHASE_OF_MASTER.get(kind, kind)
    start = plan.in_phase(phase).start if phase in plan.phases else 0
    for number in range(len(plan.in_phase(phase)) if phase in plan.phases else 0):
        _, its_visit, its_ccd, its_band = plan.tasks.labels_at(start + number)
        fits_visit = phase != "calibrate" or visit in (None, its_visit)
        if fits_visit and ccd in (None, its_ccd) and band in (None, its_band):
            return start + number
    asked = {"visit": visit, "CCD": ccd, "band": band}
    what = ", ".join(f"{name} {value}" for name, value in asked.items() if value is not None)
    raise ConfigError(
        f"its plan makes no {kind}" + (f" of {what}" if what else ""),
        way_out=f"it has {', '.join(plan.phases)}; mpipipe status RUN",
    )


class Lineage:
    """The graph of a run.

    Raises
    ------
    ConfigError
        If the folder holds no run.
    BadDataError
        If its plan is missing or damaged.
    """

    def __init__(self, layout: RunLayout) -> None:
        require_run(layout)
        self.layout, self.plan = layout, load_plan(layout)
        self.ledger = Ledger.read(layout, self.plan)
        self._incarnations: dict[int, Incarnation] = {}

    def incarnation(self, number: int) -> Incarnation:
        """The record of an incarnation."""
        if number not in self._incarnations:
            self._incarnations[number] = read_incarnation(self.layout, number)
        return self._incarnations[number]

    def step(self, task_id: int) -> Step:
        """What is committed of a task.

        Raises
        ------
        ConfigError
            If nothing is.
        BadDataError
            If its record is damaged.
        """
        ledger = self.ledger
        if ledger.kinds[task_id] == NO_OUTCOME:
            raise ConfigError(
                f"{self.plan.label(task_id)} is not done",
                file=self.layout.root,
                way_out=f"mpipipe run --resume {self.layout.root}",
            )
        head, attempt = ledger.head(task_id), ledger.attempt(task_id)
        tables = ledger.tables(task_id)
        number = int(ledger.incarnations[task_id])
        hosts = self.incarnation(number).hosts
        return Step(
            full_label_of(*self.plan.tasks.labels_at(task_id)),
            task_id,
            attempt.outcome.kind.label,
            number,
            head.attempt,
            head.rank,
            hosts[head.rank] if 0 <= head.rank < len(hosts) else "",
            attempt.ended,
            attempt.wall_s,
            tuple(products_of(tables["products"])) if "products" in tables else (),
            tuple(_inputs(tables)),
            tuple(_masters(tables)),
        )

    def steps(self) -> Iterator[Step]:
        """Of all tasks that are done, in the order of the plan."""
        return (self.step(task_id) for task_id in self.ledger.task_ids())

    def backward(self, task_ids: Iterable[int]) -> list[Step]:
        """These tasks, and behind them those whose products they were made of."""
        found: dict[int, Step] = {}
        waiting = list(task_ids)
        while waiting:
            task_id = waiting.pop(0)
            if task_id in found:
                continue
            found[task_id] = step = self.step(task_id)
            makers = (self._makers.get(used.sha256) for used in step.masters)
            waiting += [maker for maker in makers if maker is not None]
        return list(found.values())

    def forward(self, used: str) -> list[Step]:
        """The tasks that have used a file, directly or by way of masters made of it.

        Parameters
        ----------
        used
            A path (of a raw frame, of a master, of a shard), the name of such a file, or a SHA-256.

        Raises
        ------
        ConfigError
            If no task has.
        """
        matches = _Matches.of(used)
        reached: set[str] = set()
        found = []
        for step in self.steps():  # masters come before what uses them
            sources = (*step.inputs, *step.masters)
            if any(matches(source) or source.sha256 in reached for source in sources):
                found.append(step)
                reached |= {product.sha256 for product in step.products}
            elif any(matches(Source(p.path, p.sha256)) for p in step.products):
                reached |= {product.sha256 for product in step.products}
        if not found:
            raise ConfigError(
                f"no task of the run has used {used}",
                file=self.layout.root,
                way_out="a raw frame, a master, a shard of the reference catalogue, or a SHA-256",
            )
        return found

    def catalogues(self) -> list[Product]:
        """The published tables, as they are now."""
        paths = self.layout.catalogues().values()
        return [product_of_file(CATALOGUE, self.layout, self.layout.relative(p)) for p in paths]

    @cached_property
    def _makers(self) -> dict[str, int]:
        """SHA-256 of each master that the run has made to the task that made it."""
        found = {}
        for phase in set(self.plan.phases) & set(CALIB_PHASES):
            tasks = self.plan.in_phase(phase)
            here = self.ledger.kinds[tasks.start : tasks.stop] != NO_OUTCOME
            for task_id in (tasks.start + np.flatnonzero(here)).tolist():
                for product in self.step(task_id).products:
                    found[product.sha256] = task_id
        return found

    def close(self) -> None:
        """Close the files of records."""
        self.ledger.close()


def _inputs(tables: dict[str, np.ndarray]) -> Iterator[Source]:
    if "inputs" in tables:
        for path, row in zip(tables["input_paths"], tables["inputs"], strict=True):
            yield Source(os.fsdecode(path), row["sha256"].decode())


def _masters(tables: dict[str, np.ndarray]) -> Iterator[Source]:
    for row in tables.get("masters", ()):
        yield Source(row["kind"].decode().removeprefix("master "), row["sha256"].decode())


@dataclass(frozen=True)
class _Matches:
    """Whether a file is the one that is asked for: by its content, its path, or its bare name."""

    path: str
    sha256: str
    is_name: bool

    @classmethod
    def of(cls, used: str) -> _Matches:
        if _SHA256.fullmatch(used):
            return cls("", used, False)
        path = Path(used)
        sha256 = sha256_file(path) if path.is_file() else ""
        is_name = path.name == used
        return cls(used if is_name else str(path.absolute()), sha256, is_name)

    def __call__(self, source: Source) -> bool:
        if self.sha256 and source.sha256 == self.sha256:
            return True
        path = Path(source.path)
        return path.name == self.path if self.is_name else str(path) == self.path
