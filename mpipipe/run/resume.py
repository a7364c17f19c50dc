"""Going on with a run: what is taken over from earlier incarnations, and what is done again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mpipipe.data.errors import ConfigError
from mpipipe.run.basis import Basis
from mpipipe.run.config import load_config, options, to_toml
from mpipipe.run.context import RunContext
from mpipipe.run.handover import Handover
from mpipipe.run.inspection import Inspection, inspect
from mpipipe.run.ledger import NO_OUTCOME, Ledger
from mpipipe.run.plan import Plan, load_run, require_run, save_plan
from mpipipe.run.prepare import refcat_folder
from mpipipe.run.validity import Standing, Validity, read_basis
from mpipipe.store.checksums import write_text_atomically
from mpipipe.store.layout import RunLayout

_FIXED = ("camera",)
"""Options that the plan follows from."""


@dataclass(frozen=True)
class Resume:
    """What the user asks of a resumed run.

    Attributes
    ----------
    assignments
        ``KEY=VALUE`` laid over the run's configuration.
    force
        Do again what was done with other code, libraries, camera or reference catalogue, instead
        of refusing.
    verify_all
        Look at all products, not at a sample.
    refcat, forced
        Folder of another reference catalogue, of another catalogue of positions; None: the run's.
    """

    assignments: tuple[str, ...] = ()
    force: bool = False
    verify_all: bool = False
    refcat: Path | None = None
    forced: Path | None = None

    @property
    def may_change(self) -> bool:
        """Whether what is done may have to be done again, since the user says so."""
        given = self.refcat is not None or self.forced is not None
        return bool(self.assignments or self.force or given)


@dataclass(frozen=True)
class Survey:
    """What a resumed run takes over, and what it does again.

    Attributes
    ----------
    kinds
        int8, the outcome of each task that is taken over, `NO_OUTCOME` for the others.
    handover
        Tasks of which only the sources are measured again.
    damage
        What was passed over in the checkpoint, a line each.
    """

    plan: Plan
    validity: Validity
    inspection: Inspection
    handover: Handover
    damage: list[str]

    @property
    def kinds(self) -> np.ndarray:
        """The outcomes that are taken over."""
        return self.inspection.kinds


def survey(layout: RunLayout, plan: Plan, context: RunContext, asked: Resume) -> Survey:
    """See what of a run is there and holds, as it would be gone on with `context`'s options."""
    validity = Validity.judge(layout, plan, context.basis)
    ledger = Ledger.read(layout, plan, validity)
    # After a change a product may be that of an attempt which was never committed.
    everything = asked.verify_all or validity.has_changes
    inspection = inspect(ledger, everything=everything, seed=len(layout.incarnations()))
    left = np.flatnonzero(inspection.kinds == NO_OUTCOME)
    handover = Handover(left[:0], *ledger.images(left), files=ledger.files)
    ledger.close()
    return Survey(plan, validity, inspection, handover, ledger.damage)


def describe(layout: RunLayout, asked: Resume) -> list[str]:
    """What going on with a run would do, in words, without doing it.

    Raises
    ------
    ConfigError
        If there is no run, or an option can not be changed.
    """
    require_run(layout)
    context, plan = load_run(layout)
    found = survey(layout, plan, with_options(context, asked), asked)
    lines = list(lines_of(found))
    try:
        refuse_stale(found.validity, layout, asked)
    except ConfigError as error:
        lines.append(f"  without --force it is refused: {error.reason}")
    return lines


def adopt_options(layout: RunLayout, asked: Resume) -> None:
    """Lay the user's options over those of the run, if what is there allows it; also catalogues.

    Raises
    ------
    ConfigError
        If an option can not be changed, or tasks were done with other code, libraries, camera or
        catalogues.
    """
    context, plan = load_run(layout)
    wanted = with_options(context, asked)
    refuse_stale(Validity.judge(layout, plan, wanted.basis), layout, asked)
    if (wanted.refcat, wanted.forced) != (context.refcat, context.forced):
        refcat, forced = (
            None if folder is None else str(folder) for folder in (wanted.refcat, wanted.forced)
        )
        save_plan(layout, replace(plan, refcat=refcat, forced=forced))
    if wanted.config != context.config:
        write_text_atomically(layout.config, to_toml(wanted.config))


