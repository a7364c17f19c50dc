"""The object at a place, and its measurements in the order of time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mpipipe.store.catalogue import read_cone, separations
from mpipipe.store.hdf5 import read_schema

REACH = 0.05
"""Degrees within which the measurements of an object are, however it moves: 18 arcsec a year for
ten years."""


def nearest_object(path: Path, ra: float, dec: float, radius: float) -> np.void | None:
    """The object nearest to a place (degrees); None if none is within the radius.

    Returns
    -------
    numpy.void
        Its ``objectId`` and its position, in this order.
    """
    ra_name, dec_name = read_schema(path).position
    found = read_cone(path, ra, dec, radius, ["objectId", ra_name, dec_name])
    if not len(found):
        return None
    apart = separations(found[ra_name], found[dec_name], ra, dec)
    return found[np.lexsort((found["objectId"], apart))[0]]


def measurements(path: Path, object_id: int, ra: float, dec: float) -> np.ndarray:
    """The rows of `source` of an object at a place, by time."""
    near = read_cone(path, ra, dec, REACH)
    own = near[near["objectId"] == object_id]
    return own[np.lexsort((own["id"], own["mjd"]))]
