"""cs_backgroundEstimation: take a first, coarse background off each snap.

Sources are not masked yet: the level comes out a per cent of a faint star too high, which the
combined exposure mends (`masked_background`). Bright extended objects must not pass for sky, or
they would be lost: cells that stand out of the smooth run of the sky are pulled back to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import Field

from mpipipe.data.background import Background
from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import VALUE
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages.cs.initialize import UNUSABLE
from mpipipe.stages.mesh import mesh_background
from mpipipe.stages.stage import StageConfig, stage

_NO_DATA = VALUE["NO_DATA"]
_LEAST_CELLS = 8


class BackgroundEstimationConfig(StageConfig):
    """Options of cs_backgroundEstimation."""

    mesh: int = Field(default=128, ge=16, description="side of a background cell in pixels")
    remove_bumps: bool = Field(
        default=True,
        description="pull cells that stand out of a quadratic surface back to it: large galaxies",
    )


@stage(
    "cs.backgroundEstimation",
    needs=("exposures", "snap_backgrounds", "sdqa", "warnings"),
    adds=("exposures", "snap_backgrounds"),
    config=BackgroundEstimationConfig,
)
def background_estimation(
    config: BackgroundEstimationConfig,
    *,
    exposures: list[Exposure],
    snap_backgrounds: list[Background],
    sdqa: Sdqa,
    warnings: list[str],
) -> Mapping[str, Any]:
    """Subtract the first-pass background from each snap, in place."""
    backgrounds = []
    for exposure in exposures:
        snap = exposure.info.snap
        exclude = (exposure.mask & UNUSABLE) != 0
        background, filled = mesh_background(exposure.image, exclude, config.mesh)
        if filled == 1.0:
            warnings.append(f"snap {snap}: no pixel to measure the background on; taken as 0")
        elif config.remove_bumps:
            background = without_bumps(background)
        background.subtract_from(exposure.image)
        exposure.image[(exposure.mask & _NO_DATA) != 0] = 0
        sdqa.add("cs.backgroundEstimation.level", background.level, "electron", snap=snap)
        sdqa.add("cs.backgroundEstimation.rms", background.rms, "electron", snap=snap)
        backgrounds.append(background)
    return {"exposures": exposures, "snap_backgrounds": backgrounds}


def without_bumps(background: Background) -> Background:
    """Cells far above a robust quadratic surface get the surface's value.

    "Far" is more than five times the scatter of the cells, and more than 0.3 of the sky's noise.
    Backgrounds of fewer than 8 cells on a side are left as they are: too few to tell a galaxy from
    a gradient.
    """
    my, mx = background.values.shape
    if min(my, mx) < _LEAST_CELLS:
        return background
    y, x = np.meshgrid(np.linspace(-1, 1, my), np.linspace(-1, 1, mx), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)
    values = background.values.ravel()
    # The lower half is sky even when a galaxy covers much of the frame; cells that agree with
    # what is fitted to it come back.
    keep = values <= np.median(values)
    fit, scatter = values, 0.0
    for _ in range(20):
        fit = terms @ np.linalg.lstsq(terms[keep], values[keep], rcond=None)[0]
        residual = values - fit
        scatter = 1.4826 * float(np.median(np.abs(residual[keep])))
        kept = residual < max(4 * scatter, 1e-6)
        if kept.sum() < 10 or np.array_equal(kept, keep):
            break
        keep = kept
    limit = np.maximum(5 * scatter, 0.3 * np.nan_to_num(background.sigma.ravel()))
    tamed = np.where(values - fit > limit, np.maximum(fit, values.min()), values)
    return replace(background, values=tamed.reshape(my, mx))
