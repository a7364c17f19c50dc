"""The task of the phase `sources`: sources of one exposure out of a file, for association.

The file is a table of one exposure, as a flat folder has them, or the `src` of a whole run. That
has not all that association needs; its run has, in the records of its tasks.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mpipipe.data.association import SOURCE
from mpipipe.data.errors import BadDataError, ConfigError
from mpipipe.data.ids import split_source_id
from mpipipe.data.inventory import FrameFiles
from mpipipe.data.outcome import OutcomeKind
from mpipipe.run.context import RunContext, TaskResultTables
from mpipipe.run.ledger import Ledger
from mpipipe.run.plan import load_plan, load_run, require_run
from mpipipe.run.sky_plan import SOURCES
from mpipipe.run.task import Draft, Task
from mpipipe.stages.sfm.sky_rows import EXPOSURE_SRC, LATER_COLUMNS, sky_rows_of
from mpipipe.store.checksums import sha256_file
from mpipipe.store.hdf5 import opened_catalogue, read_catalogue
from mpipipe.store.layout import BOOKS, RunLayout


class _Exposure(NamedTuple):
    """One exposure in a file of sources."""

    visit: int
    ccd: str
    band: str
    n_rows: int
    path: str
    number: int
    """Of the CCD, in ids of sources; negative: there are none."""


def take_sources(task: Task, context: RunContext) -> TaskResultTables:
    """Read the sources of one exposure.

    Raises
    ------
    BadDataError
        If they can not be read.
    """
    context.enter("read")
    path = Path(task.frames[0].paths[0])
    result = TaskResultTables()
    if _is_of_exposure(path):
        rows = sky_rows_of(read_catalogue(path))
    else:
        number = _tasks_of(path).get((task.visit, task.ccd))
        if number is None:
            raise BadDataError("its run has no sources of this exposure any more", file=path)
        rows = _ledger_of(path).tables(number).get(SOURCE.name, np.zeros(0))
        if rows.dtype != SOURCE.dtype:
            raise BadDataError(
                "its run was made by another version, whose sources have other columns",
                file=path,
                way_out="mpipipe run --resume RUN --force makes them anew",
            )
    result.add_input(path, _digest(path))
    result.tables = {SOURCE.name: rows}
    return result


def source_drafts(paths: Sequence[str]) -> list[Draft]:
    """A task for each exposure that files hold sources of, by visit and CCD.

    Raises
    ------
    BadDataError
        If a file holds no sources.
    ConfigError
        If two files hold the same exposure: its sources would have the same ids, whatever its CCD
        is called.
    """
    found: dict[tuple[int, str], _Exposure] = {}
    by_ids: dict[tuple[int, int], _Exposure] = {}
    for path in paths:
        for one in _exposures(Path(path)):
            other = found.setdefault((one.visit, one.ccd), one)
            if one.number >= 0 and other is one:
                other = by_ids.setdefault((one.visit, one.number), one)
            if other is not one:
                called = (
                    "" if other.ccd == one.ccd else f", called CCD {other.ccd}: the ids are alike"
                )
                raise ConfigError(
                    f"visit {one.visit}, CCD {one.ccd} is in {other.path}, too{called}",
                    file=one.path,
                    way_out="name only one of the two",
                )
    if not found:
        raise ConfigError("no exposure in these files has sources", file=paths[0])
    drafts = []
    for one in sorted(found.values()):
        size = one.n_rows * SOURCE.dtype.itemsize
        frame = FrameFiles(
            one.visit, 0, one.ccd, "science", one.band, (one.path,), (), n_bytes=size
        )
        drafts.append(Draft(SOURCES, one.visit, one.ccd, one.band, (frame,)))
    return drafts


def _exposures(path: Path) -> Iterator[_Exposure]:
    with opened_catalogue(path) as catalogue:
        if catalogue.schema.name != "src":
            raise BadDataError(
                f"is the table {catalogue.schema.name!r}, not src",
                file=path,
                way_out="name the files src-VISIT-CCD.h5 of mpipipe process, or catalogs/src.h5 "
                "of runs",
            )
        if _has_all(catalogue.schema.dtype.names):
            facts, number = catalogue.attributes(), -1
            if catalogue.n_rows:
                (ids,) = catalogue.select(["id"]).columns
                number = split_source_id(catalogue.column(ids, slice(1))[0])[1]
            yield _Exposure(
                int(facts["visit"]), facts["ccd"], facts["band"], catalogue.n_rows, str(path),
                number,
            )  # fmt: skip
            return
    ledger = _ledger_of(path)
    camera = load_run(ledger.layout)[0].camera
    for (visit, ccd), task in _tasks_of(path).items():
        band = ledger.plan.tasks.labels_at(task)[3]
        yield _Exposure(visit, ccd, band, 0, str(path), camera.detector(ccd).number)


def _has_all(names: tuple[str, ...] | None) -> bool:
    return set(EXPOSURE_SRC.dtype.names or ()) - LATER_COLUMNS <= set(names or ())


@functools.lru_cache(maxsize=1024)
def _is_of_exposure(path: Path) -> bool:
    with opened_catalogue(path) as catalogue:
        return _has_all(catalogue.schema.dtype.names)


@functools.lru_cache(maxsize=64)
def _digest(path: Path) -> str:
    return sha256_file(path)


@functools.lru_cache(maxsize=8)
def _ledger_of(path: Path) -> Ledger:
    """The records of the run that a table is of.

    Raises
    ------
    BadDataError
        If there is no run around it.
    """
    folder = path.absolute().parent.parent
    layout = RunLayout.at(folder.parent if folder.name == BOOKS else folder)
    try:
        require_run(layout)
    except ConfigError as error:
        raise BadDataError(
            "is a table of a run without its run: it does not tell bands, times and shapes on sky",
            file=path,
            way_out="leave it in its run folder, or use the src-VISIT-CCD.h5 of mpipipe process",
        ) from error
    # What it was made with does not matter: it counts as it is.
    return Ledger.read(layout, load_plan(layout))


@functools.lru_cache(maxsize=8)
def _tasks_of(path: Path) -> dict[tuple[int, str], int]:
    """By visit and CCD, the tasks of a table's run whose records have sources."""
    ledger = _ledger_of(path)
    tasks = ledger.plan.in_phase("calibrate")
    kinds = ledger.kinds[tasks.start : tasks.stop]
    done = np.flatnonzero(np.isin(kinds, (OutcomeKind.DONE, OutcomeKind.PARTIAL)))
    labels = ledger.plan.tasks.labels_at
    return {labels(number)[1:3]: number for number in (tasks.start + done).tolist()}
