"""Which HEALPix cells (nested, ICRS) a cone touches.

Cells come from cdshealpix. Whether a cone touches them is decided here, by circles around them:
cdshealpix's own covers of a cone miss a cell at the rim now and then.
"""

from __future__ import annotations

import numpy as np

from mpipipe.data.sky_cells import FINEST

_REFINEMENT = 3
"""Orders by which cells at the rim of a cone are divided to see whether it touches them."""

_WIDEST = 1.07
"""Distance from a cell's centre to its farthest corner, radians times 2**order, at most (from the
corners of cells at declination asin(2/3), Gorski et al. 2005: 0.841 at order 0, 1.069 in the
limit)."""


def touches_cone(
    cells: np.ndarray, orders: np.ndarray, ra: float, dec: float, radius: float
) -> np.ndarray:
    """Whether each cell has a point in a cone; some that come close to its rim have none.

    Parameters
    ----------
    cells, orders
        (n,) int64.
    ra, dec, radius
        Degrees.

    Returns
    -------
    numpy.ndarray
        (n,) bool.
    """
    touched = _circle_touches(cells, orders, ra, dec, radius)
    near = np.flatnonzero(touched)
    shift = np.minimum(_REFINEMENT, FINEST - orders[near])
    n_parts = 1 << (2 * shift)
    parts = np.repeat(cells[near] << (2 * shift), n_parts)
    parts += np.arange(len(parts)) - np.repeat(np.cumsum(n_parts) - n_parts, n_parts)
    orders_of_parts = np.repeat(orders[near] + shift, n_parts)
    touched_parts = _circle_touches(parts, orders_of_parts, ra, dec, radius)
    touched[near] = np.bincount(np.repeat(np.arange(len(near)), n_parts), touched_parts) > 0
    return touched


def _circle_touches(
    cells: np.ndarray, orders: np.ndarray, ra: float, dec: float, radius: float
) -> np.ndarray:
    """Whether the circle around each cell touches a cone."""
    reach = np.radians(radius) + _WIDEST / (1 << orders)
    chord = 2.0 * np.sin(np.minimum(reach, np.pi) / 2.0)
    apart = _centres(cells, orders) - unit_vectors(ra, dec)[:, np.newaxis]
    return np.asarray(np.sum(apart**2, axis=0) <= chord**2 + 1e-15)


def _centres(cells: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Unit vectors to the centres of cells, (3, n)."""
    from cdshealpix.nested import healpix_to_lonlat

    if not len(cells):
        return np.zeros((3, 0))
    lon, lat = healpix_to_lonlat(cells.astype(np.uint64), orders.astype(np.uint8))
    return unit_vectors(lon.to_value("deg"), lat.to_value("deg"))


def unit_vectors(ra: np.ndarray | float, dec: np.ndarray | float) -> np.ndarray:
    """Unit vectors (3, ...) to positions in degrees."""
    ra, dec = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
