"""A tiny visit that makes every kernel of cs, ic and sfm compile."""

from __future__ import annotations

import numpy as np

from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import DTYPE, VALUE
from mpipipe.data.raw import FrameInfo
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages import ic, sfm
from mpipipe.stages.cs import PIPELINE
from mpipipe.stages.stage import Clipboard, run_chain

_SIZE = 160


def run_tiny_visit() -> None:
    """Run cs, ic and sfm on two tiny synthetic snaps, with and without master noise."""
    for with_masters in (True, False):
        clipboard: Clipboard = {
            "exposures": [_snap(number, with_masters) for number in range(2)],
            "pixel_scale": 0.2,
            "sdqa": Sdqa(),
            "warnings": [],
        }
        run_chain(PIPELINE + ic.PIPELINE + sfm.PIPELINE, {}, clipboard)


def _snap(number: int, with_masters: bool) -> Exposure:
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:_SIZE, :_SIZE]
    scene = np.full((_SIZE, _SIZE), 500.0)
    for k in range(12):
        at_x, at_y = 20 + 40 * (k % 4), 25 + 50 * (k // 4)
        scene += 3000 * np.exp(-0.5 * ((x - at_x) ** 2 + (y - at_y) ** 2) / 1.8**2)
    image = scene + rng.normal(0, np.sqrt(scene))
    image[40 + 30 * number, 60:64] += 2000  # a cosmic ray
    image[140, 10] = np.nan
    image[100:103, 100:103] += 3000 * (number == 0)  # and something that moves
    info = FrameInfo(
        camera="", visit=0, snap=number, detector="", detector_number=0, kind="science", band="",
        exposure_time=15.0, dark_time=15.0, mjd_start=float("nan"),
    )  # fmt: skip
    mask = np.zeros(scene.shape, DTYPE)
    mask[80, 80] = VALUE["SAT"]
    sigma = np.ones(scene.shape, np.float32) if with_masters else None
    variance = scene.astype(np.float32)
    return Exposure(image.astype(np.float32), mask, variance, info, master_sigma=sigma)
