"""The plan of a run: its phases and tasks, in a fixed order, made from the headers alone.

The plan is a file in the run folder (``plan.json``). All ranks and task processes read it, so a
task travels as a phase and a number. The same input gives the same plan, whoever makes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mpipipe.data.camera import Camera
from mpipipe.data.errors import BadDataError, ConfigError
from mpipipe.data.inventory import FrameFiles, Inventory, VisitCcd
from mpipipe.run.config import AnyConfig, load_config, to_toml
from mpipipe.run.context import RunContext
from mpipipe.store.checksums import read_json, write_json_atomically, write_text_atomically
from mpipipe.store.layout import RunLayout

VERSION = 1

Goal = Literal["calibrate", "calibs"]
CALIB_PHASES = ("bias", "gain", "dark", "flat", "normalise", "defects")

SECONDS_PER_MEGAPIXEL = {
    "bias": 0.16,
    "gain": 0.05,
    "dark": 0.12,
    "flat": 0.08,
    "normalise": 0.06,
    "defects": 0.4,
    "calibrate": 0.5,
}
"""Measured on simulated CCDs of 4 megapixels: CPU seconds for each frame, on one core."""


@dataclass(frozen=True)
class Task:
    """One unit of scheduled work.

    Attributes
    ----------
    id
        Its number; tasks are numbered in the order of phases, then of their content.
    phase
        ``calibrate`` or one of `CALIB_PHASES`.
    visit
        -1 for a calibration task.
    frames
        The read-outs it works on: snaps of a visit, or calibration frames.
    more
        Further read-outs: the bias frames that photon transfer needs beside the flats.
    problems
        What the plan already knows to be wrong with its input.
    cost_s
        Expected seconds.
    """

    id: int
    phase: str
    visit: int
    ccd: str
    band: str
    frames: tuple[FrameFiles, ...]
    more: tuple[FrameFiles, ...] = ()
    n_expected_snaps: int = 0
    problems: tuple[str, ...] = ()
    cost_s: float = 0.0

    @property
    def label(self) -> str:
        """What people call it."""
        what = f"visit {self.visit}" if self.visit >= 0 else self.phase
        return " ".join(part for part in (what, self.ccd, self.band) if part)


@dataclass(frozen=True)
class Plan:
    """All tasks of a run.

    Attributes
    ----------
    goal
        What the run is for: calibrated visits, or masters alone.
    raw
        The folder (or list) that was scanned.
    calibs
        Folder of the masters; None if there are none and none are made.
    problems
        What is missing, double or unreadable in the input, a line each.
    """

    goal: Goal
    raw: str
    calibs: str | None
    tasks: tuple[Task, ...]
    problems: tuple[str, ...] = field(default=())

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases that have tasks, in order."""
        return tuple(dict.fromkeys(task.phase for task in self.tasks))

    def in_phase(self, phase: str) -> tuple[Task, ...]:
        """The tasks of one phase."""
        return tuple(task for task in self.tasks if task.phase == phase)


def make_plan(
    inventory: Inventory, raw: str, goal: Goal, calibs: Path | None, layout: RunLayout
) -> Plan:
    """Turn an inventory into tasks.

    Masters are built first when the input holds calibration frames and no masters are given.

    Raises
    ------
    ConfigError
        If there is nothing to do.
    """
    drafts: list[Task] = []
    builds_masters = bool(inventory.calibs) and calibs is None
    if builds_masters:
        drafts += _calib_tasks(inventory)
        calibs = layout.calibs
    if goal == "calibrate":
        drafts += [_visit_task(visit, inventory) for visit in inventory.science]
    if not drafts:
        wanted = "science frames" if goal == "calibrate" else "bias, dark or flat frames"
        problems = "".join(f"\n  {problem}" for problem in inventory.problems[:5])
        found = f"{inventory.n_files} files, but no {wanted} of camera {inventory.camera.name}"
        raise ConfigError(
            f"{found}{problems}",
            file=raw,
            way_out="mpipipe plan RAW --camera C shows what is found",
        )
    tasks = tuple(_numbered(drafts, inventory.camera))
    listed = tuple(str(problem) for problem in inventory.problems)
    return Plan(goal, raw, None if calibs is None else str(calibs), tasks, listed)


