"""The tasks of the phases that build master calibrations, one CCD (and band) each.

Their order: bias, gain, dark, flat, normalise, defects. Each phase reads what the ones before it
have written. A master that can not be built is a fault of that task alone; whether a visit can do
without it is the camera's word (`require` or `if-available`).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

import numpy as np

from mpipipe.data.errors import BadDataError, NoWorkError
from mpipipe.data.exposure import Masters
from mpipipe.data.inventory import FrameFiles
from mpipipe.data.masters import MasterFrame
from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.data.raw import RawFrame
from mpipipe.data.sdqa import Sdqa
from mpipipe.run.context import MASTERS, RunContext, TaskResultTables
from mpipipe.run.origin import origin_of
from mpipipe.run.tables import sdqa_rows
from mpipipe.run.task import Task
from mpipipe.stages import calibs
from mpipipe.stages.calibs.combine import CombineConfig
from mpipipe.stages.isr.overscan import OverscanConfig
from mpipipe.store import masters as store
from mpipipe.store.checksums import sha256_file
from mpipipe.store.raw import read_frame
from mpipipe.trace import events


class _Combining(TypedDict):
    min_frames: int
    config: CombineConfig
    overscan: OverscanConfig


_ORDER = ("bias", "gain", "dark", "flat")
"""Phases that read the masters of those before them."""


class _Bench:
    """What every task here works with: frames that could be read, notes, where masters lie."""

    def __init__(self, task: Task, context: RunContext) -> None:
        self.task, self.context = task, context
        self.sdqa, self.warnings = Sdqa(), list(task.problems)
        self.inputs: dict[str, str] = {}
        self.result = TaskResultTables()
        overscan = context.stage_configs["isr.overscan"]
        assert isinstance(overscan, OverscanConfig)
        self.overscan = overscan

    @property
    def combining(self) -> _Combining:
        """How frames are combined."""
        options = self.context.config.calibs
        return {
            "min_frames": options.min_frames,
            "config": options.combine,
            "overscan": self.overscan,
        }

    @property
    def folder(self) -> Path:
        """Where masters are built."""
        return self.context.layout.calibs

    @property
    def unnormalised(self) -> Path:
        """Where flats wait until the levels of all CCDs are known."""
        return self.folder / "unnormalised"

    def frames(self, files: Iterable[FrameFiles]) -> list[RawFrame]:
        """The frames that can be read; the others are left out with a warning."""
        found: list[RawFrame] = []
        for frame in files:
            self.context.enter("read")
            try:
                with events.span("read", "raw", frame.n_bytes):
                    found.append(read_frame(frame, self.context.camera))
            except BadDataError as error:
                self.warnings.append(f"left out: {error}")
                continue
            for path in frame.paths:
                digest = sha256_file(path)
                self.inputs[f"input {Path(path).name}"] = digest
                self.result.add_input(path, digest)
        return found

    def masters(self) -> Masters:
        """What earlier phases have built for this CCD.

        Nothing else: when a task is done again, what it and later phases wrote may be there.
        """
        earlier = _ORDER[: _ORDER.index(self.task.phase)]
        found = store.read_masters(self.folder, self.task.ccd, self.task.band, earlier)
        self.inputs.update({f"master {kind}": sha for kind, sha in found.checksums.items()})
        return found

    def finish(self, master: MasterFrame, folder: Path | None = None) -> TaskResultTables:
        """Write the master and sum up."""
        self.context.enter("output")
        result = self.result
        path = store.master_path(folder or self.folder, master.kind, self.task.ccd, self.task.band)
        provenance = origin_of(self.task, self.context.basis, "masters") | self.inputs
        with events.span("write", master.kind) as noted:
            digest = store.write_master(path, master, provenance=provenance)
            noted.n_bytes = path.stat().st_size
        result.add_product(master.kind, path, digest, self.context.layout)
        used = [(n, sha) for n, sha in self.inputs.items() if not n.startswith("input ")]
        result.tables["masters"] = np.array(used, dtype=MASTERS)
        result.tables["sdqa"] = sdqa_rows(self.sdqa, -1, self.task.ccd, self.task.band)
        left_out = any(warning.startswith("left out") for warning in self.warnings)
        result.outcome = Outcome(
            OutcomeKind.PARTIAL if left_out else OutcomeKind.DONE,
            "; ".join(self.warnings) if left_out else "",
            warnings=tuple(self.warnings),
        )
        return result


def bias(task: Task, context: RunContext) -> TaskResultTables:
    """Master bias of a CCD."""
    bench = _Bench(task, context)
    frames = bench.frames(task.frames)
    context.enter("calibs.bias")
    noted = context.corrections, bench.sdqa, bench.warnings
    return bench.finish(calibs.build_bias(frames, *noted, **bench.combining))


def gain(task: Task, context: RunContext) -> TaskResultTables:
    """Gain and read noise of a CCD's channels by photon transfer."""
    bench = _Bench(task, context)
    flats, biases = bench.frames(task.frames), bench.frames(task.more)
    masters = bench.masters()
    context.enter("calibs.gain")
    master = calibs.photon_transfer(
        flats,
        biases,
        masters,
        context.corrections,
        bench.sdqa,
        bench.warnings,
        config=context.config.calibs.photon_transfer,
        overscan=bench.overscan,
    )
    return bench.finish(master)


