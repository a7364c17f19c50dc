"""A tiny sky that makes every kernel of sa compile."""

from __future__ import annotations

import numpy as np

from mpipipe.data.association import SOURCE
from mpipipe.stages.sa.associate import associate

_VISITS = 8


def run_tiny_association() -> None:
    """Associate a pair that needs exclusivity, a fast star, and a star that a halo row touches."""
    east = np.concatenate([np.zeros(_VISITS), np.full(_VISITS, 0.4), 2.0 * np.arange(_VISITS)])
    visit = np.tile(np.arange(_VISITS), 3)
    rows = SOURCE.empty(len(east))
    rows["ra"], rows["dec"] = 10.0 + east / 3600.0, np.repeat([0.0, 0.0, 0.1], _VISITS)
    rows["id"], rows["visit"] = visit * 1000 + np.arange(len(east)), visit
    rows["mjd"], rows["band"] = 60000.0 + 100.0 * visit, b"r"
    rows["raErr"] = rows["decErr"] = rows["psfFluxErr"] = 20.0
    rows["psfFlux"], rows["snr"] = 1000.0, 50.0
    rows.sort(order="id")
    own = rows["id"] != rows["id"][0]
    associate(rows, own, None, ("r", "i"), 0.8, 2.0)
