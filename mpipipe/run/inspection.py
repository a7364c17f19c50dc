"""Looking at what earlier incarnations left: are products and inputs what their records say?

Of a large run a sample is looked at, of random tasks: whoever alters or loses files mostly does so
to many. `mpipipe verify` looks at every product of a run that is done.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from mpipipe.data.errors import BadDataError
from mpipipe.run.completion import Product, fault_of, products_of
from mpipipe.run.ledger import NO_OUTCOME, Ledger
from mpipipe.run.plan import CALIB_PHASES
from mpipipe.run.removed import read_removed
from mpipipe.store.checksums import sha256_file

_MOST_TASKS = 5000
_MOST_BYTES = 1 << 30


@dataclass
class Inspection:
    """What was found.

    Attributes
    ----------
    kinds
        The ledger's, but `NO_OUTCOME` where something is wrong.
    n_looked, n_final
        Tasks that were looked at, and tasks that could have been.
    faults
        Task to what is wrong with it, a line.
    """

    kinds: np.ndarray
    n_looked: int = 0
    n_final: int = 0
    faults: dict[int, str] = field(default_factory=dict)


def inspect(ledger: Ledger, *, everything: bool = False, seed: int = 0) -> Inspection:
    """Compare products and inputs of tasks that are done with their records.

    Parameters
    ----------
    everything
        Look at all tasks and read every byte of their products. Otherwise all of a small run; of a
        large one so many random tasks as take some seconds.
    seed
        Of the sample.
    """
    final = np.flatnonzero(ledger.is_final)
    found = Inspection(np.full(len(ledger.kinds), NO_OUTCOME, dtype=np.int8), n_final=len(final))
    found.kinds[final] = ledger.kinds[final]
    chosen = np.random.default_rng(seed).permutation(final)
    if not everything:
        chosen = chosen[:_MOST_TASKS]
    found.n_looked = len(chosen)
    looker = _Looker(ledger, np.inf if everything else _MOST_BYTES)
    for task_id in chosen.tolist():
        if fault := looker.fault(task_id):
            found.faults[task_id] = fault
            found.kinds[task_id] = NO_OUTCOME
    _spread(ledger, found, looker.altered)
    return found


def has_other_inputs(ledger: Ledger) -> bool:
    """Whether a file that a task has read is another one now."""
    looker = _Looker(ledger, np.inf)
    return any(looker.other_input(ledger.tables(number)) for number in ledger.task_ids())


def _spread(ledger: Ledger, found: Inspection, altered: list[int]) -> None:
    """What was made after a master whose frames were exchanged goes with it."""
    phases = ledger.plan.phases
    first = min(
        (phases.index(phase) for task_id in altered
         if (phase := ledger.plan.phase_of(task_id)) in CALIB_PHASES),
        default=None,
    )  # fmt: skip
    if first is not None:
        start = ledger.plan.in_phase(phases[first]).start
        for task_id in (start + np.flatnonzero(found.kinds[start:] != NO_OUTCOME)).tolist():
            found.faults[task_id] = "is made after a master whose frames were exchanged"
        found.kinds[start:] = NO_OUTCOME


class _Looker:
    """Looks at one task after the other, and reads no more than so many bytes in all."""

    def __init__(self, ledger: Ledger, most_bytes: float) -> None:
        self._ledger = ledger
        self._bytes_left = most_bytes
        self._removed = read_removed(ledger.layout)
        self.altered: list[int] = []  # tasks with an input that has changed

    def fault(self, task_id: int) -> str:
        """What is wrong with a task; empty if nothing is."""
        try:
            tables = self._ledger.tables(task_id)
        except BadDataError as error:
            return str(error)
        if (rows := tables.get("products")) is not None:
            for product in products_of(rows):
                if self._is_removed(product):
                    continue
                reads = self._spend(product.size)
                if fault := fault_of(self._ledger.layout, product, content=reads):
                    return fault
        if other := self.other_input(tables):
            self.altered.append(task_id)
            return f"{other}: another file than the one that was processed"
        return ""

    def other_input(self, tables: Mapping[str, np.ndarray]) -> str:
        """The first of a task's inputs that is another file now; empty if none is."""
        for path, row in zip(tables.get("input_paths", ()), tables.get("inputs", ()), strict=True):
            if self._has_changed(os.fsdecode(path), row):
                return os.fsdecode(path)
        return ""

    def _is_removed(self, product: Product) -> bool:
        """Whether it was removed to save space. Another one of its name would be looked at."""
        is_known = self._removed.get(product.path) == product.sha256
        return is_known and not self._ledger.layout.inside(product.path).exists()

    def _has_changed(self, path: str, row: np.void) -> bool:
        """Whether an input is another file now. One that is gone is not missed any more."""
        try:
            now = os.stat(path)
        except OSError:
            return False
        if now.st_size != row["size"]:
            return True
        if now.st_mtime_ns == row["mtime_ns"] or not self._spend(now.st_size):
            return False
        return sha256_file(path).encode() != row["sha256"]

    def _spend(self, n_bytes: int) -> bool:
        """Whether so much may be read still."""
        if n_bytes > self._bytes_left:
            return False
        self._bytes_left -= n_bytes
        return True
