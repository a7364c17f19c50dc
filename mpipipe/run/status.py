"""Where a run stands, from its folder alone: no MPI, no asking the run, any machine.

What is read: the plan, the heads of the records, the completion record, provenance, and the time
of the heartbeat. A run that is killed leaves all of that as it was.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mpipipe.data.errors import BadDataError, ConfigError
from mpipipe.data.outcome import OutcomeKind
from mpipipe.run.attempts import decode_attempt
from mpipipe.run.completion import fault_of, read_completion
from mpipipe.run.ledger import FINAL, NO_OUTCOME
from mpipipe.run.plan import Plan, load_plan
from mpipipe.store.checksums import read_json
from mpipipe.store.layout import RunLayout
from mpipipe.store.records import RecordReader

ALIVE_S = 90.0
"""A heartbeat comes every few seconds; what another machine sees of it may be a minute old."""

_HASH_LIMIT = 2e9
"""Products of a run up to this size are hashed; of a larger one only sizes are compared."""
_RECENT_S = 60.0


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
        What is wrong with products, with record files, with the completion record.
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
    ended: list[float] = field(default_factory=list)
    work: list[tuple[int, float]] = field(default_factory=list)
    n_attempts: int = 0
    damage: list[str] = field(default_factory=list)


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
    if not layout.plan.exists():
        raise ConfigError(
            "holds no run", file=layout.root, way_out="start one with: mpipipe run RAW -o RUN"
        )
    plan = load_plan(layout)
    incarnations = layout.incarnations()
    newest = max(incarnations, default=0)
    seen = _read_records(layout, plan, newest)
    phases = tuple(_phase_status(plan, phase, seen.kinds) for phase in plan.phases)
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
    """The heads of all records; while ranks write, the last one of a file may be torn."""
    seen = _Seen(np.full(len(plan.tasks), NO_OUTCOME, dtype=np.int8))
    for incarnation in layout.incarnations():
        folder = layout.record_file(incarnation, 0).parent
        for file in sorted(folder.glob("rank-*.records")):
            with RecordReader(file) as reader:
                n_before = seen.n_attempts
                for head in reader.heads():
                    if plan.phase_of(head.task_id) != head.phase:
                        continue
                    seen.n_attempts += 1
                    if seen.kinds[head.task_id] not in FINAL or head.kind in FINAL:
                        seen.kinds[head.task_id] = head.kind
                    if incarnation == newest:
                        _note_time(seen, head.task_id, head.meta)
                seen.damage += [
                    f"{file.name}: {damage.reason}"
                    for damage in reader.damage
                    if incarnation != newest or damage.reason != "torn"
                ]
            if incarnation == newest and seen.n_attempts > n_before:
                seen.ranks.add(int(file.stem.rpartition("-")[2]))
    return seen


def _note_time(seen: _Seen, task_id: int, meta: bytes) -> None:
    try:
        attempt = decode_attempt(meta)
    except ValueError:
        return
    if attempt.ended > 0:
        seen.ended.append(attempt.ended)
        seen.work.append((task_id, attempt.wall_s))


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
    if not seen.ended:
        return 0.0, None
    ended = np.sort(np.array(seen.ended))
    costs = plan.tasks.column("cost")
    begin = min(end - wall for end, (_, wall) in zip(seen.ended, seen.work, strict=True))
    elapsed = max(float(ended[-1]) - begin, 1e-3)
    recent = ended[ended > ended[-1] - _RECENT_S]
    rate = len(recent) / min(elapsed, _RECENT_S)
    met = float(sum(costs[task_id] for task_id, _ in seen.work))
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
    watched += layout.record_file(newest, 0).parent.glob("*.records")
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
