"""sa_output: what is finished in a cell becomes tables, the rest waits for its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from pydantic import Field

from mpipipe.data.association import BAD_SOURCE, BAD_SOURCE_HIST, NO_OBJECT, SOURCE, SOURCE_HIST
from mpipipe.stages.sa.segments import take_rows
from mpipipe.stages.stage import StageConfig, stage


class Cell(Protocol):
    """A part of the sky."""

    def contains(self, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
        """Whether positions (degrees) are in it."""
        ...


class OutputConfig(StageConfig):
    """What histories note."""

    processing: int = Field(
        default=0, ge=0, description="number of this processing, for the histories"
    )


@stage(
    "sa.output",
    needs=(
        "rows", "own", "reason", "group", "cluster", "merged", "object", "refraction", "cell",
    ),
    adds=("source", "object", "badSource", "sourceHist", "badSourceHist", "seam"),
    config=OutputConfig,
    always=True,
)  # fmt: skip
def output(
    config: OutputConfig,
    *,
    rows: np.ndarray,
    own: np.ndarray,
    reason: np.ndarray,
    group: np.ndarray,
    cluster: np.ndarray,
    merged: np.ndarray,
    object: np.ndarray,
    refraction: tuple[np.ndarray, np.ndarray],
    cell: Cell | None,
) -> Mapping[str, Any]:
    """Tables of the groups that are finished here; `seam` has the good own rows of the others.

    Finished are closed groups whose objects all have their centres in the cell. Tables are in
    ascending order of id.
    """
    group_of_object = group[np.searchsorted(rows["id"], object["objectId"])]
    inside = np.ones(len(object), bool)
    if cell is not None:
        inside = np.asarray(cell.contains(object["ra"], object["dec"]), bool)
    open_group = np.zeros(len(rows), bool)
    open_group[group_of_object[~inside]] = True
    good = own & (group >= 0)
    finished = good & (cluster >= 0) & ~open_group[group]
    source = take_rows(rows, finished)
    source["objectId"] = rows["id"][cluster[finished]]
    source["flag_merged"] = merged[finished]
    offset, source["flag_refraction"] = (values[finished] for values in refraction)
    source["raRefraction"], source["decRefraction"] = offset.T
    seam = take_rows(rows, good & ~finished)
    seam["objectId"] = NO_OBJECT
    bad_rows, bad = take_rows(rows, own & (group < 0)), reason[own & (group < 0)]
    return {
        "source": source,
        "object": take_rows(object, ~open_group[group_of_object]),
        "badSource": _bad_sources(bad_rows, bad),
        "sourceHist": _source_history(source, config.processing),
        "badSourceHist": _bad_history(bad_rows, bad, config.processing),
        "seam": seam,
    }


def _bad_sources(rows: np.ndarray, reason: np.ndarray) -> np.ndarray:
    columns = {column.name: rows[column.name] for column in SOURCE.columns}
    columns["objectId"] = np.full(len(rows), NO_OBJECT)
    return BAD_SOURCE.table(columns | {"reason": reason})


def _source_history(source: np.ndarray, processing: int) -> np.ndarray:
    return SOURCE_HIST.table(
        {
            "sourceId": source["id"],
            "objectId": source["objectId"],
            "visit": source["visit"],
            "mjd": source["mjd"],
            "processing": np.full(len(source), processing),
        }
    )


def _bad_history(rows: np.ndarray, reason: np.ndarray, processing: int) -> np.ndarray:
    return BAD_SOURCE_HIST.table(
        {
            "sourceId": rows["id"],
            "visit": rows["visit"],
            "mjd": rows["mjd"],
            "reason": reason,
            "processing": np.full(len(rows), processing),
        }
    )
