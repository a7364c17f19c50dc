"""The plan of a run: its phases and tasks, in a fixed order, made from the headers alone.

The plan is a file of columns in the run folder, which all ranks and task processes map, so a task
travels as a phase and a number. The same input gives the same plan, whoever makes it.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mpipipe.data.camera import Camera
from mpipipe.data.errors import BadDataError, ConfigError
from mpipipe.data.inventory import FrameFiles, Inventory, VisitCcd
from mpipipe.run.config import AnyConfig, load_config, to_toml
from mpipipe.run.context import RunContext
from mpipipe.run.costs import DEFAULTS, Costs
from mpipipe.run.task import Draft, TaskTable, build_table, label_of
from mpipipe.store.checksums import write_json_atomically, write_text_atomically
from mpipipe.store.columnfile import map_column_file, write_column_file
from mpipipe.store.layout import RunLayout

VERSION = 4
_OWN = "."
"""Stands for masters that the run builds: its folder may be moved."""

Goal = Literal["calibrate", "calibs", "associate"]
CALIB_PHASES = ("bias", "gain", "dark", "flat", "normalise", "defects")


@dataclass(frozen=True)
class Plan:
    """All tasks of a run.

    Attributes
    ----------
    goal
        What the run is for: calibrated visits, masters alone, or objects of sources that are there.
    raw
        The folder (or list) that was scanned.
    calibs
        Folder of the masters; None if there are none and none are made.
    problems
        What is missing, double or unreadable in the input, a line each.
    refcat
        Folder of the reference catalogue; None if there is none.
    forced
        Folder of the catalogue at whose positions is measured; None if there is none.
    """

    goal: Goal
    raw: str
    calibs: str | None
    tasks: TaskTable
    problems: tuple[str, ...] = field(default=())
    refcat: str | None = None
    forced: str | None = None

    @cached_property
    def _stretches(self) -> dict[str, tuple[int, int]]:
        """First and last number of each phase's tasks, which stand together."""
        codes = self.tasks.column("phase")
        ends = [*(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
        begins = [0, *ends[:-1]] if len(codes) else []
        words = self.tasks.words
        return {words[codes[a]]: (a, b) for a, b in zip(begins, ends, strict=False) if b > a}

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases that have tasks, in order."""
        return tuple(self._stretches)

    def in_phase(self, phase: str) -> TaskTable:
        """The tasks of one phase."""
        begin, end = self._stretches.get(phase, (0, 0))
        return self.tasks[begin:end]

    def phase_of(self, task_id: int) -> str:
        """The phase of a task; empty if there is no such task."""
        if not 0 <= task_id < len(self.tasks):
            return ""
        return self.tasks.labels_at(task_id)[0]

    def label(self, task_id: int) -> str:
        """What people call a task."""
        return label_of(*self.tasks.labels_at(task_id))


def plan_of(
    table: TaskTable,
    camera: Camera,
    raw: str,
    goal: Goal,
    calibs: Path | None,
    layout: RunLayout,
    costs: Costs = DEFAULTS,
    refcat: Path | None = None,
    forced: Path | None = None,
) -> Plan:
    """The plan of a table of tasks, whose costs are filled in."""
    phases = table.column("phase")
    words = {table.words[code] for code in np.unique(phases).tolist()}
    if words & set(CALIB_PHASES):
        calibs = layout.calibs
    _estimate(table, camera, costs)
    folders = [None if path is None else str(path) for path in (calibs, refcat, forced)]
    masters, reference, positions = folders
    return Plan(goal, raw, masters, table, tuple(table.problems), reference, positions)


def make_table(inventory: Inventory, raw: str, goal: Goal, *, builds_masters: bool) -> TaskTable:
    """Turn an inventory into tasks, without costs.

    Parameters
    ----------
    builds_masters
        Whether masters are built first, if the input holds calibration frames.

    Raises
    ------
    ConfigError
        If there is nothing to do.
    """
    builds_masters = builds_masters and bool(inventory.calibs)
    listed = tuple(str(problem) for problem in inventory.problems)
    with _no_collection():
        table = build_table(_drafts(inventory, goal, builds_masters), listed)
    if not len(table):
        wanted = "science frames" if goal == "calibrate" else "bias, dark or flat frames"
        problems = "".join(f"\n  {problem}" for problem in inventory.problems[:5])
        found = f"{inventory.n_files} files, but no {wanted} of camera {inventory.camera.name}"
        raise ConfigError(
            f"{found}{problems}",
            file=raw,
            way_out="mpipipe plan RAW --camera C shows what is found",
        )
    return table


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the collector from walking over the whole inventory again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _drafts(inventory: Inventory, goal: Goal, builds_masters: bool) -> Iterator[Draft]:
    if builds_masters:
        yield from _calib_tasks(inventory)
    if goal == "calibrate":
        faults = _faults(inventory)
        n_snaps = inventory.camera.n_snaps
        yield from (_visit_task(visit, n_snaps, faults) for visit in inventory.science)


def megapixels(table: TaskTable, camera: Camera) -> np.ndarray:
    """Megapixels of all frames that each task reads; of its CCD, if it reads none."""
    n_frames = np.diff(table.columns["frames"])[table.start : table.stop]
    found: np.ndarray = ccd_megapixels(table, camera) * np.maximum(n_frames, 1)
    return found


def ccd_megapixels(table: TaskTable, camera: Camera) -> np.ndarray:
    """Megapixels of each task's CCD."""
    codes = table.column("ccd")
    sizes = np.zeros(len(table.words))
    for code in np.unique(codes).tolist():
        nx, ny = camera.type_of(table.words[code]).size
        sizes[code] = nx * ny * 1e-6
    found: np.ndarray = sizes[codes]
    return found


def _estimate(table: TaskTable, camera: Camera, costs: Costs) -> None:
    """Fill in what each task will cost."""
    size = megapixels(table, camera)
    codes = table.column("phase")
    for code in np.unique(codes).tolist():
        members = codes == code
        seconds, memory = costs[table.words[code]].of(size[members])
        table.columns["cost"][members] = np.round(seconds, 3)
        table.columns["memory"][members] = memory


def _calib_tasks(inventory: Inventory) -> list[Draft]:
    sets = {(s.kind, s.detector, s.band): s.frames for s in inventory.calibs}
    order = [detector.name for detector in inventory.camera.detectors]
    ccds = sorted({ccd for _, ccd, _ in sets}, key=order.index)
    tasks: list[Draft] = []

    def add(phase: str, ccd: str, band: str, frames: Any, more: Any = ()) -> None:
        tasks.append(Draft(phase, -1, ccd, band, tuple(frames), tuple(more)))

    for ccd in ccds:
        if frames := sets.get(("bias", ccd, "")):
            add("bias", ccd, "", frames)
    for ccd in ccds:
        flats, biases = _flats_of(sets, ccd), sets.get(("bias", ccd, ""), ())
        if flats or biases:
            band = max(flats, key=lambda name: (len(flats[name]), name), default="")
            add("gain", ccd, band, flats.get(band, ()), biases)
    for ccd in ccds:
        if frames := sets.get(("dark", ccd, "")):
            add("dark", ccd, "", frames)
    for phase in ("flat", "normalise"):
        for ccd in ccds:
            for band, frames in sorted(_flats_of(sets, ccd).items()):
                add(phase, ccd, band, frames if phase == "flat" else ())
    for ccd in ccds:
        add("defects", ccd, "", ())
    return tasks


def _flats_of(
    sets: dict[tuple[str, str, str], tuple[FrameFiles, ...]], ccd: str
) -> dict[str, tuple[FrameFiles, ...]]:
    return {
        band: frames for (kind, name, band), frames in sets.items() if (kind, name) == ("flat", ccd)
    }


def _faults(inventory: Inventory) -> dict[tuple[int, str], list[str]]:
    """What is wrong with each visit and CCD; with no CCD: with all of a visit."""
    found: dict[tuple[int, str], list[str]] = {}
    for problem in inventory.problems:
        found.setdefault((problem.visit, problem.detector), []).append(str(problem))
    return found


def _visit_task(visit: VisitCcd, n_snaps: int, faults: dict[tuple[int, str], list[str]]) -> Draft:
    snaps = visit.snaps
    frames = [snaps[snap] for snap in sorted(snaps)]
    wrong = faults.get((visit.visit, visit.detector), ())
    everywhere = faults.get((visit.visit, ""), ())
    return Draft(
        "calibrate",
        visit.visit,
        visit.detector,
        visit.band,
        frames,
        n_expected_snaps=n_snaps,
        problems=[*everywhere, *wrong],
    )


# -- the files of a run ---------------------------------------------------------------------------


def save_run(layout: RunLayout, plan: Plan, config: AnyConfig, camera: Camera) -> None:
    """Write configuration, camera and plan into the run folder.

    Raises
    ------
    ConfigError
        If the folder already holds a run.
    OutputError
        If it can not be written.
    """
    refuse_used_folder(layout)
    layout.create()
    write_text_atomically(layout.config, to_toml(config))
    write_json_atomically(layout.camera, camera.model_dump(mode="json", exclude_none=True))
    save_plan(layout, plan)


def save_plan(layout: RunLayout, plan: Plan) -> None:
    """Write a plan into the run folder, in place of the one that may be there.

    Raises
    ------
    OutputError
        If it can not be written.
    """
    attributes = {
        "version": VERSION,
        "goal": plan.goal,
        "raw": plan.raw,
        "calibs": _OWN if plan.calibs == str(layout.calibs) else plan.calibs,
        "refcat": plan.refcat,
        "forced": plan.forced,
        "words": plan.tasks.words,
        "folders": plan.tasks.folders,
    }
    lines = _as_column(plan.tasks.problems)
    write_column_file(layout.plan, {**plan.tasks.columns, **lines}, attributes)


def _as_column(lines: Iterable[str]) -> dict[str, np.ndarray]:
    """Lines of text as one column."""
    text = "\0".join(lines).encode("utf-8", "surrogateescape")
    return {"problems": np.frombuffer(text, dtype="u1") if text else np.zeros(0, dtype="u1")}


def _from_column(column: np.ndarray) -> tuple[str, ...]:
    text = column.tobytes().decode("utf-8", "surrogateescape")
    return tuple(text.split("\0")) if text else ()


def refuse_used_folder(layout: RunLayout) -> None:
    """Refuse a folder that holds a run.

    Raises
    ------
    ConfigError
        With the hint to resume.
    """
    if layout.plan.exists():
        raise ConfigError(
            "holds a run already",
            file=layout.root,
            way_out=f"go on with it by --resume {layout.root}, or choose another folder with -o",
        )


def require_run(layout: RunLayout) -> None:
    """Refuse a folder that holds no run.

    Raises
    ------
    ConfigError
        With the command that starts one.
    """
    if not layout.plan.exists():
        raise ConfigError(
            "holds no run", file=layout.root, way_out="start one with: mpipipe run RAW -o RUN"
        )


def load_run(layout: RunLayout, *, check: bool = True) -> tuple[RunContext, Plan]:
    """Read configuration, camera and plan back.

    Parameters
    ----------
    check
        Compare the plan with its checksum.

    Raises
    ------
    BadDataError
        If they are missing or damaged.
    """
    plan = load_plan(layout, check=check)
    try:
        camera = Camera.model_validate_json(layout.camera.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadDataError(f"can not be read: {error.strerror}", file=layout.camera) from error
    except ValueError as error:
        raise BadDataError("is damaged: no description of a camera", file=layout.camera) from error
    calibs, refcat, forced = (
        None if folder is None else Path(folder)
        for folder in (plan.calibs, plan.refcat, plan.forced)
    )
    return RunContext(layout, load_config(layout.config), camera, calibs, refcat, forced), plan


def load_plan(layout: RunLayout, *, check: bool = True) -> Plan:
    """Map the plan of a run.

    Raises
    ------
    BadDataError
        If it is missing or damaged.
    """
    columns, facts = map_column_file(layout.plan, check=check)
    if facts.get("version") != VERSION:
        raise BadDataError(f"has unknown version {facts.get('version')}", file=layout.plan)
    try:
        problems = _from_column(columns.pop("problems"))
        table = TaskTable(columns, facts["words"], facts["folders"], problems)
        calibs = str(layout.calibs) if facts["calibs"] == _OWN else facts["calibs"]
        return Plan(
            facts["goal"], facts["raw"], calibs, table, problems, facts["refcat"], facts["forced"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadDataError(f"is damaged: {error}", file=layout.plan) from error
