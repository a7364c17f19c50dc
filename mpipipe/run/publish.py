"""From committed records to catalogues: every table once, rows in the order of tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mpipipe.data.errors import MpipipeError, OutputError
from mpipipe.data.schema import Schema
from mpipipe.parallel import injection
from mpipipe.parallel.together import fail_together, on_master
from mpipipe.parallel.world import World
from mpipipe.run.ledger import Ledger
from mpipipe.run.phases import PHASES
from mpipipe.run.plan import Plan
from mpipipe.stages.sfm.forced_table import FORCED_SRC
from mpipipe.store.hdf5 import publish_catalogue
from mpipipe.store.layout import RunLayout


def publish_tables(world: World, layout: RunLayout, ledger: Ledger, plan: Plan) -> list[str]:
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
    on_master(world, lambda: _make_folder(layout.catalogue("any").parent))
    for name in sorted(schemas):
        injection.here("publish")
        rows = _rows(ledger, share, schemas[name])
        try:
            publish_catalogue(world, layout.catalogue(name), schemas[name], rows)
        except MpipipeError as error:
            fail_together(error)
    return sorted(schemas)


def _make_folder(folder: Path) -> int:
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
