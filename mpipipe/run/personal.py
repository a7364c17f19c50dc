"""Runs for one person: from what is named on a command line to a folder that is a run.

The same command again goes on with what is in its folder, and changes it where the options are
others now; a folder that was made of other files is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mpipipe.data.camera import Camera, Need
from mpipipe.data.errors import ConfigError, MissingInputError
from mpipipe.run.config import AnyConfig, load_config, options, toml_value
from mpipipe.run.drive import Make
from mpipipe.run.own_files import IMAGES, refuse_others_files
from mpipipe.run.plan import (
    CALIB_PHASES,
    Plan,
    load_plan,
    load_run,
    refuse_used_folder,
    save_run,
)
from mpipipe.run.plancache import Found
from mpipipe.run.prepare import Request, prepare
from mpipipe.run.resume import Resume
from mpipipe.run.take_sources import source_drafts
from mpipipe.run.task import TaskTable, build_table
from mpipipe.store.cameras import load_camera
from mpipipe.store.layout import BOOKS, RunLayout, index_folder
from mpipipe.store.naming import NamedFiles, named_files
from mpipipe.store.scan import camera_of, find_raw_files, scan

_BY_MASTERS = ("bias", "dark", "flat", "defects")
_IMAGE = re.compile(rf"({'|'.join(IMAGES)})-[0-9]+-.*\.fits$")
"""Names of the images that a folder is filled with."""
_ROWS_A_S, _START_S = 1.0e6, 0.05
_START_BYTES, _BYTES_A_BYTE = 260_000_000, 6


@dataclass(frozen=True)
class Errand:
    """What is to be done in a folder.

    Attributes
    ----------
    layout
        The folder.
    make
        Makes the run; None: it is there, and is gone on with.
    asked
        What is to change in one that is there.
    notes
        What a person wants to know beforehand, a line each.
    """

    layout: RunLayout
    make: Make | None
    asked: Resume
    notes: tuple[str, ...]


def to_process(names: Sequence[str], output: Path, request: Request, *, force: bool) -> Errand:
    """Make ready for processing the raw files that were named.

    Parameters
    ----------
    names
        Files, patterns and folders.
    request
        Camera, masters, catalogue and options; `raw` and `files` are found out here.
    force
        Do again what was done with other code or libraries.

    Raises
    ------
    MpipipeError
        If the files can not be processed, or not into this folder, with the reason.
    """
    layout = _folder(output)
    named = _without_products(named_files(names, find_raw_files, "FITS file"), layout)
    notes = []
    camera = request.camera or load_config(request.config_file, request.assignments).camera
    if camera is None:
        found, why = camera_of(named.paths)
        camera = found.name
        notes.append(f"camera {found.name} ({found.description}), for {why}")
    _refuse_unknown(named, camera)
    common = Path(os.path.commonpath([os.path.dirname(path) for path in named.paths]))
    request = replace(request, raw=common, camera=camera, files=named.paths)
    plan, config, scanned = prepare(request, layout)
    left_out = _without_masters(plan, config, scanned)
    assignments = (
        "associate.enabled=false",
        *(f"corrections.{name}={Need.IF_AVAILABLE.value}" for name in left_out),
    )
    wanted = load_config(request.config_file, (*assignments, *request.assignments))
    errand = _errand(layout, plan, wanted, scanned.camera, force)
    notes += _notes(plan, wanted, scanned, _refcat_there(layout))
    return replace(errand, notes=(*notes, *plan.problems))


def to_associate(
    names: Sequence[str], output: Path, assignments: Sequence[str], *, force: bool
) -> Errand:
    """Make ready for objects of the sources in files that were named.

    Parameters
    ----------
    names
        Tables of sources, patterns, folders that `mpipipe process` filled, run folders.
    assignments
        Options.

    Raises
    ------
    MpipipeError
        If the sources can not be associated, or not in this folder, with the reason.
    """
    named = named_files(names, _tables_in, "table of sources")
    layout = _folder(output)
    config = load_config(None, assignments)
    table = build_table(source_drafts(named.paths))
    n_bytes = np.array([task.frames[0].n_bytes for task in table], dtype=np.float64)
    table.columns["cost"][:] = _START_S + n_bytes / 200 / _ROWS_A_S
    table.columns["memory"][:] = _START_BYTES + _BYTES_A_BYTE * n_bytes
    common = os.path.commonpath([os.path.dirname(path) for path in named.paths])
    plan = Plan("associate", common, None, table)
    # Any: what counts is the order of bands.
    camera = load_camera("generic").model_copy(update={"filters": {b: b for b in "ugrizy"}})
    errand = _errand(layout, plan, config, camera, force)
    bands = sorted({task.band for task in table})
    note = f"{len(table)} exposures in {', '.join(bands)} of {len(named.paths)} files"
    return replace(errand, notes=(note,))


# -- inside ---------------------------------------------------------------------------------------


def _folder(output: Path) -> RunLayout:
    """The flat folder to fill.

    Raises
    ------
    ConfigError
        If something else is in it.
    OutputError
        If it can not be made.
    """
    there = RunLayout.at(output)
    for run in () if there.is_flat else (there, RunLayout.at(there.root / BOOKS)):
        if run.plan.exists():
            raise ConfigError(
                "holds a run that mpipipe run has made",
                file=run.root,
                way_out="choose another folder with -o, or go on with: mpipipe run --resume",
            )
    layout = RunLayout.at(output, is_flat=True)
    layout.check_parent()
    return layout


def _without_products(named: NamedFiles, layout: RunLayout) -> NamedFiles:
    """What was named but the images that the folder to fill has already.

    Raises
    ------
    MissingInputError
        If nothing else was named.
    """
    if not layout.plan.exists():
        return named
    input_ = _files_of(load_plan(layout).tasks)

    def is_input(path: str) -> bool:
        is_image = Path(path).parent == layout.root and _IMAGE.match(os.path.basename(path))
        is_ours = is_image or Path(path).is_relative_to(layout.books)
        return path in input_ or not is_ours

    kept = NamedFiles(
        tuple(filter(is_input, named.one_by_one)), tuple(filter(is_input, named.in_folders))
    )
    if not kept.paths:
        raise MissingInputError(
            "nothing but images of this folder's own is named", file=layout.root
        )
    return kept


def _errand(
    layout: RunLayout, plan: Plan, config: AnyConfig, camera: Camera, force: bool
) -> Errand:
    """Begin with a folder, or go on with what is there."""
    if not layout.plan.exists():

        def make() -> Callable[[], None]:
            refuse_used_folder(layout)
            refuse_others_files(layout, plan)
            return lambda: save_run(layout, plan, config, camera)

        return Errand(layout, make, Resume(), ())
    context, there = load_run(layout)
    if there.goal == plan.goal == "calibrate":
        _refuse_other_camera(layout, context.camera, camera)
    _refuse_other_input(layout, there, plan)
    refcat = None if plan.refcat in (None, there.refcat) else Path(plan.refcat or "")
    changes = _changes(context.config, config)
    return Errand(layout, None, Resume(changes, force=force, refcat=refcat), ())


def _changes(before: AnyConfig, after: AnyConfig) -> tuple[str, ...]:
    """The assignments that make one configuration of another.

    Raises
    ------
    ConfigError
        If an option was set and is to be unset, for which there is none.
    """
    old = {key: value for key, value, _ in options(before)}
    found = []
    for key, value, _ in options(after):
        if value == old[key]:
            continue
        if value is None:
            raise ConfigError(
                f"was {old[key]!r} when this folder was made, and can not be unset",
                key=key,
                way_out="set it again, or choose another folder with -o",
            )
        found.append(f"{key}={toml_value(value)}")
    return tuple(found)


def _refuse_other_input(layout: RunLayout, there: Plan, plan: Plan) -> None:
    """Refuse a folder that was made of other files, or with other masters."""
    way_out = "choose another folder with -o"
    if there.goal != plan.goal:
        what = {"associate": "objects"}.get(there.goal, "exposures")
        raise ConfigError(f"holds {what}", file=layout.root, way_out=way_out)
    # The table of a run may have other exposures now.
    for what, found in (("files", _files_of), ("exposures", _exposures_of)):
        before, now = found(there.tasks), found(plan.tasks)
        if before != now:
            missing, more = sorted(before - now), sorted(now - before)
            told = f"{missing[0]} is not named now" if missing else f"{more[0]} is new"
            number = len(missing) + len(more)
            others = "" if number == 1 else f", and {number - 1} {what} more differ"
            raise ConfigError(
                f"was made of other {what}: {told}{others}", file=layout.root, way_out=way_out
            )
    if there.calibs != plan.calibs:
        raise ConfigError(
            f"was made with masters of {there.calibs or 'nowhere'}, not of "
            f"{plan.calibs or 'nowhere'}",
            file=layout.root,
            way_out=way_out,
        )


def _refuse_other_camera(layout: RunLayout, before: Camera, now: Camera) -> None:
    """Refuse a folder whose frames were taken for those of another camera."""
    # As it is written down: what is not given is not kept.
    old, new = (camera.model_dump(mode="json", exclude_none=True) for camera in (before, now))
    if old != new:
        other = "" if before.name != now.name else ", whose description is another one now"
        raise ConfigError(
            f"was made as camera {before.name}{other}",
            file=layout.root,
            way_out="choose another folder with -o",
        )


def _refcat_there(layout: RunLayout) -> str | None:
    """The reference catalogue of a run that is gone on with."""
    return load_plan(layout).refcat if layout.plan.exists() else None


def _files_of(tasks: TaskTable) -> set[str]:
    return {path for task in tasks for frame in task.frames for path in frame.paths}


def _exposures_of(tasks: TaskTable) -> set[str]:
    return {task.label for task in tasks}


def _refuse_unknown(named: NamedFiles, camera: str) -> None:
    """Refuse a file that was named and is no frame of the camera.

    One of which only the content is damaged stays: its exposure ends as bad data that names it.

    Raises
    ------
    ConfigError
        With what is wrong with the first one.
    """
    inventory = scan(named.paths, load_camera(camera), index_folder())
    unplaced = {p.file: p for p in inventory.problems if p.visit < 0 and not p.is_warning}
    bad = [unplaced[path] for path in named.one_by_one if path in unplaced]
    if bad:
        more = f"; and {len(bad) - 1} files more" if len(bad) > 1 else ""
        raise ConfigError(
            f"can not be processed as a frame of {inventory.camera.name}: "
            f"{bad[0].kind}: {bad[0].reason}{more}",
            file=bad[0].file,
            key=bad[0].key or None,
            way_out=f"{bad[0].way_out or 'leave it out'}",
        )


def _without_masters(plan: Plan, config: AnyConfig, found: Found) -> list[str]:
    """Corrections that the camera requires, whose masters nobody has given or asked for."""
    if plan.calibs is not None or found.camera.kind == "calibrated":
        return []
    asked = config.corrections.model_dump(exclude_none=True)
    needs = found.camera.corrections
    return [n for n in _BY_MASTERS if getattr(needs, n) is Need.REQUIRE and n not in asked]


def _notes(plan: Plan, config: AnyConfig, found: Found, refcat_there: str | None) -> list[str]:
    """What will be done, and what is done without.

    Parameters
    ----------
    refcat_there
        The reference catalogue that stays if none is given.
    """
    n_builds = sum(len(plan.in_phase(phase)) for phase in CALIB_PHASES)
    needs = config.corrections.over(found.camera.corrections)
    notes = []
    if n_builds:
        notes.append("masters: built first, from the calibration frames among the files")
    elif found.camera.kind == "calibrated":
        notes.append("frames are reduced already: processing begins with the background")
    elif plan.calibs is None:
        wanted = [name for name in _BY_MASTERS if getattr(needs, name) is not Need.OFF]
        if wanted:
            notes.append(
                f"no masters (--calibs): {', '.join(wanted)} are left out; gain and read noise are "
                "those of header or camera"
            )
    if plan.refcat is None and refcat_there is not None:
        notes.append(
            f"reference catalogue: that of before stays, {refcat_there}; to do without, choose "
            "another folder with -o"
        )
    elif plan.refcat is None:
        notes.append(
            "no reference catalogue (--refcat): the WCS stays that of the header, fluxes are in "
            "electrons without a zero point"
        )
    return notes


def _tables_in(folder: str) -> list[str]:
    """The tables of sources in a folder."""
    layout = RunLayout.at(folder)
    if layout.is_flat or not layout.plan.exists():
        return sorted(map(str, Path(folder).glob("src-*.h5")))
    table = layout.catalogue("src")
    return [str(table)] if table.exists() else []
