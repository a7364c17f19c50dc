"""Fluxes in footprints, divided among the sources of a blend."""

from __future__ import annotations

import numpy as np

from mpipipe.data.schema import Column
from mpipipe.stages.sfm.apertures import full_error
from mpipipe.stages.sfm.apportion import apportion
from mpipipe.stages.sfm.measurement import Flux, Scene, flag, measurement

FOOTPRINT = Flux("footprint", "flux in its footprint, of a blend the source's own part")


@measurement(
    "footprint",
    fluxes=(FOOTPRINT,),
    columns=(
        Column("parentInstFlux", "f8", "electron", "flux in the whole footprint", "phot.count"),
        flag("footprint", "no pixel of the footprint is its own, or there is no footprint"),
    ),
    joint=True,
)
def measure_footprint(scene: Scene, src: np.ndarray) -> None:
    """Light inside the footprint; in a blend each pixel is divided as the sources' models are."""
    found = scene.detections
    if found is None:
        for name in (FOOTPRINT.inst, FOOTPRINT.inst_error, "parentInstFlux"):
            src[name] = np.nan
        src["flag_footprint"] = True
        return
    is_brightest = np.zeros(len(src), bool)
    is_brightest[found.brightest()] = True
    box = np.stack([found.footprints[name] for name in ("x0", "x1", "y0", "y1")], axis=1)
    flux, sky = apportion(
        scene.image, scene.residual, scene.planes.variance, found.labels, found.footprint + 1,
        is_brightest, box[found.footprint], scene.models,
        (src["x"].copy(), src["y"].copy(), src["psfInstFlux"].astype(float)),
    )  # fmt: skip
    area = found.footprints["n_pixels"][found.footprint]
    factor = scene.factors.at(np.sqrt(area / np.pi))
    src[FOOTPRINT.inst], src[FOOTPRINT.inst_error] = flux, full_error(flux, sky, factor)
    n = len(found.footprints)
    whole = np.bincount(found.footprint, np.nan_to_num(flux), minlength=n)
    src["parentInstFlux"] = whole[found.footprint]
    src["flag_footprint"] = ~np.isfinite(flux)
