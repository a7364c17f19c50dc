"""From committed records to catalogues: every table once, rows in a fixed order.

Tables of visits are in the order of tasks; those of the association in the order of the sky.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from mpipipe.data.association import BAD_SOURCE, BAD_SOURCE_HIST, SOURCE, SOURCE_HIST
from mpipipe.data.errors import MpipipeError, OutputError
from mpipipe.data.icsrc import ICSRC
from mpipipe.data.outcome import OutcomeKind
from mpipipe.data.schema import Schema
from mpipipe.data.sky_cells import NOWHERE, finest_cells
from mpipipe.parallel import injection
from mpipipe.parallel.together import all_or_none, fail_together, on_master
from mpipipe.parallel.world import World
from mpipipe.run.associate import sky_schemas
from mpipipe.run.basis import PARTS, Basis
from mpipipe.run.ledger import NO_OUTCOME, Ledger
from mpipipe.run.origin import origin_of_table
from mpipipe.run.phases import PHASES
from mpipipe.run.plan import Plan
from mpipipe.run.sky_plan import SkyPlan
from mpipipe.stages.sfm.forced_table import FORCED_SRC
from mpipipe.stages.sfm.sky_rows import EXPOSURE_SRC, with_sky_rows
from mpipipe.store.hdf5 import Alone, publish_catalogue
from mpipipe.store.layout import RunLayout
from mpipipe.trace import events

_PARTS_BEFORE_SKY = tuple(part for part in PARTS if part != "association")


def publish_tables(
    world: World, layout: RunLayout, ledger: Ledger, plan: Plan, basis: Basis
) -> list[str]:
    """Publish every table that the plan's phases give. Collective; can be done again.

    Each rank takes an equal share of the tasks, whoever ran them, so tables do not depend on
    the number of ranks or on what happened on the way.

    Returns
    -------
    list of str
        Names of the tables, sorted.
    """
    schemas = {schema.name: schema for phase in plan.phases for schema in PHASES[phase].tables}
    if plan.forced is None:
        schemas.pop(FORCED_SRC.name, None)
    share = ledger.task_ids()[world.rank :: world.size]
    on_master(world, lambda: _make_folders(layout, schemas))
    for name in sorted(schemas):
        injection.here("publish")
        try:
            with all_or_none(world), events.span("read", f"records of {name}"):
                rows = _rows(ledger, share, schemas[name])
            is_forced = name == FORCED_SRC.name
            origin = origin_of_table(basis, _PARTS_BEFORE_SKY, is_forced=is_forced)
            with events.span("write", f"publish {name}"):
                publish_catalogue(world, layout.catalogue(name), schemas[name], rows, origin)
        except MpipipeError as error:
            fail_together(error)
    return sorted(schemas)


def publish_exposures(
    world: World, layout: RunLayout, ledger: Ledger, plan: Plan, basis: Basis
) -> list[Path]:
    """Publish `src` and `icSrc` of every visit and CCD by themselves. Collective; in a flat folder.

    Returns
    -------
    list of Path
        The files, in the order of tasks.
    """
    tasks = plan.in_phase("calibrate")
    done = [number for number in ledger.task_ids() if tasks.start <= number < tasks.stop]
    files = []
    origin = origin_of_table(basis, _PARTS_BEFORE_SKY)
    try:
        with all_or_none(world):
            for number in done:
                _, visit, ccd, band = plan.tasks.labels_at(number)
                paths = [layout.exposure_table(name, visit, ccd) for name in ("src", "icSrc")]
                tables = ledger.tables(number)
                if not {"src", "source", "icSrc"} <= set(tables):
                    for path in paths:
                        path.unlink(missing_ok=True)
                    continue
                files += paths
                if number % world.size == world.rank:
                    facts = origin | {"visit": visit, "ccd": ccd, "band": band}
                    rows = with_sky_rows(tables["src"], tables["source"]), tables["icSrc"]
                    for path, schema, found in zip(paths, (EXPOSURE_SRC, ICSRC), rows, strict=True):
                        publish_catalogue(Alone(), path, schema, {number: found}, facts)
    except MpipipeError as error:
        fail_together(error)
    return files


def publish_sky_tables(
    world: World, layout: RunLayout, ledger: Ledger, sky: SkyPlan, basis: Basis
) -> list[str]:
    """Publish the tables of the association. Collective; can be done again.

    Each rank takes an equal share of the cells. What lies across their borders stands among the
    rows of the cell that it comes behind along the order of pixels; rows without a position come
    last.

    Returns
    -------
    list of str
        Names of the tables, sorted.
    """
    schemas = {schema.name: schema for schema in sky_schemas(sky.bands)}
    origin = origin_of_table(basis, PARTS)
    on_master(world, lambda: _make_folders(layout, schemas))
    share = range(world.rank, sky.seams_task + 1, world.size)
    n_rows: dict[str, int] = {}
    for name in sorted(schemas):
        injection.here("publish")
        try:
            with all_or_none(world), events.span("read", f"records of {name}"):
                rows = _sky_rows(ledger, sky, share, schemas[name])
            by_sky = name not in _PLACED_AS
            path = layout.catalogue(name)
            with events.span("write", f"publish {name}"):
                n_rows[name] = publish_catalogue(
                    world, path, schemas[name], rows, origin, by_sky=by_sky
                )
        except MpipipeError as error:
            fail_together(error)
    n_sources = n_rows[SOURCE.name] + n_rows[BAD_SOURCE.name]
    if (ledger.kinds == OutcomeKind.DONE).all() and n_sources != sky.n_own.sum():
        lost = OutputError(
            f"{sky.n_own.sum()} sources went into the association, {n_sources} came out",
            file=layout.cells,
            way_out="resume with --force; if it stays so, it is a defect of mpipipe",
        )
        fail_together(lost)
    return sorted(schemas)


_PLACED_AS: Mapping[str, Schema] = {SOURCE_HIST.name: SOURCE, BAD_SOURCE_HIST.name: BAD_SOURCE}
"""Histories have no positions of their own: row by row they stand where what they tell of does."""


def _sky_rows(ledger: Ledger, sky: SkyPlan, share: range, schema: Schema) -> dict[int, np.ndarray]:
    """The rows that belong to each of these cells, sorted along the sky."""
    across, finest_across = _placed_rows(ledger, sky.seams_task, schema)
    places = np.full(len(across), sky.seams_task)
    if len(sky.cells):
        places = np.where(finest_across == NOWHERE, places, sky.cells.preceding(finest_across))
    found = {}
    for number in share:
        mine = places == number
        rows, finest = across[mine], finest_across[mine]
        if number != sky.seams_task:
            own, finest_own = _placed_rows(ledger, number, schema)
            rows, finest = np.concatenate([own, rows]), np.concatenate([finest_own, finest])
        ids = rows[schema.columns[0].name]
        found[number] = rows[np.lexsort((ids, finest, finest == NOWHERE))]
    return found


def _placed_rows(ledger: Ledger, task_id: int, schema: Schema) -> tuple[np.ndarray, np.ndarray]:
    """A table of a task, and the pixels of order 29 that its rows stand in.

    Nothing where the task has failed.
    """
    tables = {} if ledger.kinds[task_id] == NO_OUTCOME else ledger.tables(task_id)
    rows = tables.get(schema.name, schema.empty())
    placed = _PLACED_AS.get(schema.name, schema)
    where = tables.get(placed.name, placed.empty())
    return rows, finest_cells(where["ra"], where["dec"])


def _make_folders(layout: RunLayout, names: Iterable[str]) -> int:
    for folder in {layout.catalogue(name).parent for name in names}:
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"can not be made: {error.strerror}", file=folder) from error
    return 0


def _rows(ledger: Ledger, share: list[int], schema: Schema) -> dict[int, np.ndarray]:
    found: dict[int, np.ndarray] = {}
    for task_id in share:
        tables = ledger.tables(task_id)
        if schema.name in tables:
            found[task_id] = tables[schema.name]
    return found
