"""Adaptive moments."""

from __future__ import annotations

import numpy as np

from mpipipe.data.schema import Column
from mpipipe.stages.seeing import adaptive_moments
from mpipipe.stages.sfm.measurement import Scene, flag, measurement


@measurement(
    "moments",
    columns=(
        Column("ixx", "f4", "pixel2", "adaptive second moment along x", "phys.size"),
        Column("iyy", "f4", "pixel2", "adaptive second moment along y", "phys.size"),
        Column("ixy", "f4", "pixel2", "adaptive mixed second moment", "phys.size"),
        flag("shape", "the adaptive moments failed: they are the image's typical"),
    ),
)
def measure_moments(scene: Scene, src: np.ndarray) -> None:
    """Second moments under the Gaussian that matches them."""
    seeing = scene.planes.seeing
    start = (seeing.ixx * seeing.iyy - seeing.ixy**2) ** 0.25
    found = adaptive_moments(scene.image, scene.planes.unusable, src["y"], src["x"], start)
    failed = found["state"] != 0
    for name in ("ixx", "iyy", "ixy"):
        src[name] = np.where(failed, getattr(seeing, name), found[name])
    src["flag_shape"] = failed
