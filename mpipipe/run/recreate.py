"""Making a product again from its raw frames, and saying whether it comes out the same.

The task runs as it did in the run, with the run's configuration, camera, masters and catalogues, in
a folder of its own; the product's checksum is compared with that of the record. Where it differs,
what could have made the difference is named: an input, an option, the code, a library.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from mpipipe import jit_cache
from mpipipe.data.errors import BadDataError, MpipipeError
from mpipipe.run.basis import CODE_CHANGED, Basis
from mpipipe.run.completion import Product, fault_of, products_of
from mpipipe.run.context import RunContext
from mpipipe.run.incarnation import Incarnation, read_incarnation
from mpipipe.run.intermediate import StageImages, StageReached, file_of_snap, may_be_of_snaps
from mpipipe.run.ledger import NO_OUTCOME
from mpipipe.run.lineage import Lineage, Step, find_task
from mpipipe.run.phases import PHASES
from mpipipe.run.plan import CALIB_PHASES, load_run
from mpipipe.run.still_there import StillThere
from mpipipe.run.task import Task
from mpipipe.store.checksums import sha256_file, write_text_atomically
from mpipipe.store.layout import RunLayout
from mpipipe.store.provenance_table import parts_that_differ

LOCK_SUFFIX = ".requirements.lock"
_COMPLETE = ("done", "partial")
_OF_SNAPS = {"postisr": "post_isr", "assembled": "assembled"}
"""Kinds of which there is one a snap, and the option that keeps them."""


@dataclass(frozen=True)
class Wanted:
    """Which product.

    Attributes
    ----------
    kind
        calexp, bkgd, psf, postisr, assembled of a visit and CCD; bias, gain, dark, flat, defects of
        a CCD.
    stage
        Instead of a product, the image as this stage leaves it.
    """

    kind: str
    visit: int | None = None
    ccd: str | None = None
    band: str | None = None
    stage: str | None = None


@dataclass(frozen=True)
class Recreated:
    """A product that was made again.

    Attributes
    ----------
    path
        Where it is now.
    product
        What the record says of it; None if the run has not kept it, or has lost its record.
    is_identical
        Whether it is the same to the bit as the record says, or where that is lost as the run's own
        file; None if there is nothing to compare it with.
    other_parts
        The parts that differ (``IMAGE``, ``PROVENANCE``), where it is not and the run still has the
        one that it made.
    """

    path: Path
    product: Product | None
    is_identical: bool | None
    other_parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What came out.

    Attributes
    ----------
    files
        What was made; empty if it could not be, for the reason `failure`.
    differences
        What is not as it was when the run made the product, a line each.
    other_versions
        Whether libraries or mpipipe are among that: `write_lock` tells which are needed.
    incarnation
        Which start of the run has made it; 0 if its record is lost.
    """

    label: str
    incarnation: int
    files: tuple[Recreated, ...]
    differences: tuple[str, ...]
    other_versions: bool
    failure: str = ""

    @property
    def is_identical(self) -> bool:
        """Whether all that could be compared is the same to the bit."""
        return bool(self.files) and all(file.is_identical is not False for file in self.files)


