"""A simulation as independent tasks, and the folder that it fills.

Each task depends on the survey and its own key alone: any number of processes may run them, in
any order, and write the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpipipe import __version__
from mpipipe.data.errors import BadDataError, ConfigError
from mpipipe.sim.exposures import (
    FLAT_TIME,
    bias_frame,
    dark_frame,
    flat_frame,
    simulate_visit,
)
from mpipipe.sim.instrument import make_chip, make_instrument
from mpipipe.sim.raw_files import RawIdentity, write_raw
from mpipipe.sim.refcat import write_reference
from mpipipe.sim.sky import check_counts
from mpipipe.sim.survey import Survey
from mpipipe.sim.toml_text import to_toml
from mpipipe.sim.truth import write_catalogue, write_detector, write_visit
from mpipipe.sim.visits import FIRST_VISIT, SNAP_GAP, plan_visit
from mpipipe.store.checksums import (
    asides_in,
    read_json,
    write_json_atomically,
    write_text_atomically,
)
from mpipipe.store.scan import SKIP_MARK

OPTIONS_FILE = "simulation.toml"
CAMERA_FILE = "camera.toml"


@dataclass(frozen=True)
class SimTask:
    """One independent piece of a simulation.

    Attributes
    ----------
    kind
        ``catalogue``, ``detector``, ``bias``, ``dark``, ``flat`` or ``science``.
    ccd
        Name of the CCD; empty for the catalogue.
    number
        Number of the frame or visit among those of its kind, from 0.
    band, level
        Of flats.
    cost
        Expected CPU seconds.
    """

    kind: str
    ccd: str = ""
    number: int = 0
    band: str = ""
    level: float = 0.0
    cost: float = 1.0

    @property
    def key(self) -> str:
        """Name of the task, unique in its simulation, fit for a file name."""
        return f"{self.kind}-{self.ccd}-{self.number}" if self.ccd else self.kind


@dataclass(frozen=True)
class SimFolder:
    """Where a simulation goes.

    Attributes
    ----------
    root
        The folder that the user named.
    truth
        Folder of the truth, by default inside `root`.
    """

    root: Path
    truth: Path

    @classmethod
    def at(cls, root: Path, truth: Path | None = None) -> SimFolder:
        """The folder `root`, with truth in ``root/truth`` unless said otherwise."""
        return cls(Path(root), Path(root) / "truth" if truth is None else Path(truth))

    @property
    def truth_is_apart(self) -> bool:
        """Whether the truth is outside of `root`."""
        return not self.truth.resolve().is_relative_to(self.root.resolve())

    @property
    def raw(self) -> Path:
        """Raw frames, science and calibration together."""
        return self.root / "raw"

    @property
    def refcat(self) -> Path:
        """The reference catalogue."""
        return self.root / "refcat"

    def mark(self, task: SimTask) -> Path:
        """The file that says that a task is done, and which files it wrote."""
        return self.root / ".done" / f"{task.key}.json"


def make_tasks(survey: Survey) -> list[SimTask]:
    """All tasks of a simulation, in a fixed order."""
    instrument = make_instrument(survey)
    tasks = [SimTask("catalogue")]
    for detector in instrument.detectors:
        name = detector.name
        nx, ny = instrument.camera.type_of(detector).size
        mpixel = nx * ny / 1e6
        tasks.append(SimTask("detector", name, cost=0.4 * mpixel))
        tasks += [SimTask("bias", name, k, cost=0.1 * mpixel) for k in range(survey.n_bias)]
        tasks += [SimTask("dark", name, k, cost=0.15 * mpixel) for k in range(survey.n_dark)]
        number = 0
        for band in dict.fromkeys(survey.bands):
            for level in survey.flat_levels:
                for _ in range(survey.flats_per_level):
                    tasks.append(SimTask("flat", name, number, band, level, 0.15 * mpixel))
                    number += 1
        tasks += [SimTask("science", name, k, cost=1.0 * mpixel) for k in range(survey.n_visits)]
    return tasks


def prepare(survey: Survey, folder: SimFolder) -> None:
    """Make the folder, or see that it holds this very simulation; call once, before any task.

    Raises
    ------
    ConfigError
        If the options make no sense, or the folder holds something else.
    OutputError
        If it can not be written.
    """
    camera = make_instrument(survey).camera
    check_counts(survey)
    options = _options(survey, folder)
    path = folder.root / OPTIONS_FILE
    if path.exists():
        _compare(path, options)
        remove_torn(folder)
    elif _is_filled(folder.root):
        raise ConfigError(
            "is not empty and holds no simulation",
            file=folder.root,
            way_out="choose a new folder",
        )
    _check_truth(folder, options)
    # First of all: from here on the folder is ours, and who is killed next can go on.
    write_text_atomically(path, to_toml(options))
    if folder.truth_is_apart:
        write_text_atomically(folder.truth / OPTIONS_FILE, to_toml(options))
    if survey.format:
        description = camera.model_dump(mode="json", exclude_defaults=True)
        write_text_atomically(folder.root / CAMERA_FILE, to_toml(description))
    for no_input in (folder.truth, folder.refcat):
        write_text_atomically(no_input / SKIP_MARK, "no raw frames: not to be scanned\n")


def _is_filled(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _check_truth(folder: SimFolder, options: dict[str, Any]) -> None:
    """See that a folder of the truth apart is empty or belongs to this simulation."""
    if not folder.truth_is_apart:
        return
    mark = folder.truth / OPTIONS_FILE
    if mark.exists():
        _compare(mark, options)
    elif _is_filled(folder.truth):
        raise ConfigError(
            "is not empty and holds no truth",
            file=folder.truth,
            key="--truth",
            way_out="choose a new folder for the truth",
        )


def remove_torn(folder: SimFolder) -> None:
    """Remove what processes that died were writing; call it when nobody writes."""
    for root in (folder.root, folder.truth):
        for path in asides_in(root, below=True):
            path.unlink(missing_ok=True)


def _options(survey: Survey, folder: SimFolder) -> dict[str, Any]:
    fields = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in dataclasses.asdict(survey).items()
    }
    return {"version": __version__, "truth": str(folder.truth.resolve()), "survey": fields}


def _compare(path: Path, options: dict[str, Any]) -> None:
    try:
        old = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadDataError(f"can not be read: {error}", file=path) from error
    was, now = old.get("survey", {}), options["survey"]
    # Through text and back, as the file went.
    now = tomllib.loads(to_toml(now))
    different = sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key))
    if old.get("version") != options["version"]:
        different.append("version")
    moved = Path(str(old.get("truth"))) != Path(options["truth"])
    if moved and Path(str(old.get("truth"))).exists():
        different.append("truth")
    if different:
        shown = ", ".join(
            f"{key} {was.get(key, old.get(key))} instead of {now.get(key, options.get(key))}"
            for key in different[:5]
        )
        raise ConfigError(
            f"the folder holds another simulation: {shown}",
            file=path,
            way_out="choose another folder, or give the options in this file",
        )


def read_survey(root: Path) -> Survey:
    """The survey that a folder holds.

    Raises
    ------
    BadDataError
        If it holds none.
    """
    return _read_options(root)[0]


def begun_simulation(root: Path, truth: Path | None = None) -> tuple[Survey, SimFolder]:
    """A simulation that was begun, with its truth in it, or where it was sent.

    Raises
    ------
    BadDataError
        If the folder holds none.
    """
    survey, sent = _read_options(root)
    own = SimFolder.at(root, truth)
    # A folder that was copied or moved with its truth inside has it there.
    return survey, own if truth or own.truth.is_dir() else SimFolder.at(root, sent)


def _read_options(root: Path) -> tuple[Survey, Path | None]:
    """The survey that a folder holds, and where its truth was sent."""
    path = root / OPTIONS_FILE
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in content["survey"].items()
        }
        sent = Path(content["truth"]) if content["truth"] else None
        return Survey(**values), sent
    except (
        OSError,
        KeyError,
        TypeError,
        AttributeError,
        UnicodeDecodeError,
        tomllib.TOMLDecodeError,
    ) as error:
        raise BadDataError(
            f"is no simulation's options: {error}",
            file=path,
            way_out="name a folder that mpipipe simulate has begun",
        ) from error


def is_done(task: SimTask, folder: SimFolder) -> bool:
    """Whether all files of a task exist with the sizes they had when it finished."""
    mark = folder.mark(task)
    if not mark.exists():
        return False
    try:
        files: dict[str, int] = read_json(mark)["files"]
    except (BadDataError, KeyError, TypeError, json.JSONDecodeError):
        return False
    return all(
        path.is_file() and path.stat().st_size == size
        for path, size in ((_place(folder, name), size) for name, size in files.items())
    )


def run_task(survey: Survey, task: SimTask, folder: SimFolder) -> bool:
    """Do one task, unless it is done.

    Returns
    -------
    bool
        Whether there was anything to do.
    """
    if is_done(task, folder):
        return False
    written = _WORK[task.kind](survey, task, folder)
    files = {_name(folder, path): path.stat().st_size for path in written}
    write_json_atomically(folder.mark(task), {"files": files})
    return True


def _name(folder: SimFolder, path: Path) -> str:
    if path.is_relative_to(folder.truth):
        return f"truth:{path.relative_to(folder.truth)}"
    return str(path.relative_to(folder.root))


def _place(folder: SimFolder, name: str) -> Path:
    head, colon, rest = name.partition(":")
    return folder.truth / rest if colon and head == "truth" else folder.root / name


def _catalogue(survey: Survey, task: SimTask, folder: SimFolder) -> list[Path]:
    return write_catalogue(survey, folder.truth) + write_reference(survey, folder.refcat)


def _detector(survey: Survey, task: SimTask, folder: SimFolder) -> list[Path]:
    return write_detector(survey, task.ccd, folder.truth)


def _calibration(survey: Survey, task: SimTask, folder: SimFolder) -> list[Path]:
    if task.kind == "bias":
        images, seconds = bias_frame(survey, task.ccd, task.number), 0.0
    elif task.kind == "dark":
        images, seconds = dark_frame(survey, task.ccd, task.number), survey.dark_time
    else:
        images = flat_frame(survey, task.ccd, task.band, task.level, task.number)
        seconds = FLAT_TIME
    identity = RawIdentity(
        kind=task.kind,
        visit=FIRST_VISIT[task.kind] + task.number,
        snap=0,
        band=task.band,
        exposure_time=seconds,
        # In the afternoon before the first visit, one after the other.
        mjd=survey.mjd - 0.4 + FIRST_VISIT[task.kind] / 1e7 + task.number * 0.005,
    )
    return _write(survey, task, folder, identity, images)


def _science(survey: Survey, task: SimTask, folder: SimFolder) -> list[Path]:
    from mpipipe.sim.astrometry import focal_plane, header_wcs

    instrument = make_instrument(survey)
    visit = plan_visit(survey, task.number, instrument.n_snaps)
    raw, truth = simulate_visit(survey, task.ccd, task.number)
    place = focal_plane(
        instrument.camera, instrument.camera.detector(task.ccd), instrument.detectors
    )
    written = write_visit(survey, task.ccd, truth, folder.truth)
    for snap, images in enumerate(raw):
        identity = RawIdentity(
            kind="science",
            visit=visit.number,
            snap=snap,
            band=visit.band,
            exposure_time=survey.snap_time,
            mjd=visit.mjd + snap * (survey.snap_time + SNAP_GAP) / 86400.0,
            airmass=visit.airmass,
            ra=visit.header_ra,
            dec=visit.header_dec,
            wcs=header_wcs(place, visit),
        )
        written += _write(survey, task, folder, identity, images)
    return written


def _write(
    survey: Survey, task: SimTask, folder: SimFolder, identity: RawIdentity, images: list[Any]
) -> list[Path]:
    camera = make_instrument(survey).camera
    chip = make_chip(survey, task.ccd)
    return write_raw(folder.raw, camera, chip, identity, images, compress=survey.gzip)


_WORK = {
    "catalogue": _catalogue,
    "detector": _detector,
    "bias": _calibration,
    "dark": _calibration,
    "flat": _calibration,
    "science": _science,
}
