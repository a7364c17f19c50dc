"""The tasks of the association: one sky cell, and all that lies across the borders of cells."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mpipipe.data.association import BAD_SOURCE, BAD_SOURCE_HIST, SOURCE, SOURCE_HIST, object_schema
from mpipipe.data.errors import BadDataError, OutputError
from mpipipe.data.schema import Schema
from mpipipe.data.sky_cells import SkyCell
from mpipipe.run.context import RunContext, TaskResultTables
from mpipipe.run.pipelines import PER_CELL
from mpipipe.run.sky_plan import SkyPlan, read_sky_plan
from mpipipe.run.task import Task
from mpipipe.stages.stage import Clipboard, run_chain
from mpipipe.store.cell_rows import read_cell_rows
from mpipipe.store.checksums import sha256_file


def sky_schemas(bands: tuple[str, ...]) -> tuple[Schema, ...]:
    """The tables that the association gives, for a survey in these bands."""
    return SOURCE, object_schema(bands), BAD_SOURCE, SOURCE_HIST, BAD_SOURCE_HIST


def associate(task: Task, context: RunContext) -> TaskResultTables:
    """Associate the sources of one cell; those that may belong with others' are handed on.

    Raises
    ------
    OutputError
        If the cell's rows are missing or damaged.
    """
    sky = read_sky_plan(context.layout)
    result = TaskResultTables()
    rows, own = _rows(sky, task.id, context, result)
    return _run(sky, rows, own, sky.cell(task.id), context, result)


def seams(task: Task, context: RunContext) -> TaskResultTables:
    """Associate what all cells have handed on, and say what is wrong with sources without a place.

    Raises
    ------
    MpipipeError
        If a record or the file of rows without a position is missing or damaged.
    """
    sky = read_sky_plan(context.layout)
    result = TaskResultTables()
    nowhere, _ = _rows(sky, sky.seams_task, context, result)
    rows = np.concatenate([nowhere, *_handed_on(sky, context)])
    rows = rows[np.argsort(rows["id"], kind="stable")]
    return _run(sky, rows, np.ones(len(rows), dtype=bool), None, context, result)


def _rows(
    sky: SkyPlan, number: int, context: RunContext, result: TaskResultTables
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a cell, noted as input.

    Raises
    ------
    OutputError
        If they are not those that the plan tells of: another attempt may find them.
    """
    context.enter("read")
    path = context.layout.cell_rows(sky.name(number))
    try:
        found = read_cell_rows(path)
        if sha256_file(path).encode() != sky.digests[number]:
            raise BadDataError("is not the file of these sky cells", file=path)
    except (BadDataError, OSError) as error:
        raise OutputError(
            f"can not be used: {error}", file=path, way_out="resume: the sources are gathered anew"
        ) from error
    result.add_input(path, sky.made_of(number).decode())
    return found


def _handed_on(sky: SkyPlan, context: RunContext) -> Iterator[np.ndarray]:
    """What each cell has handed on, in the order of cells."""
    assert context.handover is not None
    for number in range(len(sky.cells)):
        yield context.handover.tables(number)["seam"]


def _run(
    sky: SkyPlan,
    rows: np.ndarray,
    own: np.ndarray,
    cell: SkyCell | None,
    context: RunContext,
    result: TaskResultTables,
) -> TaskResultTables:
    clipboard: Clipboard = {
        "rows": rows,
        "own": own,
        "cell": cell,
        "bands": sky.bands,
        "fwhm": sky.fwhm,
        "years": sky.years,
    }
    run_chain(PER_CELL, context.stage_configs, clipboard, **context.hooks())
    names = [schema.name for schema in sky_schemas(sky.bands)]
    result.tables = {name: clipboard[name] for name in [*names, "seam"]}
    return result
