"""Local background, and blendedness."""

from __future__ import annotations

import numpy as np

from mpipipe.data.schema import Column
from mpipipe.stages.sfm.measurement import Scene, flag, measurement
from mpipipe.stages.sfm.source_stamps import Piece
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
def measure_surroundings(scene: Scene, src: np.ndarray, piece: Piece) -> None:
    """Level of the sky beside the source, and how much of its light is its neighbours'."""
    inner, outer = (radius * scene.psf.fwhm for radius in _RING)
    src["localBackground"], src["localBackgroundErr"] = local_background(
        piece.ground, piece.first, piece.x, piece.y, inner, outer
    )
    stamps = piece.common
    moments = np.stack([src[name] for name in ("ixx", "iyy", "ixy")], axis=1).astype(float)
    src["blendedness"] = blendedness(
        stamps.light, stamps.known, scene.image, piece.x, piece.y, moments
    )
    src["flag_localBackground"] = ~np.isfinite(src["localBackground"])
    src["flag_blendedness"] = ~np.isfinite(src["blendedness"])
