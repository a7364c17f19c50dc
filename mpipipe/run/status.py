"""Where a run stands, from its folder alone: no MPI, no asking the run, any machine.

What is read: the plan, the index of the records, the completion record, provenance, and the time
of the heartbeat. A run that is killed leaves all of that as it was.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mpipipe.data.errors import BadDataError
from mpipipe.data.outcome import OutcomeKind
from mpipipe.run.attempts import decode_attempt
from mpipipe.run.completion import fault_of, read_completion
from mpipipe.run.ledger import NO_OUTCOME, are_final, of_plan, phase_codes
from mpipipe.run.plan import Plan, require_run
from mpipipe.run.sky_plan import plans_of
from mpipipe.store.checkpoint.reader import CheckpointReader
from mpipipe.store.checksums import read_json
from mpipipe.store.layout import RunLayout

ALIVE_S = 90.0
"""A heartbeat comes every few seconds; what another machine sees of it may be a minute old."""

_HASH_LIMIT = 2e9
"""Products of a run up to this size are hashed; of a larger one only sizes are compared."""
_RECENT_S = 60.0
_FIRST = 1000


@dataclass(frozen=True)
class PhaseStatus:
    """One phase: its tasks, and how many have ended how (by label of outcome)."""

    phase: str
    n_tasks: int
    outcomes: dict[str, int]
    cost_left_s: float

    @property
    def n_ended(self) -> int:
        """Tasks with an outcome."""
        return sum(self.outcomes.values())

    @property
    def n_left(self) -> int:
        """Tasks without one."""
        return self.n_tasks - self.n_ended


@dataclass(frozen=True)
class Status:
    """Where a run stands.

    Attributes
    ----------
    state
        ``complete``, ``running``, ``stopped`` (incomplete and no sign of life).
    phases
        In order.
    rate
        Tasks a second in the last minute of this incarnation; 0 if nothing is known.
    eta_s
        Seconds left at the pace so far, by the tasks' costs; None if nothing is known.
    incarnations
        Number of starts.
    ranks
        Ranks that have written records in the last incarnation; `n_ranks` were started.
    silent_s
        Seconds since the last sign of life; None if there never was one.
    verified
        Whether the products are as they were written; None without a completion record.
    verified_by
        ``content`` or ``size``.
    faults
        What is wrong with products, with checkpoint files, with the completion record.
    halt_asked
        Whether somebody asked this incarnation to stop.
    """

    root: str
    state: str
    phases: tuple[PhaseStatus, ...]
    n_attempts: int
    rate: float
    eta_s: float | None
    incarnations: int
    n_ranks: int
    ranks: tuple[int, ...]
    hosts: tuple[str, ...]
    silent_s: float | None
    verified: bool | None
    verified_by: str
    faults: tuple[str, ...]
    problems: int
    halt_asked: bool


@dataclass
class _Seen:
    """What the records tell."""

    kinds: np.ndarray
    ranks: set[int] = field(default_factory=set)
    ended: list[np.ndarray] = field(default_factory=list)
    tasks: list[np.ndarray] = field(default_factory=list)
    begun: float = math.inf
    n_attempts: int = 0
    damage: list[str] = field(default_factory=list)

    def add(self, rows: np.ndarray) -> None:
        """Take up records; final outcomes win, later ones replace earlier ones."""
        self.n_attempts += len(rows)
        for is_final in (False, True):
            some = rows[are_final(rows["kind"]) == is_final]
            if not is_final:
                some = some[~are_final(self.kinds[some["task"]])]
            self.kinds[some["task"]] = some["kind"]


def read_status(layout: RunLayout, *, verify: bool = True) -> Status:
    """Look at a run folder.

    Parameters
    ----------
    verify
        Compare products with the completion record: by content, or by size where they are many.

    Raises
    ------
    ConfigError
        If the folder holds no run.
    BadDataError
        If its plan is damaged.
    """
    require_run(layout)
    plan, *others = plans_of(layout)
    incarnations = layout.incarnations()
    newest = max(incarnations, default=0)
    seen = _read_records(layout, plan, newest)
    phases = tuple(_phase_status(plan, phase, seen.kinds) for phase in plan.phases)
    for other in others:
        kinds = _read_records(layout, other, newest).kinds
        phases += tuple(_phase_status(other, phase, kinds) for phase in other.phases)
    verified, how, faults = _verdict(layout) if verify else (None, "", [])
    silent = _silence(layout, newest)
    complete = layout.completion.exists()
    # A run that leaves in order takes its heartbeat away.
    alive = layout.heartbeat.exists() and silent is not None and silent < ALIVE_S
    n_ranks, hosts = _who(layout, newest)
    rate, eta = _pace(plan, seen, phases)
    return Status(
        root=str(layout.root),
        state="complete" if complete else "running" if alive else "stopped",
        phases=phases,
        n_attempts=seen.n_attempts,
        rate=0.0 if complete or not alive else rate,
        eta_s=None if complete or not alive else eta,
        incarnations=len(incarnations),
        n_ranks=n_ranks,
        ranks=tuple(sorted(seen.ranks)),
        hosts=hosts,
        silent_s=silent,
        verified=verified,
        verified_by=how,
        faults=tuple(faults + seen.damage),
        problems=len(plan.problems),
        halt_asked=_halt_asked(layout, newest),
    )


def _read_records(layout: RunLayout, plan: Plan, newest: int) -> _Seen:
    """The index of all records; while ranks write, the last ones may be torn."""
    seen = _Seen(np.full(len(plan.tasks), NO_OUTCOME, dtype=np.int8))
    codes = phase_codes(plan)
    for incarnation in layout.incarnations():
        for file in layout.checkpoints(incarnation):
            try:
                reader = CheckpointReader(file)
            except BadDataError as error:
                seen.damage.append(str(error))
                continue
            with reader:
                rows = reader.read_new()
                rows = rows[of_plan(rows, codes)]
                seen.add(rows)
                seen.damage += [f"{file.name}: {d.reason}" for d in reader.damage if d.is_loss]
                if incarnation == newest:
                    seen.ranks |= set(np.unique(rows["rank"]).tolist())
                    _note_times(seen, rows, reader)
    return seen


def _note_times(seen: _Seen, rows: np.ndarray, reader: CheckpointReader) -> None:
    """When the tasks of the newest incarnation ended, and when the first of them began."""
    seen.ended.append(rows["written"])
    seen.tasks.append(rows["task"])
    # Those that ended first have begun first, or nearly so.
    for offset in rows["offset"][np.argsort(rows["written"])[:_FIRST]].tolist():
        try:
            attempt = decode_attempt(reader.head_at(offset).meta)
        except (ValueError, BadDataError):
            continue
        if attempt.ended > 0:
            seen.begun = min(seen.begun, attempt.ended - attempt.wall_s)


def _phase_status(plan: Plan, phase: str, kinds: np.ndarray) -> PhaseStatus:
    tasks = plan.in_phase(phase)
    found = kinds[tasks.start : tasks.stop]
    counts = Counter(found.tolist())
    outcomes = {kind.label: counts[int(kind)] for kind in OutcomeKind if counts[int(kind)]}
    left = float(tasks.column("cost")[found == NO_OUTCOME].sum())
    return PhaseStatus(phase, len(tasks), outcomes, left)


def _pace(plan: Plan, seen: _Seen, phases: tuple[PhaseStatus, ...]) -> tuple[float, float | None]:
    """Tasks a second lately, and seconds left if costs go on to be met at this incarnation's pace.

    Times are those of the records, so that the clock of this machine does not matter.
    """
    ended = np.sort(np.concatenate([np.zeros(0), *seen.ended]))
    if not len(ended):
        return 0.0, None
    costs = plan.tasks.column("cost")
    elapsed = max(float(ended[-1]) - min(seen.begun, float(ended[0])), 1e-3)
    rate = np.count_nonzero(ended > ended[-1] - _RECENT_S) / min(elapsed, _RECENT_S)
    met = float(costs[np.concatenate(seen.tasks)].sum())
    left = sum(phase.cost_left_s for phase in phases)
    return rate, (elapsed * left / met if met > 0 else None)


def _verdict(layout: RunLayout) -> tuple[bool | None, str, list[str]]:
    """Whether the products are as written, how that was found, and what is wrong."""
    if not layout.completion.exists():
        return None, "", []
    try:
        completion = read_completion(layout)
    except BadDataError as error:
        return False, "content", [str(error)]
    if sum(product.size for product in completion.products) <= _HASH_LIMIT:
        found = [fault_of(layout, product) for product in completion.products]
        faults = [fault for fault in found if fault]
        return not faults, "content", faults
    faults = []
    for product in completion.products:
        try:
            if layout.inside(product.path).stat().st_size != product.size:
                faults.append(f"{product.path}: has another size")
        except OSError:
            faults.append(f"{product.path}: missing")
    return not faults, "size", faults


def _silence(layout: RunLayout, newest: int) -> float | None:
    """Seconds since heartbeat, provenance, records or catalogues last changed."""
    watched: list[Path] = [layout.heartbeat, layout.provenance(newest)]
    watched += layout.checkpoints(newest)
    watched += layout.catalogue("any").parent.glob("*")
    times = []
    for path in watched:
        try:
            times.append(path.stat().st_mtime)
        except OSError:
            continue
    return max(time.time() - max(times), 0.0) if times else None


def _who(layout: RunLayout, newest: int) -> tuple[int, tuple[str, ...]]:
    try:
        facts = read_json(layout.provenance(newest))
        return int(facts["ranks"]), tuple(map(str, facts["hosts"]))
    except (BadDataError, KeyError, TypeError, ValueError):
        return 0, ()


def _halt_asked(layout: RunLayout, newest: int) -> bool:
    try:
        return bool(read_json(layout.halt)["incarnation"] == newest)
    except BadDataError:
        return layout.halt.exists()
    except (KeyError, TypeError):
        return True