class Recreator:
    """Makes products of one run again.

    Raises
    ------
    ConfigError
        If the folder holds no run.
    BadDataError
        If its plan, camera or configuration is missing or damaged.
    """

    def __init__(self, layout: RunLayout) -> None:
        self.layout = layout
        self.lineage = Lineage(layout)
        self.context, self.plan = load_run(layout)

    def targets(self, wanted: Wanted, output: Path) -> tuple[Path, ...]:
        """Files that `recreate` may write: the output, and that of each snap where it has some.

        Raises
        ------
        ConfigError
            If the run makes no such product.
        """
        task = self._task(wanted)
        stage = wanted.stage
        by_snap = wanted.kind in _OF_SNAPS if stage is None else may_be_of_snaps(stage)
        snaps = [frame.snap for frame in task.frames] if by_snap else []
        return output, *(file_of_snap(output, snap) for snap in snaps)

    def recreate(self, wanted: Wanted, output: Path) -> Verdict:
        """Make a product again.

        Parameters
        ----------
        output
            File to write; of several (a kind that has one a snap) the number of the snap is put
            behind its name.

        Raises
        ------
        ConfigError
            If the run makes no such product.
        OutputError
            If it can not be written.
        """
        task = self._task(wanted)
        output = output.absolute()
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".recreate-", dir=output.parent) as folder:
            return self._in_folder(self._scratch(folder), task, wanted, output)

    def recreate_task(self, number: int, kinds: frozenset[str], folder: Path) -> Verdict:
        """Make products of a task again, in a folder, where they stay under their own paths."""
        task = self.plan.tasks[number]
        return self._in_folder(self._scratch(folder), task, Wanted(""), None, kinds)

    def write_lock(self, number: int, path: Path) -> None:
        """Write the versions that an incarnation ran with, as pip reads them.

        Raises
        ------
        OutputError
            If it can not be written.
        """
        made = read_incarnation(self.layout, number)
        lines = [
            f"# What incarnation {made.number} of {self.layout.root.name} ran with, on Python "
            f"{made.environment.get('python', 'of unknown version')}.",
            f"# mpipipe itself: {made.describe or made.environment.get('mpipipe', 'unknown')}",
        ]
        lines += [
            f"{name}=={version}"
            for name, version in made.environment.items()
            if name not in ("python", "mpipipe")
        ]
        write_text_atomically(path, "\n".join(lines) + "\n")

    def close(self) -> None:
        """Close the files of records."""
        self.lineage.close()

    # -- inside ----------------------------------------------------------------------------------

    def _task(self, wanted: Wanted) -> Task:
        number = find_task(self.plan, wanted.kind, wanted.visit, wanted.ccd, wanted.band)
        return self.plan.tasks[number]

    def _scratch(self, folder: Path | str) -> RunLayout:
        """A folder arranged like the run's, so that products have the same paths."""
        return RunLayout.at(folder, is_flat=self.layout.is_flat)

    def _in_folder(
        self,
        scratch: RunLayout,
        task: Task,
        wanted: Wanted,
        output: Path | None,
        kinds: frozenset[str] = frozenset(),
    ) -> Verdict:
        step = self._step(task.id)
        found = _Differences(self.layout, self.context, step, task)
        context = self._context(scratch, wanted)
        if task.phase in CALIB_PHASES:
            _link_masters(self.layout.calibs, scratch.calibs)
        made, failure = _run(task, context, wanted, output)
        if output is not None and wanted.stage is None:
            kinds = frozenset((wanted.kind,))
        chosen = [pair for pair in made if not kinds or pair[1].kind in kinds]
        if not failure and not chosen:
            failure = f"the task made no {wanted.kind}"
        files = [_compare(self.layout, path, product, step) for path, product in chosen]
        if output is not None and wanted.stage is None:
            files = _moved(files, output)
        made_by = 0 if step is None else step.incarnation
        told = tuple(found.lines), found.other_versions, failure
        return Verdict(task.label, made_by, tuple(files), *told)

    def _step(self, number: int) -> Step | None:
        """What the run has recorded of a task; None if that is lost."""
        if self.lineage.ledger.kinds[number] == NO_OUTCOME:
            return None
        try:
            return self.lineage.step(number)
        except BadDataError:
            return None

    def _context(self, scratch: RunLayout, wanted: Wanted) -> RunContext:
        run, config = self.context, self.context.config
        if wanted.kind in _OF_SNAPS and wanted.stage is None:
            products = config.products.model_copy(update={_OF_SNAPS[wanted.kind]: True})
            config = config.model_copy(update={"products": products})
        return RunContext(scratch, config, run.camera, run.calibs, run.refcat, run.forced)


Made = list[tuple[Path, Product]]


def _run(task: Task, context: RunContext, wanted: Wanted, output: Path | None) -> tuple[Made, str]:
    """Run the task; what it has written, or why it could not."""
    if wanted.stage is not None and output is not None:
        return _until_stage(task, context, wanted.stage, output)
    try:
        result = PHASES[task.phase].function(task, context)
    except MpipipeError as error:
        return [], str(error)
    products = products_of(result.products)
    return [(context.layout.inside(product.path), product) for product in products], ""


