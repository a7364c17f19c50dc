"""What a task has at hand while it runs, and what it gives back."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from mpipipe.data.camera import Camera, Corrections, Need
from mpipipe.data.exposure import Masters
from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.data.refcat import ReferenceStars
from mpipipe.data.schema import Column, Schema
from mpipipe.run.basis import Basis
from mpipipe.run.config import AnyConfig
from mpipipe.stages.stage import Stage, StageConfig, ValuesHook
from mpipipe.store.checksums import sha256_file
from mpipipe.store.layout import RunLayout
from mpipipe.store.refcat.index import FILE_NAME as INDEX_NAME
from mpipipe.trace import events

if TYPE_CHECKING:
    from mpipipe.run.handover import Handover

PRODUCTS = Schema(
    "products",
    "Files that a task wrote",
    (
        Column("kind", "S16", "", "kind of product", "meta.id"),
        Column("path", "S240", "", "path relative to the run folder", "meta.ref"),
        Column("size", "i8", "byte", "size of the file", "phys.size"),
        Column("sha256", "S64", "", "SHA-256 of the file", "meta.checksum"),
    ),
)

MASTERS = np.dtype([("kind", "S64"), ("sha256", "S64")])
"""The masters that a task has used, those of its own run, too."""

INPUTS = np.dtype([("size", "i8"), ("mtime_ns", "i8"), ("sha256", "S64")])
"""What a file that a task read was like; its path stands beside, in a column of its own width."""

STAGE_TIMES = Schema(
    "stages",
    "Time that each stage took in this attempt",
    (
        Column("stage", "S48", "", "name of the stage", "meta.id"),
        Column("wall", "f8", "s", "wall time", "time.duration"),
        Column("cpu", "f8", "s", "CPU time of the task process", "time.duration"),
    ),
)


_STAGE_OF = {"defects": "ca.isrCcdDefect"}
"""Corrections that are not made by the stage of isr of the same name."""


@dataclass
class TaskResultTables:
    """What a task gives back besides its image files: tables by name, and how it ended."""

    tables: dict[str, np.ndarray] = field(default_factory=dict)
    outcome: Outcome = field(default_factory=lambda: Outcome(OutcomeKind.DONE))
    _products: list[tuple[bytes, bytes, int, bytes]] = field(default_factory=list)
    _inputs: dict[str, tuple[int, int, bytes]] = field(default_factory=dict)

    def add_product(self, kind: str, path: Path, sha256: str, layout: RunLayout) -> None:
        """Record a file that was written, with its checksum."""
        where = layout.relative(path).encode()
        self._products.append((kind.encode(), where, path.stat().st_size, sha256.encode()))

    def add_input(self, path: Path | str, sha256: str) -> None:
        """Record a file that was read, with its checksum."""
        found = os.stat(path)
        self._inputs[str(path)] = (found.st_size, found.st_mtime_ns, sha256.encode())

    def take_over(
        self, tables: Mapping[str, np.ndarray], but: tuple[str, ...], reads: Callable[[str], bool]
    ) -> None:
        """Record the files of an earlier attempt as this one's.

        Parameters
        ----------
        but
            Kinds of products that are left out.
        reads
            Whether the file at a path was read for what is taken over; other inputs are left out.
        """
        kept = ~np.isin(tables["products"]["kind"], [kind.encode() for kind in but])
        self._products += [tuple(row) for row in tables["products"][kept].tolist()]
        paths = [os.fsdecode(path) for path in tables["input_paths"]]
        inputs = zip(paths, map(tuple, tables["inputs"].tolist()), strict=True)
        self._inputs |= {path: facts for path, facts in inputs if reads(path)}

    def all_tables(self) -> dict[str, np.ndarray]:
        """The tables of the task, of its products, and of the files it has read."""
        paths = [os.fsencode(path) for path in self._inputs]
        inputs = np.array(list(self._inputs.values()), dtype=INPUTS)
        more = {"products": self.products, "inputs": inputs, "input_paths": np.array(paths, "S")}
        return self.tables | more

    @property
    def inputs(self) -> dict[str, str]:
        """The files that were read so far: path to SHA-256."""
        return {path: digest.decode() for path, (_, _, digest) in self._inputs.items()}

    @property
    def products(self) -> np.ndarray:
        """The files recorded so far, as rows of `PRODUCTS`."""
        return np.array(self._products, dtype=PRODUCTS.dtype)


@dataclass(frozen=True)
class Earlier:
    """What an earlier attempt gave whose image can be taken over: its outcome and tables."""

    outcome: Outcome
    tables: Mapping[str, np.ndarray]


@dataclass
class RunContext:
    """Everything a task may ask for: configuration, camera, masters, references, where products go.

    Attributes
    ----------
    refcat, forced
        Catalogues of reference stars, and of positions to measure at; None: there is none.
    earlier
        An attempt at the running task whose image holds; None: it begins with the raw frames.
    handover
        What has gone before; None outside a phase.
    stage
        Name of what is running now; an outcome names it when it goes wrong.
    on_stage
        Called with the name of each stage that is entered (for logs and traces).
    on_values
        Called after each stage with all values as it leaves them.
    """

    layout: RunLayout
    config: AnyConfig
    camera: Camera
    calibs: Path | None
    refcat: Path | None = None
    forced: Path | None = None
    stage: str = ""
    on_stage: Callable[[str], None] | None = None
    on_values: ValuesHook | None = None
    stage_configs: dict[str, StageConfig] = field(init=False)
    times: list[tuple[bytes, float, float]] = field(default_factory=list)
    earlier: Earlier | None = None
    handover: Handover | None = None

    def __post_init__(self) -> None:
        self.stage_configs = self.config.stage_configs()
        self._masters: tuple[tuple[str, str], Masters] | None = None

    @property
    def corrections(self) -> Corrections:
        """What is asked of each correction: the camera's word, overlaid by the user's.

        A correction whose stage is switched off asks for nothing.
        """
        asked = self.config.corrections.over(self.camera.corrections)
        off = {
            name: Need.OFF
            for name in type(asked).model_fields
            if (stage := _STAGE_OF.get(name, f"isr.{name}")) in self.stage_configs
            and not self.stage_configs[stage].enabled
        }
        return asked.model_copy(update=off)

    def masters_for(self, ccd: str, band: str) -> Masters:
        """The masters of a CCD and band; those used last are kept, tasks come grouped by CCD."""
        if self._masters is None or self._masters[0] != (ccd, band):
            from mpipipe.store.masters import read_masters

            self._masters = None  # free the old ones before the new ones are read
            self.enter("read masters")
            with events.span("read", "masters"):
                found = Masters() if self.calibs is None else read_masters(self.calibs, ccd, band)
            self._masters = ((ccd, band), found)
        return self._masters[1]

    def note_masters(self, ccd: str, band: str, masters: Masters, result: TaskResultTables) -> None:
        """Record given masters as input; those that the run has built are its products."""
        if self.calibs is None or self.calibs == self.layout.calibs:
            return
        from mpipipe.store.masters import master_path

        for kind, digest in masters.checksums.items():
            result.add_input(master_path(self.calibs, kind, ccd, band), digest)

    @staticmethod
    def stars_around(
        catalogue: Path, ra: float, dec: float, radius_deg: float, result: TaskResultTables
    ) -> ReferenceStars:
        """The stars of a catalogue in a cone; the shards that hold them are recorded as input.

        Parameters
        ----------
        catalogue
            `refcat` or `forced`.
        ra, dec, radius_deg
            Degrees (ICRS), for positions at the catalogue's epoch.

        Raises
        ------
        BadDataError
            If the catalogue is missing or damaged.
        """
        from mpipipe.store.refcat.reading import read_reference

        with events.span("read", "reference stars"):
            stars, checksums = read_reference(catalogue, ra, dec, radius_deg)
        for path, digest in checksums.items():
            result.add_input(path, digest)
        return stars

    def enter(self, stage: str) -> None:
        """Note that `stage` begins."""
        self.stage = stage
        if self.on_stage is not None:
            self.on_stage(stage)

    def hooks(self) -> dict[str, Callable[..., None]]:
        """The callbacks that `run_chain` takes."""
        hooks: dict[str, Callable[..., None]] = {"before": self._before, "after": self._after}
        return hooks if self.on_values is None else hooks | {"seen": self.on_values}

    def _before(self, step: Stage) -> None:
        self.enter(step.name)

    def _after(self, step: Stage, wall: float, cpu: float) -> None:
        self.times.append((step.name.encode(), wall, cpu))
        events.record("stage", step.name, perf_counter() - wall, cpu)

    def take_times(self) -> np.ndarray:
        """The stage times since the last call, as rows of `STAGE_TIMES`."""
        rows = np.array(self.times, dtype=STAGE_TIMES.dtype)
        self.times.clear()
        return rows

    @functools.cached_property
    def basis(self) -> Basis:
        """What products are made from besides their input."""
        reference, forced = (
            None if folder is None else (sha256_file(folder / INDEX_NAME), str(folder))
            for folder in (self.refcat, self.forced)
        )
        return Basis.of(self.config, self.camera, reference, forced)
