"""The phases of a run: what a task of each does, and which tables it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mpipipe.data.icsrc import ICMATCH, ICSRC
from mpipipe.data.schema import SDQA, Schema
from mpipipe.data.src import SNAP_SOURCE
from mpipipe.run import masters
from mpipipe.run.associate import associate, seams
from mpipipe.run.calibrate import calibrate
from mpipipe.run.context import RunContext, TaskResultTables
from mpipipe.run.sky_plan import ASSOCIATE, SEAMS, SOURCES
from mpipipe.run.take_sources import take_sources
from mpipipe.run.task import Task
from mpipipe.stages.sfm.forced_table import FORCED_SRC
from mpipipe.stages.sfm.src_table import SRC


@dataclass(frozen=True)
class Phase:
    """All tasks of one kind.

    Attributes
    ----------
    function
        Runs one task.
    tables
        The tables it gives, which are published as catalogues. Those of the association, whose
        columns follow from the bands, are `mpipipe.run.associate.sky_schemas`.
    title
        What people read.
    """

    function: Callable[[Task, RunContext], TaskResultTables]
    tables: tuple[Schema, ...]
    title: str


PHASES: Mapping[str, Phase] = {
    "bias": Phase(masters.bias, (SDQA,), "master bias"),
    "gain": Phase(masters.gain, (SDQA,), "gain and read noise by photon transfer"),
    "dark": Phase(masters.dark, (SDQA,), "master dark"),
    "flat": Phase(masters.flat, (SDQA,), "master flat"),
    "normalise": Phase(masters.normalise, (SDQA,), "flats normalised over the camera"),
    "defects": Phase(masters.defects, (SDQA,), "defects"),
    "calibrate": Phase(
        calibrate, (SRC, ICSRC, ICMATCH, SNAP_SOURCE, FORCED_SRC, SDQA), "isr, ca, cs, ic and sfm"
    ),
    SOURCES: Phase(take_sources, (), "sources of other runs"),
    ASSOCIATE: Phase(associate, (), "sources of a sky cell to objects"),
    SEAMS: Phase(seams, (), "objects across the borders of cells"),
}