def _until_stage(task: Task, context: RunContext, stage: str, output: Path) -> tuple[Made, str]:
    """Run the task until a stage has left its image."""
    images = StageImages(stage, output)
    context.on_values = images
    try:
        PHASES[task.phase].function(task, context)
    except StageReached:
        pass
    except MpipipeError as error:
        return [], str(error)
    if not images.written:
        return [], f"the task never came to {stage}: it is switched off"
    return [(path, Product(stage, "", 0, "")) for path in images.written], ""


def _moved(files: list[Recreated], output: Path) -> list[Recreated]:
    """The files, where the user wants them."""
    targets = []
    for file in files:
        snap = file.path.stem.rpartition("-")[2] if len(files) > 1 else ""
        targets.append(file_of_snap(output, snap) if snap else output)
        os.replace(file.path, targets[-1])
    return [replace(file, path=path) for file, path in zip(files, targets, strict=True)]


def _compare(layout: RunLayout, path: Path, product: Product, step: Step | None) -> Recreated:
    known = () if step is None else step.products
    recorded = next((p for p in known if p.path == product.path and p.path), None)
    then = _own_checksum(layout, product) if recorded is None else recorded.sha256
    same = None if then is None else then == product.sha256
    parts: tuple[str, ...] = ()
    if recorded is not None and not same:
        with contextlib.suppress(BadDataError):  # it is gone, or was altered itself
            parts = parts_that_differ(layout.inside(recorded.path), path)
    return Recreated(path, recorded, same, parts)


def _own_checksum(layout: RunLayout, product: Product) -> str | None:
    """SHA-256 of the run's own file, where its record is lost; None if that is lost, too."""
    path = layout.inside(product.path) if product.path else None
    if path is None or not path.exists():
        return None
    with contextlib.suppress(BadDataError):
        return sha256_file(path)
    return None


def _link_masters(calibs: Path, target: Path) -> None:
    """Masters of earlier phases, where a task that makes one looks for them."""
    for path in sorted(calibs.rglob("*.fits")) if calibs.is_dir() else ():
        link = target / path.relative_to(calibs)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)


@dataclass
class _Differences:
    """What is not as it was when a product was made."""

    layout: RunLayout
    context: RunContext
    step: Step | None
    task: Task
    lines: list[str] = field(default_factory=list)
    other_versions: bool = False

    def __post_init__(self) -> None:
        if self.step is None:
            self.lines.append("the run has no record of how it was made")
            return
        if self.step.outcome not in _COMPLETE:
            self.lines.append(f"in the run this task ended as {self.step.outcome}")
        self.lines += self._of_products(self.step)
        self.lines += self._of_unread(self.step)
        self.lines += StillThere(self.context).faults(self.task, self.step)
        made = read_incarnation(self.layout, self.step.incarnation)
        if made.basis is None:
            self.lines.append("with which options and code it was made was not recorded")
            return
        self.lines += self._of_basis(made.basis, made)
        if made.cpu and made.cpu != jit_cache.cpu_key():
            self.lines.append("another type of CPU than the one it was made on")

    def _of_products(self, step: Step) -> Iterator[str]:
        for product in step.products:
            if self.layout.inside(product.path).exists() and (
                fault := fault_of(self.layout, product)
            ):
                yield f"the run's own file is not what the run made: {fault}"

    def _of_unread(self, step: Step) -> Iterator[str]:
        read = {source.path for source in step.inputs}
        for frame in (*self.task.frames, *self.task.more):
            yield from (f"{path}: could not be used then" for path in frame.paths
                        if path not in read and Path(path).exists())  # fmt: skip

    def _of_basis(self, was: Basis, made: Incarnation) -> Iterator[str]:
        parts: tuple[str, ...] = ("image", "sources")
        if self.task.phase in CALIB_PHASES:
            parts = ("masters",)
        elif self.context.calibs == self.layout.calibs:
            parts = ("masters", *parts)
        changes = self.context.basis.changes(was, parts)
        yield from changes.options
        for line in changes.others:
            yield f"{line} (it was made by {made.describe})" if line == CODE_CHANGED else line
        now, then = self.context.basis.parts, was.parts
        self.other_versions = any(
            now[part].get(name) != then[part].get(name)
            for part in parts
            for name in now[part]
            if name.startswith("version ") or name == "code"
        )