def _numbered(drafts: Iterable[Task], camera: Camera) -> Iterable[Task]:
    for number, draft in enumerate(drafts):
        nx, ny = camera.type_of(draft.ccd).size
        megapixels = nx * ny * 1e-6 * max(len(draft.frames) + len(draft.more), 1)
        cost = SECONDS_PER_MEGAPIXEL[draft.phase] * megapixels
        yield replace(draft, id=number, cost_s=round(cost, 3))


def _calib_tasks(inventory: Inventory) -> list[Task]:
    sets = {(s.kind, s.detector, s.band): s.frames for s in inventory.calibs}
    order = [detector.name for detector in inventory.camera.detectors]
    ccds = sorted({ccd for _, ccd, _ in sets}, key=order.index)
    tasks: list[Task] = []

    def add(phase: str, ccd: str, band: str, frames: Any, more: Any = ()) -> None:
        tasks.append(Task(0, phase, -1, ccd, band, tuple(frames), tuple(more)))

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


def _visit_task(visit: VisitCcd, inventory: Inventory) -> Task:
    faults = [
        problem
        for problem in inventory.problems
        if problem.visit == visit.visit and problem.detector in (visit.detector, "")
    ]
    frames = tuple(visit.snaps[snap] for snap in sorted(visit.snaps))
    return Task(
        0,
        "calibrate",
        visit.visit,
        visit.detector,
        visit.band,
        frames,
        n_expected_snaps=inventory.camera.n_snaps,
        problems=tuple(str(fault) for fault in faults),
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
    content = {
        "version": VERSION,
        "goal": plan.goal,
        "raw": plan.raw,
        "calibs": plan.calibs,
        "problems": plan.problems,
        "tasks": [_task_to_json(task) for task in plan.tasks],
    }
    write_json_atomically(layout.plan, content)


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


def load_run(layout: RunLayout) -> tuple[RunContext, Plan]:
    """Read configuration, camera and plan back.

    Raises
    ------
    BadDataError
        If they are missing or damaged.
    """
    content = read_json(layout.plan)
    if content.get("version") != VERSION:
        raise BadDataError(f"has unknown version {content.get('version')}", file=layout.plan)
    try:
        plan = Plan(
            content["goal"],
            content["raw"],
            content["calibs"],
            tuple(_task_from_json(entry) for entry in content["tasks"]),
            tuple(content["problems"]),
        )
        camera = Camera.model_validate_json(layout.camera.read_text(encoding="utf-8"))
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise BadDataError(f"is damaged: {error}", file=layout.plan) from error
    calibs = None if plan.calibs is None else Path(plan.calibs)
    return RunContext(layout, load_config(layout.config), camera, calibs), plan


def _task_to_json(task: Task) -> list[Any]:
    return [
        task.id,
        task.phase,
        task.visit,
        task.ccd,
        task.band,
        [_frame_to_json(frame) for frame in task.frames],
        [_frame_to_json(frame) for frame in task.more],
        task.n_expected_snaps,
        list(task.problems),
        task.cost_s,
    ]


def _task_from_json(entry: list[Any]) -> Task:
    number, phase, visit, ccd, band, frames, more, n_snaps, problems, cost = entry
    return Task(
        number,
        phase,
        visit,
        ccd,
        band,
        tuple(_frame_from_json(frame) for frame in frames),
        tuple(_frame_from_json(frame) for frame in more),
        n_snaps,
        tuple(problems),
        cost,
    )


def _frame_to_json(frame: FrameFiles) -> list[Any]:
    finite = [None if value != value else value for value in (frame.exposure_time, frame.mjd_start)]
    return [
        frame.visit,
        frame.snap,
        frame.detector,
        frame.kind,
        frame.band,
        list(frame.paths),
        list(frame.channels),
        *finite,
        frame.n_bytes,
    ]


def _frame_from_json(entry: list[Any]) -> FrameFiles:
    visit, snap, detector, kind, band, paths, channels, exposure_time, mjd_start, size = entry
    nan = float("nan")
    return FrameFiles(
        visit,
        snap,
        detector,
        kind,
        band,
        tuple(paths),
        tuple(channels),
        nan if exposure_time is None else exposure_time,
        nan if mjd_start is None else mjd_start,
        size,
    )
