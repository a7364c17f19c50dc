"""Normalise: flats of all CCDs of a camera to the camera's mean response."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mpipipe.data.masters import MasterFrame


def camera_factors(levels: Mapping[str, float]) -> dict[str, float]:
    """What each CCD's flat (mean 1) is to be multiplied by.

    The lamp shines on all CCDs alike, so the level of one over the median of all is its
    response. With one CCD it is 1.

    Parameters
    ----------
    levels
        CCD to `MasterFrame.level` of its flat, all of one band and the same exposures.
    """
    usable = [level for level in levels.values() if np.isfinite(level) and level > 0]
    if not usable:
        return dict.fromkeys(levels, 1.0)
    middle = float(np.median(usable))
    return {
        ccd: level / middle if np.isfinite(level) and level > 0 else 1.0
        for ccd, level in levels.items()
    }


def scale_flat(master: MasterFrame, factor: float) -> MasterFrame:
    """The flat brought to `factor`; doing it twice is the same as once."""
    if master.kind != "flat" or master.image is None:
        raise ValueError(f"a {master.kind} is not scaled")
    ratio = np.float32(factor / master.factor)
    variance = None if master.variance is None else master.variance * ratio * ratio
    return replace(master, image=master.image * ratio, variance=variance, factor=factor)
