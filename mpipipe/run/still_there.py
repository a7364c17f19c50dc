"""Whether the raw frames, shards and masters that products were made of are there, as they were."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mpipipe.run.context import RunContext
from mpipipe.run.lineage import Step
from mpipipe.run.plan import CALIB_PHASES
from mpipipe.run.task import Task
from mpipipe.store.checksums import sha256_file
from mpipipe.store.masters import find_masters


class StillThere:
    """Compares files with records; reads each file once, however many tasks have used it.

    Parameters
    ----------
    context
        Of the run.
    """

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._digests: dict[Path, str] = {}

    def faults(self, task: Task, step: Step) -> Iterator[str]:
        """What is missing, or another file than the one that a task has used, a line each."""
        for source in step.inputs:
            digest = self._digest(Path(source.path))
            if not digest:
                yield f"{source.path}: is missing"
            elif digest != source.sha256:
                yield f"{source.path}: was altered since"
        if task.phase in CALIB_PHASES:
            yield from self._earlier_masters(step)
        elif self._context.calibs is not None:
            yield from self._masters(task, step, self._context.calibs)

    def _masters(self, task: Task, step: Step, calibs: Path) -> Iterator[str]:
        paths = find_masters(calibs, task.ccd, task.band)
        used = {master.path for master in step.masters}
        yield from (f"{path}: there was no such master then" for kind, path in paths.items()
                    if kind not in used)  # fmt: skip
        for master in step.masters:
            if master.path not in paths:
                yield f"master {master.path} is missing"
            elif self._digest(paths[master.path]) != master.sha256:
                yield f"{paths[master.path]}: another master than then"

    def _earlier_masters(self, step: Step) -> Iterator[str]:
        """Masters that a master was made with: files of the run, known by their content."""
        now = {self._digest(path) for path in self._context.layout.calibs.rglob("*.fits")}
        for master in step.masters:
            if master.sha256 not in now:
                yield f"master {master.path} is missing, or another one than then"

    def _digest(self, path: Path) -> str:
        """SHA-256 of a file; empty if there is none."""
        if path not in self._digests:
            self._digests[path] = sha256_file(path) if path.is_file() else ""
        return self._digests[path]
