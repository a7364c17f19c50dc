"""Synthetic visits for the tests of cs and a way to run the pipeline on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import DTYPE
from mpipipe.data.raw import FrameInfo
from mpipipe.data.sdqa import Sdqa
from mpipipe.sim.toyfield import ToyField, ToyOptions, toy_field
from mpipipe.stages import cs
from mpipipe.stages.stage import Clipboard, StageConfig, run_chain

RunCs = Callable[..., Clipboard]


@pytest.fixture(scope="session")
def run_cs() -> RunCs:
    """Run cs on copies of exposures: run_cs(exposures, configs, n_stages) -> clipboard."""

    def run(
        exposures: list[Exposure],
        configs: dict[str, StageConfig] | None = None,
        n_stages: int | None = None,
    ) -> Clipboard:
        clipboard: dict[str, Any] = {
            "exposures": [exposure.copy() for exposure in exposures],
            "pixel_scale": 0.2,
            "sdqa": Sdqa(),
            "warnings": [],
        }
        return run_chain(cs.PIPELINE[:n_stages], configs or {}, clipboard)

    return run


@pytest.fixture(scope="session")
def field() -> ToyField:
    """Two snaps of an ordinary field, 0.3 Mpixel, seeing 0.85 arcsec."""
    return toy_field(ToyOptions(), seed=1)


def flat_exposure(
    shape: tuple[int, int] = (200, 220), snap: int = 0, seed: int = 0, sky: float = 900.0
) -> Exposure:
    """Nothing but sky, in electrons, with honest variance."""
    rng = np.random.default_rng([seed, snap])
    image = sky + np.sqrt(sky + 64) * rng.standard_normal(shape)
    info = FrameInfo(
        camera="toy",
        visit=7,
        snap=snap,
        detector="S00",
        detector_number=2,
        kind="science",
        band="r",
        exposure_time=15.0,
        dark_time=15.0,
        mjd_start=60000.0,
        files=(f"snap-{snap}",),
    )
    variance = np.full(shape, sky + 64, np.float32)
    return Exposure(image.astype(np.float32), np.zeros(shape, DTYPE), variance, info)


@pytest.fixture
def flat() -> Callable[..., Exposure]:
    """Maker of exposures of empty sky."""
    return flat_exposure
