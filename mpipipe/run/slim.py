"""Removing what can be made again: the large images of a run that is done, but for their headers.

Nothing is removed before a sample of it has been made again from the raw frames and has come out
the same to the bit, and nothing whose raw frames or masters are not there as they were.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpipipe.data.errors import BadDataError, ConfigError
from mpipipe.run.completion import Product, read_completion
from mpipipe.run.lineage import Lineage, find_task
from mpipipe.run.plan import load_plan, load_run
from mpipipe.run.recreate import Recreator, Verdict
from mpipipe.run.removed import forget_restored, note_removed, read_removed
from mpipipe.run.still_there import StillThere
from mpipipe.run.upkeep import refuse_running
from mpipipe.store.heads import keep_head
from mpipipe.store.layout import RunLayout

KINDS = ("calexp", "bkgd", "postisr", "assembled")
"""What may be removed: images of visits. Catalogues, PSFs and masters are small, or needed."""


@dataclass(frozen=True)
class Slimmed:
    """What was done, or would be.

    Attributes
    ----------
    n_products, n_bytes
        That were removed.
    proven
        Products that were made again first.
    kept
        Why others were not removed, a line each.
    """

    n_products: int
    n_bytes: int
    proven: tuple[str, ...]
    kept: tuple[str, ...]


def slim(
    layout: RunLayout,
    kinds: Sequence[str] = ("calexp",),
    *,
    sample: int = 3,
    seed: int = 0,
    dry_run: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> Slimmed:
    """Remove products of these kinds.

    Parameters
    ----------
    sample
        Tasks whose products are made again first, chosen at random with `seed`.
    dry_run
        Remove nothing, and make nothing again.
    tell
        Called with a line for each task that is made again.

    Raises
    ------
    ConfigError
        If the run goes on, or a kind may not be removed.
    BadDataError
        If the run is not complete, or a product did not come out the same.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"{kind} is not removed", way_out=f"kinds are {', '.join(KINDS)}")
    refuse_running(layout)
    completion = read_completion(layout)
    listed = {product.path: product for product in completion.products}
    lineage = Lineage(layout)
    chosen: dict[int, list[Product]] = {}
    kept: list[str] = []
    context, plan = load_run(layout)
    there = StillThere(context)
    for step in lineage.steps():
        mine = [p for p in step.products if p.kind in kinds and listed.get(p.path) == p]
        mine = [p for p in mine if layout.inside(p.path).exists()]
        if mine and (reason := next(there.faults(plan.tasks[step.task], step), "")):
            kept.append(f"{step.name}: {reason}")
        elif mine:
            chosen[step.task] = mine
    lineage.close()
    products = [product for mine in chosen.values() for product in mine]
    n_bytes = sum(product.size for product in products)
    if dry_run or not products:
        return Slimmed(len(products), n_bytes, (), tuple(kept))
    proven = _prove(layout, chosen, frozenset(kinds), sample, seed, tell)
    # Somebody may have gone on with the run meanwhile.
    refuse_running(layout)
    if read_completion(layout).digest != completion.digest:
        raise BadDataError("nothing was removed: the run was changed meanwhile", file=layout.root)
    note_removed(layout, [(product.path, product.sha256) for product in products])
    for product in products:
        path = layout.inside(product.path)
        if product.kind == "calexp":
            with contextlib.suppress(BadDataError):  # a damaged one has no head worth keeping
                keep_head(path)
        path.unlink(missing_ok=True)
    return Slimmed(len(products), n_bytes, proven, tuple(kept))


def _prove(
    layout: RunLayout,
    chosen: dict[int, list[Product]],
    kinds: frozenset[str],
    sample: int,
    seed: int,
    tell: Callable[[str], None],
) -> tuple[str, ...]:
    """Make products of some tasks again, and compare them.

    Raises
    ------
    BadDataError
        If one is not the same.
    """
    order = np.random.default_rng(seed).permutation(sorted(chosen))[: max(sample, 1)]
    recreator = Recreator(layout)
    proven: list[str] = []
    try:
        for number in order.tolist():
            with tempfile.TemporaryDirectory(prefix=".slim-", dir=layout.root) as folder:
                verdict = recreator.recreate_task(number, kinds, Path(folder))
                _refuse_difference(layout, verdict)
            proven += [product.path for product in chosen[number]]
            tell(f"{verdict.label}: made again, identical")
    finally:
        recreator.close()
    return tuple(proven)


def _refuse_difference(layout: RunLayout, verdict: Verdict) -> None:
    if verdict.is_identical and all(file.is_identical for file in verdict.files):
        return
    reasons = "; ".join(verdict.differences) or verdict.failure or "for no reason that is recorded"
    raise BadDataError(
        f"nothing was removed: {verdict.label} does not come out the same ({reasons})",
        file=layout.root,
        way_out="mpipipe recreate tells more; keep the images",
    )


def restore(layout: RunLayout, kind: str, visit: int | None, ccd: str | None) -> list[Path]:
    """Put removed products of a visit and CCD back into the run folder.

    Raises
    ------
    ConfigError
        If none of them was removed.
    BadDataError
        If one does not come out the same; nothing is put back then.
    """
    removed = read_removed(layout)
    number = find_task(load_plan(layout), kind, visit, ccd, None)
    recreator = Recreator(layout)
    with tempfile.TemporaryDirectory(prefix=".slim-", dir=layout.root) as folder:
        try:
            verdict = recreator.recreate_task(number, frozenset((kind,)), Path(folder))
        finally:
            recreator.close()
        wanted = [f for f in verdict.files if f.product and f.product.path in removed]
        if verdict.files and not wanted:
            raise ConfigError(f"{kind} of {verdict.label} was not removed", file=layout.root)
        if not verdict.is_identical:
            reasons = "; ".join(verdict.differences) or verdict.failure
            raise BadDataError(
                f"{kind} of {verdict.label} does not come out the same: {reasons}", file=layout.root
            )
        paths = []
        for file in wanted:
            assert file.product is not None
            path = layout.inside(file.product.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file.path, path)
            paths.append(path)
    forget_restored(layout)
    return paths