def with_options(context: RunContext, asked: Resume) -> RunContext:
    """The run with the user's options laid over its own.

    Raises
    ------
    ConfigError
        If one of them can not be changed any more.
    BadDataError
        If a catalogue is none.
    """
    layout = context.layout
    after = load_config(layout.config, asked.assignments)
    now = {key: value for key, value, _ in options(after)}
    for key, value, _ in options(context.config):
        if key in _FIXED and now[key] != value:
            raise ConfigError(
                f"is {value!r} in this run and can not be changed",
                key=key,
                way_out="start another run with: mpipipe run RAW -o ANOTHER",
            )
    refcat = context.refcat if asked.refcat is None else refcat_folder(asked.refcat)
    forced = context.forced if asked.forced is None else refcat_folder(asked.forced)
    return RunContext(layout, after, context.camera, context.calibs, refcat, forced)


def refuse_stale(validity: Validity, layout: RunLayout, asked: Resume) -> None:
    """Refuse to do again what nobody has asked for.

    Raises
    ------
    ConfigError
        If tasks were done with other code, libraries, camera or reference catalogue, unless forced.
    """
    stale = [(i, phase, changes) for i, phase, _, changes in validity.changes() if changes.others]
    if asked.force or not stale:
        return
    plan = validity.plan
    ledger = Ledger.read(layout, plan)
    ledger.close()
    for incarnation, phase, changes in stale:
        tasks = plan.in_phase(phase)
        here = slice(tasks.start, tasks.stop)
        mine = ledger.is_final[here] & (ledger.incarnations[here] == incarnation)
        if number := int(np.count_nonzero(mine)):
            raise ConfigError(
                f"{number} tasks of {phase} were done with something else: "
                + "; ".join(changes.others),
                file=layout.root,
                way_out="--force does them again, --dry-run tells what that is; or go on with "
                "what they were done with",
            )


def has_stale(layout: RunLayout, plan: Plan, basis: Basis) -> bool:
    """Whether anything that is done would have to be done again on this basis.

    Where an earlier record holds, but not the last, products are not those of the one that holds.
    """
    newest = read_basis(layout, max(layout.incarnations(), default=0))
    if newest is None or basis.changes(newest, ("association",)):
        return True
    validity = Validity.judge(layout, plan, basis)
    if not validity.has_changes:
        return False
    former, now = Ledger.read(layout, plan), Ledger.read(layout, plan, validity)
    same = now.is_final & (now.incarnations == former.incarnations)
    found = bool(np.any(former.is_final & ~same))
    former.close()
    now.close()
    return found


def lines_of(found: Survey) -> Iterator[str]:
    """What would be done, in words."""
    plan, kinds = found.plan, found.kinds
    again = np.zeros(len(kinds), dtype=bool)
    again[found.handover.with_record] = True
    for phase in plan.phases:
        tasks = plan.in_phase(phase)
        here = slice(tasks.start, tasks.stop)
        left = kinds[here] == NO_OUTCOME
        parts = [f"{np.count_nonzero(~left)} stay as they are"]
        if n_sources := np.count_nonzero(again[here]):
            parts.append(f"{n_sources} measured again on their calexp")
        if n_whole := np.count_nonzero(left) - n_sources:
            parts.append(f"{n_whole} from the beginning")
        yield f"{phase}: {len(tasks)} tasks, {', '.join(parts)}"
    told: set[str] = set()
    for _, phase, standing, changes in found.validity.changes():
        what = "its sources" if standing is Standing.IMAGE_HOLDS else "it"
        line = f"  {phase} is stale, {what} will be made again: {changes}"
        if line not in told:
            told.add(line)
            yield line
    for fault, number in Counter(found.inspection.faults.values()).most_common(10):
        yield f"  {fault}" + (f" ({number} tasks)" if number > 1 else "")
    if found.inspection.n_looked < found.inspection.n_final:
        n_looked, n_final = found.inspection.n_looked, found.inspection.n_final
        yield f"  products of {n_looked} of {n_final} tasks were looked at (--verify all)"
    for line in found.damage[:10]:
        yield f"  passed over in the checkpoint: {line}"
