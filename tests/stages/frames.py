"""Exposures with a known sky and known stars, for the tests of stages."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpipipe.data.background import Background
from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import DTYPE
from mpipipe.data.raw import FrameInfo
from mpipipe.data.sdqa import Sdqa
from mpipipe.sim.toyfield import add_moffat
from mpipipe.stages import ic, sfm
from mpipipe.stages.stage import Clipboard, run_chain

FWHM = 4.0


def sky(shape: tuple[int, int] = (400, 420), seed: int = 0, level: float = 1000.0) -> Exposure:
    """Background-subtracted sky of this many photons."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0, np.sqrt(level), shape).astype(np.float32)
    info = FrameInfo(
        camera="toy",
        visit=20250602041014,
        snap=0,
        detector="S00",
        detector_number=3,
        kind="science",
        band="r",
        exposure_time=30.0,
        dark_time=30.0,
        mjd_start=60000.0,
    )
    return Exposure(image, np.zeros(shape, DTYPE), np.full(shape, level, np.float32), info)


def with_stars(
    exposure: Exposure, stars: list[tuple[float, float, float]], fwhm: float = FWHM, seed: int = 1
) -> Exposure:
    """Add stars (x, y, flux) with their photon noise."""
    light = np.zeros(exposure.shape)
    for x, y, flux in stars:
        add_moffat(light, x, y, flux, fwhm)
    noise = np.sqrt(light) * np.random.default_rng(seed).standard_normal(light.shape)
    exposure.image += (light + noise).astype(np.float32)
    exposure.variance += light.astype(np.float32)
    return exposure


def measured(calexp: Exposure) -> Clipboard:
    """What ic and sfm make of an exposure without a reference catalogue."""
    clipboard: dict[str, Any] = {
        "calexp": calexp,
        "background": Background.constant(0.0, calexp.shape),
        "pixel_scale": 0.2,
        "reference": None,
        "sdqa": Sdqa(),
        "warnings": [],
    }
    stages = (*ic.PIPELINE, *sfm.PIPELINE)
    return run_chain(stages, {}, clipboard, failed=lambda step, error: None)
