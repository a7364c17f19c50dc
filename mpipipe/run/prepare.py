"""From what the user asked for to a saved plan: camera, configuration, inventory, checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mpipipe.data.camera import Camera
from mpipipe.data.errors import ConfigError, MissingInputError
from mpipipe.run.config import AnyConfig, load_config
from mpipipe.run.costs import DEFAULTS, Costs, load_costs
from mpipipe.run.pipelines import check_pipelines
from mpipipe.run.plan import Goal, Plan, make_table, plan_of, refuse_used_folder, save_run
from mpipipe.run.plancache import Found, PlanCache
from mpipipe.store.cameras import load_camera
from mpipipe.store.layout import RunLayout, index_folder
from mpipipe.store.refcat.index import read_index
from mpipipe.store.scan import find_raw_files, scan


@dataclass(frozen=True)
class Request:
    """What a user asks of a run.

    Attributes
    ----------
    raw
        Folder of raw frames, or a text file that lists some.
    camera
        Name or file of the camera; None: the configuration's, else recognised from headers.
    calibs
        Folder that `mpipipe calibs` made; None: masters are built if RAW has what it takes.
    config_file, assignments
        Configuration file, and ``KEY=VALUE`` laid over it.
    goal
        Calibrated visits, or masters alone.
    costs
        An earlier run, whose tasks tell what these will cost.
    refcat
        Folder that `mpipipe refcat ingest` made; None: no positions and zero points.
    forced
        Such a folder, at whose positions is measured; None: nowhere but where sources are found.
    files
        These files and no others; `raw` is then what they are told as.
    """

    raw: Path
    camera: str | None = None
    calibs: Path | None = None
    config_file: Path | None = None
    assignments: tuple[str, ...] = ()
    goal: Goal = "calibrate"
    costs: Path | None = None
    refcat: Path | None = None
    forced: Path | None = None
    files: tuple[str, ...] = ()

    def cost_model(self) -> Costs:
        """What tasks are expected to cost.

        Raises
        ------
        ConfigError
            If the earlier run has measured nothing.
        """
        return DEFAULTS if self.costs is None else load_costs(self.costs)


def prepare(request: Request, layout: RunLayout) -> tuple[Plan, AnyConfig, Found]:
    """Scan the input and make the plan, without touching a pixel or writing into the run folder.

    Raises
    ------
    ConfigError, MissingInputError
        If the request can not be carried out.
    """
    config = load_config(request.config_file, request.assignments)
    check_pipelines(name for name, options in config.stage_configs().items() if not options.enabled)
    camera = find_camera(request.camera or config.camera)
    costs = request.cost_model()
    calibs = None if request.calibs is None else masters_folder(request.calibs)
    refcat, forced = (
        None if folder is None else refcat_folder(folder)
        for folder in (request.refcat, request.forced)
    )
    found = find_tasks(request, camera, index_folder())
    raw = str(request.raw.absolute())
    plan = plan_of(
        found.table, found.camera, raw, request.goal, calibs, layout, costs, refcat, forced
    )
    return plan, config, found


def find_tasks(request: Request, camera: Camera | None, index: Path) -> Found:
    """The tasks of the files at RAW; of many files that are all known, without looking at them.

    Raises
    ------
    ConfigError, MissingInputError
        If the files can not be sorted, or there is nothing to do.
    """
    files = find_raw_files(request.files or find_files(request.raw))
    described = "" if camera is None else camera.model_dump_json(exclude_none=True)
    builds_masters = request.calibs is None
    cache = PlanCache(index, files, described, request.goal, str(builds_masters))
    if (kept := cache.find()) is not None:
        return kept
    inventory = scan(files or find_files(request.raw), camera, index)
    raw = str(request.raw.absolute())
    table = make_table(inventory, raw, request.goal, builds_masters=builds_masters)
    found = Found(table, inventory.camera, inventory.n_files, inventory.n_cached)
    cache.keep(found)
    return found


def make_run(request: Request, layout: RunLayout) -> Callable[[], None]:
    """Prepare a run; what is given back saves it into its folder, which is not touched before.

    Raises
    ------
    ConfigError, MissingInputError, OutputError
        If that can not be done.
    """
    refuse_used_folder(layout)
    layout.check_parent()
    plan, config, found = prepare(request, layout)

    def save() -> None:
        refuse_used_folder(layout)  # somebody else may have had the same idea meanwhile
        save_run(layout, plan, config, found.camera)

    return save


def find_camera(name: str | None) -> Camera | None:
    """The camera the user named; None leaves it to the headers."""
    return None if name is None else load_camera(name)


def find_files(raw: Path) -> Path | list[Path]:
    """The folder to scan, or the files that a text file lists.

    Raises
    ------
    ConfigError
        If there is nothing of that name, or the list can not be read.
    """
    if raw.is_dir():
        return raw
    if not raw.exists():
        raise ConfigError("does not exist", file=raw, way_out="give a folder of raw frames")
    if raw.name.endswith((".fits", ".fits.gz", ".fits.fz", ".fit", ".fz")):
        return [raw]
    try:
        lines = raw.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "is neither a folder nor a list of files", file=raw, way_out="one path a line"
        ) from error
    listed = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return [raw.parent / path for path in listed]


def masters_folder(calibs: Path) -> Path:
    """The folder of masters in what `mpipipe calibs -o` made.

    Raises
    ------
    MissingInputError
        If there are no masters.
    """
    folder = RunLayout.at(calibs).calibs
    if not folder.is_dir():
        raise MissingInputError(
            "holds no masters", file=calibs, way_out=f"make them: mpipipe calibs RAW -o {calibs}"
        )
    return folder


def refcat_folder(refcat: Path) -> Path:
    """The folder of a reference catalogue, whose index can be read.

    Raises
    ------
    BadDataError
        If it holds none, or a damaged one.
    """
    read_index(refcat)
    return refcat.absolute()
