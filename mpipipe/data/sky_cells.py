"""Sky cells: HEALPix pixels (nested, ICRS) that own pieces of the sky (Gorski 2005, ApJ 622, 759).

Cells of one set do not overlap, and each has the order that its piece needs: coarse where rows are
few, fine where they are many. A row belongs to the cell that its position is in; cells that come
within a radius of it hold it in their halo.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mpipipe.data.errors import ConfigError

FINEST = 29
"""The highest order: pixels of 0.4 mas."""

SMALLEST_CELL = 11
"""Order of the smallest cells: 1.7 arcmin."""

NOWHERE = -1
"""Finest pixel of a row without a position, and the number of a cell that is not in a set."""

_SIDE_DEG = float(np.degrees(np.sqrt(np.pi / 3.0)))
"""Side of a square of the area of a pixel of order 0, degrees."""

_REACH = 0.5
"""A pixel and its neighbours hold all that is within this share of a pixel's side of a point in it
(tried: 0.6 holds at all orders, poles and corners of the base pixels included)."""


def finest_cells(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """The pixels of order 29 at positions in degrees, (n,) int64; `NOWHERE` where one is NaN."""
    from astropy import units as u
    from astropy.coordinates import Latitude, Longitude
    from cdshealpix.nested import lonlat_to_healpix

    ra, dec = np.asarray(ra, dtype=np.float64), np.asarray(dec, dtype=np.float64)
    known = np.isfinite(ra) & (np.abs(dec) <= 90.0)
    found = np.full(ra.shape, NOWHERE, dtype=np.int64)
    if known.any():
        where = Longitude(ra[known], u.deg), Latitude(dec[known], u.deg)
        found[known] = np.asarray(lonlat_to_healpix(*where, FINEST)).astype(np.int64)
    return found


def parents(finest: np.ndarray, order: int) -> np.ndarray:
    """The pixels of an order that hold these pixels of order 29."""
    return finest >> (2 * (FINEST - order))


def choose_cells(pixels: np.ndarray, counts: np.ndarray, max_rows: int) -> SkyCells:
    """The coarsest cells that hold no more than so many rows, where there are any.

    Parameters
    ----------
    pixels
        (n,) int64, different pixels of order `SMALLEST_CELL`; in any order.
    counts
        (n,) int64, rows in each. One that has more than `max_rows` becomes a cell as it is.
    """
    order_of = np.full(len(pixels), SMALLEST_CELL, dtype=np.int64)
    ranked = np.argsort(pixels, kind="stable")
    pixels, counts = pixels[ranked], counts[ranked]
    for order in range(SMALLEST_CELL - 1, -1, -1):
        ancestors = pixels >> (2 * (SMALLEST_CELL - order))
        first = np.flatnonzero(np.diff(ancestors, prepend=-1))
        sums = np.add.reduceat(counts, first) if len(first) else counts
        lengths = np.diff(np.append(first, len(pixels)))
        order_of[np.repeat(sums <= max_rows, lengths)] = order
    cells = pixels >> (2 * (SMALLEST_CELL - order_of))
    keep = np.ones(len(cells), dtype=bool)
    keep[1:] = (np.diff(cells) != 0) | (np.diff(order_of) != 0)
    return SkyCells(order_of[keep], cells[keep])


@dataclass(frozen=True, eq=False)
class SkyCells:
    """Cells that do not overlap, along the nested order of pixels.

    Attributes
    ----------
    orders, pixels
        (n,) int64, HEALPix order of each cell and its pixel of that order.
    """

    orders: np.ndarray
    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.orders)

    def name(self, number: int) -> str:
        """What people and files call a cell, e.g. ``5-1234``; the number behind the last is that of
        the rows without a position."""
        if number == len(self):
            return "nowhere"
        return f"{self.orders[number]}-{self.pixels[number]}"

    @cached_property
    def _begins(self) -> np.ndarray:
        return self.pixels << (2 * (FINEST - self.orders))

    @cached_property
    def _ends(self) -> np.ndarray:
        return (self.pixels + 1) << (2 * (FINEST - self.orders))

    def owners(self, finest: np.ndarray) -> np.ndarray:
        """Numbers of the cells that these pixels of order 29 are in, `NOWHERE` for none."""
        if not len(self):
            return np.full(np.shape(finest), NOWHERE, dtype=np.int64)
        found = np.searchsorted(self._begins, finest, side="right") - 1
        inside = (found >= 0) & (finest < self._ends[found])
        return np.asarray(np.where(inside, found, NOWHERE))

    def preceding(self, finest: np.ndarray) -> np.ndarray:
        """Numbers of the cells that pixels of order 29 are in or come behind; the first's if none.

        There must be a cell.
        """
        found = np.searchsorted(self._begins, finest, side="right") - 1
        return np.asarray(np.maximum(found, 0))

    def halos(self, finest: np.ndarray, radius_deg: float) -> tuple[np.ndarray, np.ndarray]:
        """Which other cells may come within a radius of rows.

        None that does is left out; some that are a little farther away are there.

        Parameters
        ----------
        finest
            (n,) int64, pixels of order 29 that the rows are in.
        radius_deg
            At most half a side of the smallest cells, 51 arcsec.

        Returns
        -------
        rows, cells
            Pairs of numbers, ascending.
        """
        from cdshealpix.nested import neighbours

        order = order_for(radius_deg)
        around, back = np.unique(parents(finest, order), return_inverse=True)
        ring = np.asarray(neighbours(around.astype(np.uint64), order)).astype(np.int64)
        cells = np.where(ring >= 0, self.owners(ring << (2 * (FINEST - order))), NOWHERE)
        # A pixel's ring is its cell's own nearly always, so rows are looked at for the rest only.
        own = self.owners(around << (2 * (FINEST - order)))
        reaches = np.any((cells != own[:, np.newaxis]) & (cells != NOWHERE), axis=1)
        rows = np.flatnonzero(reaches[back])
        targets = np.sort(cells[back[rows]], axis=1)
        new = np.ones(targets.shape, dtype=bool)
        new[:, 1:] = np.diff(targets, axis=1) != 0
        new &= (targets != NOWHERE) & (targets != own[back[rows]][:, np.newaxis])
        place, column = np.nonzero(new)
        return rows[place], targets[place, column]


def order_for(radius_deg: float) -> int:
    """The finest order whose pixels, with their neighbours, hold all within a radius of a point.

    Raises
    ------
    ConfigError
        If pixels as small as the smallest cells do not.
    """
    order = min(int(np.floor(np.log2(_REACH * _SIDE_DEG / radius_deg))), FINEST)
    if order < SMALLEST_CELL:
        raise ConfigError(
            f"a radius of {radius_deg * 3600:.3g} arcsec reaches beyond the smallest sky cells",
            key="sa.SourceClustering.link_radius",
            way_out="choose a smaller one, or look whether the FWHM of the exposures is right",
        )
    return order


@dataclass(frozen=True)
class SkyCell:
    """One cell."""

    order: int
    pixel: int

    def contains(self, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
        """Whether positions in degrees are in the cell, (n,) bool; NaN is not."""
        finest = finest_cells(ra, dec)
        return (finest != NOWHERE) & (parents(finest, self.order) == self.pixel)
