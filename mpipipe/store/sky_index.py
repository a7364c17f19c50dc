"""Rows in the order of the sky, and the index that tells where the rows of a cell are.

Cells are HEALPix, nested, ICRS, of one order for every catalogue. A row without a position is in
a cell of its own beyond the last one, so it sorts last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpipipe.data.sky_cells import FINEST, NOWHERE, finest_cells, parents
from mpipipe.store.refcat.cells import touches_cone

SKY_ORDER = 10
"""HEALPix order of the cells of an index: 3.4 arcmin across."""

UNPLACED = 12 << (2 * SKY_ORDER)
"""Cell of the rows without a position: one beyond the last cell on the sky."""


@dataclass(frozen=True)
class SkyIndex:
    """Where in a catalogue the rows of each occupied cell are.

    Attributes
    ----------
    cells
        (n,) int64, ascending; `UNPLACED` may be the last.
    first
        (n + 1,) int64: first row of each cell, and the number of rows.
    """

    cells: np.ndarray
    first: np.ndarray

    @classmethod
    def of_counts(cls, cells: np.ndarray, counts: np.ndarray) -> SkyIndex:
        """The index of rows that come as (cell, how many), in ascending order of cells.

        A cell may come several times in succession.

        Raises
        ------
        ValueError
            If the cells do not ascend.
        """
        if np.any(np.diff(cells) < 0):
            raise ValueError("rows are not in the order of their sky cells")
        is_new = np.diff(cells, prepend=-1) > 0
        starts = np.cumsum(counts) - counts
        first = np.append(starts[is_new], int(np.sum(counts)))
        return cls(cells[is_new].astype(np.int64), first.astype(np.int64))

    def near(self, ra: float, dec: float, radius: float) -> list[slice]:
        """The fewest slices of rows that hold all rows in a cone (degrees), ascending."""
        orders = np.full(len(self.cells), SKY_ORDER)
        # First by cells eight times as wide: a catalogue of the whole sky has millions of cells.
        coarse, which = np.unique(self.cells >> 6, return_inverse=True)
        wide = touches_cone(
            np.minimum(coarse, (UNPLACED >> 6) - 1), orders[: len(coarse)] - 3, ra, dec, radius
        )
        near = np.flatnonzero(wide[which] & (self.cells != UNPLACED))
        near = near[touches_cone(self.cells[near], orders[near], ra, dec, radius)]
        breaks = np.flatnonzero(np.diff(near) > 1) + 1
        runs = np.split(near, breaks) if len(near) else []
        return [slice(int(self.first[run[0]]), int(self.first[run[-1] + 1])) for run in runs]


def sky_cells(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """The cells of `SKY_ORDER` at positions in degrees, (n,) int64; `UNPLACED` without one."""
    return _cells(ra, dec, SKY_ORDER)


def sky_order(ra: np.ndarray, dec: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """What sorts rows by place on the sky, then id: rows without a position come last.

    Parameters
    ----------
    ra, dec
        (n,) degrees.
    ids
        (n,) integers, no two alike.

    Returns
    -------
    numpy.ndarray
        (n,) indices.
    """
    return np.lexsort((ids, _cells(ra, dec, FINEST)))


def _cells(ra: np.ndarray, dec: np.ndarray, order: int) -> np.ndarray:
    finest = finest_cells(ra, dec)
    return np.where(finest == NOWHERE, 12 << (2 * order), parents(finest, order))
