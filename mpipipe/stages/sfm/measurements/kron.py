"""Kron fluxes."""

from __future__ import annotations

import numpy as np

from mpipipe.data.schema import Column
from mpipipe.stages.sfm.apertures import kron_fluxes
from mpipipe.stages.sfm.measurement import Flux, Scene, flag, measurement

KRON = Flux("kron", "flux in an ellipse of 2.5 Kron radii")


@measurement(
    "kron",
    fluxes=(KRON,),
    columns=(
        Column(
            "kronRadius",
            "f4",
            "pixel",
            "Kron radius: half major axis of the aperture / 2.5",
            "phys.size",
        ),
        flag("kron", "the Kron radius is the smallest allowed, or failed"),
    ),
    after=("moments",),
)
def measure_kron(scene: Scene, src: np.ndarray) -> None:
    """Total light as in an ellipse of 2.5 Kron radii (Kron 1980)."""
    ixx, iyy, ixy = (src[name].astype(float) for name in ("ixx", "iyy", "ixy"))
    position = src["x"].copy(), src["y"].copy()
    kron = kron_fluxes(scene.image, scene.planes, position, (ixx, iyy, ixy), scene.factors)
    src["kronRadius"], src[KRON.inst] = kron.radius, kron.flux
    src[KRON.inst_error], src["flag_kron"] = kron.error, kron.flag
