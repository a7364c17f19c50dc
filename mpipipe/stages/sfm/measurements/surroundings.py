"""Local background, and blendedness."""

from __future__ import annotations

import numpy as np

from mpipipe.data.schema import Column
from mpipipe.stages.sfm.measurement import Scene, flag, measurement
from mpipipe.stages.sfm.source_stamps import each_stamps
from mpipipe.stages.sfm.surroundings import blendedness, local_background

_RING = (4.0, 6.0)
"""Radii of the ring, FWHM."""


@measurement(
    "surroundings",
    columns=(
        Column(
            "localBackground", "f4", "electron/pixel",
            "clipped mean in a ring of 4 to 6 FWHM, others taken off", "instr.background",
        ),
        Column(
            "localBackgroundErr", "f4", "electron/pixel", "standard error of localBackground",
            "stat.error;instr.background",
        ),
        Column(
            "blendedness", "f4", "", "share of the light under the source that is its neighbours'",
            "phot.flux;arith.ratio",
        ),
        flag("localBackground", "too little of the ring is known"),
        flag("blendedness", "there is no light, or no position"),
    ),
    after=("moments",),
)  # fmt: skip
def measure_surroundings(scene: Scene, src: np.ndarray) -> None:
    """Level of the sky beside the source, and how much of its light is its neighbours'."""
    inner, outer = (radius * scene.psf.fwhm for radius in _RING)
    half = int(np.ceil(outer)) + 1
    for some, stamps in each_stamps(scene, src, np.arange(len(src)), half):
        src["localBackground"][some], src["localBackgroundErr"][some] = local_background(
            stamps.light, stamps.known, stamps.x, stamps.y, inner, outer
        )
        moments = np.stack([src[name][some] for name in ("ixx", "iyy", "ixy")], axis=1)
        src["blendedness"][some] = blendedness(
            stamps.light, stamps.known, scene.image, src["x"][some], src["y"][some],
            moments.astype(float),
        )  # fmt: skip
    src["flag_localBackground"] = ~np.isfinite(src["localBackground"])
    src["flag_blendedness"] = ~np.isfinite(src["blendedness"])
