"""cs_reject: cosmic rays on each snap by themselves, by their shape.

Nothing but the atmosphere and optics decides what a star may look like: what is sharper than the
frame's own stars can be is no light from the sky. Thresholds and their reasons: docs of the
kernels; measured on frames themselves, see `tools/check_cr`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import DTYPE, VALUE
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages.cs import kernels
from mpipipe.stages.cs.initialize import UNUSABLE
from mpipipe.stages.seeing import Seeing, measure_seeing
from mpipipe.stages.stage import StageConfig, stage


class RejectConfig(StageConfig):
    """Options of cs_reject."""

    min_snr: float = Field(default=5.2, gt=0, description="least significance of a seed pixel")
    factor: float = Field(
        default=0.8, gt=0, le=1, description="seeds: share of the sharpest star's profile to beat"
    )
    n_sigma: float = Field(
        default=4.0, gt=0, description="seeds: significance by which the profile must be beaten"
    )
    lit_n_sigma: float = Field(
        default=5.5,
        gt=0,
        description="seeds: n_sigma where most neighbours are bright too",
    )
    grow_rounds: int = Field(default=12, ge=0, description="rounds in which tracks are followed")
    grow_lit_rounds: int = Field(
        default=3, ge=0, description="rounds in which they are followed over the light of sources"
    )
    grow_min_snr: float = Field(default=3.0, gt=0, description="least significance when following")
    grow_factor: float = Field(default=0.95, gt=0, le=1, description="factor when following")
    grow_n_sigma: float = Field(default=1.5, ge=0, description="n_sigma when following")
    max_fraction: float = Field(
        default=0.02,
        gt=0,
        lt=1,
        description="share of pixels; when more look like hits the search is not trusted",
    )


@stage(
    "cs.reject",
    needs=("exposures", "seeing", "hits", "sdqa", "warnings"),
    adds=("exposures", "seeing", "hits"),
    config=RejectConfig,
)
def reject(
    config: RejectConfig,
    *,
    exposures: list[Exposure],
    seeing: list[Seeing],
    hits: list[np.ndarray],
    sdqa: Sdqa,
    warnings: list[str],
) -> Mapping[str, Any]:
    """Measure the seeing of each snap and flag pixels sharper than it allows."""
    new_seeing, new_hits = [], []
    for exposure, default in zip(exposures, seeing, strict=True):
        exclude = (exposure.mask & UNUSABLE) != 0
        measured = measure_seeing(exposure.image, exposure.variance, exclude, default)
        snap = exposure.info.snap
        found, trusted = find_hits(exposure, measured, config)
        if not trusted:
            warnings.append(
                f"snap {snap}: more than {config.max_fraction:.1%} of the pixels look like cosmic "
                "rays: none flagged"
            )
        sdqa.add("cs.reject.fwhm", measured.fwhm, "pixel", snap=snap)
        sdqa.add("cs.reject.n_stars", measured.n_stars, snap=snap)
        sdqa.add("cs.reject.n_pixels", len(found), "pixel", snap=snap)
        new_seeing.append(measured)
        new_hits.append(found)
    return {"exposures": exposures, "seeing": new_seeing, "hits": new_hits}


def find_hits(exposure: Exposure, seeing: Seeing, config: RejectConfig) -> tuple[np.ndarray, bool]:
    """Flag the cosmic rays of one snap in its mask.

    Returns
    -------
    found
        int64, y * nx + x of the flagged pixels.
    trusted
        False if there were too many to be true: then nothing is flagged.
    """
    image, variance, mask = exposure.image, exposure.variance, exposure.mask
    ratios = np.array(seeing.ratios)
    room = max(int(config.max_fraction * image.size), 1000)
    found = np.empty(room, np.int64)
    seed = (config.min_snr, config.factor, config.n_sigma, config.lit_n_sigma)
    n = kernels.find_seeds(image, variance, mask, UNUSABLE, ratios, *seed, found)
    rounds = (config.grow_rounds, config.grow_lit_rounds)
    grow = (config.grow_min_snr, config.grow_factor, config.grow_n_sigma)
    n = kernels.grow_by_shape(image, variance, mask, UNUSABLE, ratios, *rounds, *grow, found, n)
    if n < room:
        return found[:n].copy(), True
    mask.reshape(-1)[found] &= DTYPE(~VALUE["CR"])
    return found[:0].copy(), False
