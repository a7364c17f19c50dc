"""A survey small enough for every test."""

from __future__ import annotations

from typing import Any

import pytest

from mpipipe.sim.survey import Survey, preset

SMALLEST: dict[str, Any] = {
    "n_ccds": 1,
    "n_visits": 1,
    "bands": ("r",),
    "n_bias": 1,
    "n_dark": 1,
    "flat_levels": (2e4,),
    "flats_per_level": 1,
    "galaxy_mag_max": 25.5,
}


@pytest.fixture
def survey() -> Survey:
    """One CCD of 512 x 500, one visit, one frame of each kind."""
    return preset("tiny", **SMALLEST)