def dark(task: Task, context: RunContext) -> TaskResultTables:
    """Master dark of a CCD."""
    bench = _Bench(task, context)
    frames, masters = bench.frames(task.frames), bench.masters()
    context.enter("calibs.dark")
    noted = context.corrections, bench.sdqa, bench.warnings
    return bench.finish(calibs.build_dark(frames, masters, *noted, **bench.combining))


def flat(task: Task, context: RunContext) -> TaskResultTables:
    """Master flat of a CCD and band, with a mean of 1 over the CCD for now."""
    bench = _Bench(task, context)
    frames, masters = bench.frames(task.frames), bench.masters()
    context.enter("calibs.flat")
    noted = context.corrections, bench.sdqa, bench.warnings
    return bench.finish(
        calibs.build_flat(frames, masters, *noted, **bench.combining), bench.unnormalised
    )


def normalise(task: Task, context: RunContext) -> TaskResultTables:
    """The flat of a CCD and band brought to the mean response of the whole camera."""
    bench = _Bench(task, context)
    context.enter("calibs.normalise")
    levels: dict[str, float] = {}
    for detector in context.camera.detectors:
        path = store.master_path(bench.unnormalised, "flat", detector.name, task.band)
        if path.is_file():
            levels[detector.name] = store.read_flat_level(path)
    if task.ccd not in levels:
        raise NoWorkError(f"there is no flat of {task.ccd} in {task.band}")
    path = store.master_path(bench.unnormalised, "flat", task.ccd, task.band)
    bench.inputs["flat before normalisation"] = sha256_file(path)
    factor = calibs.camera_factors(levels)[task.ccd]
    bench.sdqa.add("calibs.flat.factor", factor)
    return bench.finish(calibs.scale_flat(store.read_master(path), factor))


def defects(task: Task, context: RunContext) -> TaskResultTables:
    """Hot, dead and dim pixels of a CCD, from its master dark and flats."""
    bench = _Bench(task, context)
    found: dict[str, MasterFrame] = {}
    for kind in ("bias", "dark"):
        path = store.master_path(bench.folder, kind, task.ccd)
        if path.is_file():
            found[kind] = store.read_master(path)
            bench.inputs[f"master {kind}"] = sha256_file(path)
    flats = []
    for path in sorted(store.flat_paths(bench.folder, task.ccd)):
        flats.append(store.read_master(path))
        bench.inputs[f"master {path.stem}"] = sha256_file(path)
    context.enter("calibs.defects")
    if "dark" not in found and not flats:
        raise NoWorkError("defects are found in a master dark or flat, and there is none")
    master = calibs.find_defects(
        found.get("bias"),
        found.get("dark"),
        flats,
        bench.sdqa,
        bench.warnings,
        config=context.config.calibs.defects,
    )
    return bench.finish(master)
