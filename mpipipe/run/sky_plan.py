"""The plan of the association: a task a sky cell, then one for what lies across their borders.

It can not be made before the sources are measured, so it is a plan of its own, whose tasks have
numbers of their own; what they give stands in the same checkpoint. It follows from the sources
alone, not from who measured them or how many ranks there are.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass

import numpy as np

from mpipipe.data.errors import BadDataError
from mpipipe.data.sky_cells import SkyCell, SkyCells
from mpipipe.run.plan import Plan, load_plan
from mpipipe.run.task import Draft, build_table
from mpipipe.store.columnfile import map_column_file, write_column_file
from mpipipe.store.layout import RunLayout

SOURCES = "sources"
"""The phase in which the sources of other runs are read."""

ASSOCIATE, SEAMS = "associate", "seams"
SKY_PHASES = (ASSOCIATE, SEAMS)

_VERSION = 1
_START_S, _ROWS_A_S = 0.2, 2.0e5
_START_BYTES, _BYTES_A_ROW = 250_000_000, 2_000


@dataclass(frozen=True, eq=False)
class SkyPlan:
    """The cells that a run's sources are associated in.

    Attributes
    ----------
    cells
        Of the sources that have a position.
    n_own, n_halo
        (n + 1,) int64, rows of each cell and of the rim around it; the last are the sources
        without a position.
    digests
        (n + 1,) S64, SHA-256 of the file of each.
    fwhm
        Median of the exposures' PSFs, arcsec.
    years
        From the first to the last visit.
    halo_deg, max_rows
        What the halos and the cells were chosen by.
    bands
        In the camera's order.
    sources
        SHA-256 that follows from all records that the sources come from.
    """

    cells: SkyCells
    n_own: np.ndarray
    n_halo: np.ndarray
    digests: np.ndarray
    fwhm: float
    years: float
    halo_deg: float
    max_rows: int
    bands: tuple[str, ...]
    sources: str

    @property
    def seams_task(self) -> int:
        """Number of the task that comes after those of the cells."""
        return len(self.cells)

    def made_of(self, number: int) -> bytes:
        """SHA-256 that follows from all that a task's tables do: of the seams, from all cells."""
        if number != self.seams_task:
            return bytes(self.digests[number])
        return hashlib.sha256(b"".join(self.digests.tolist())).hexdigest().encode()

    def cell(self, number: int) -> SkyCell:
        """One of the cells."""
        return SkyCell(int(self.cells.orders[number]), int(self.cells.pixels[number]))

    def name(self, number: int) -> str:
        """What a cell's file is called; `seams_task` stands for the rows without a position."""
        return self.cells.name(number)

    def plan(self, raw: str) -> Plan:
        """Its tasks."""
        drafts = [Draft(ASSOCIATE, -1, self.name(n), "", ()) for n in range(len(self.cells))]
        table = build_table([*drafts, Draft(SEAMS, -1, "", "", ())])
        rows = self.n_own + self.n_halo
        table.columns["cost"][:] = _START_S + rows / _ROWS_A_S
        table.columns["memory"][:] = _START_BYTES + rows * _BYTES_A_ROW
        return Plan("calibrate", raw, None, table)


def plans_of(layout: RunLayout) -> list[Plan]:
    """The plan of a run's visits, and that of its sky once it is known.

    Raises
    ------
    BadDataError
        If the first is missing or damaged.
    """
    plans = [load_plan(layout)]
    with contextlib.suppress(BadDataError):
        plans.append(read_sky_plan(layout).plan(plans[0].raw))
    return plans


def write_sky_plan(layout: RunLayout, made: SkyPlan) -> None:
    """Write it into the run folder, in place of the one that may be there.

    Raises
    ------
    OutputError
        If it can not be written.
    """
    columns = {
        "order": made.cells.orders,
        "pixel": made.cells.pixels,
        "n_own": made.n_own,
        "n_halo": made.n_halo,
        "digest": made.digests.astype("S64"),
    }
    facts = {
        "version": _VERSION,
        "fwhm": made.fwhm,
        "years": made.years,
        "halo_deg": made.halo_deg,
        "max_rows": made.max_rows,
        "bands": made.bands,
        "sources": made.sources,
    }
    write_column_file(layout.cells, columns, facts)


def read_sky_plan(layout: RunLayout) -> SkyPlan:
    """Read it back.

    Raises
    ------
    BadDataError
        If it is missing or damaged.
    """
    columns, facts = map_column_file(layout.cells)
    try:
        if facts["version"] != _VERSION:
            raise BadDataError(f"has unknown version {facts['version']}", file=layout.cells)
        return SkyPlan(
            SkyCells(columns["order"], columns["pixel"]),
            columns["n_own"],
            columns["n_halo"],
            columns["digest"],
            float(facts["fwhm"]),
            float(facts["years"]),
            float(facts["halo_deg"]),
            int(facts["max_rows"]),
            tuple(facts["bands"]),
            str(facts["sources"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadDataError(f"is damaged: {error}", file=layout.cells) from error
