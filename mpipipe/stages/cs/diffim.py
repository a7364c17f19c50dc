"""cs_diffim: the difference of a visit's snaps, and how well its noise is understood.

Snaps follow each other at one pointing, so they subtract without any warping, and what is the same
in both - masters, scattered light, the sky's structure - cancels. PT1.2 asks that difference
imaging be validated again on snap pairs: the noise of the difference over the predicted one, and
what remains at stars, are metrics of every CCD. When seeing changes between the snaps stars do not
cancel; the share that remains is measured and goes into the noise model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import VALUE
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages.cs import planes
from mpipipe.stages.cs.initialize import UNUSABLE
from mpipipe.stages.matched_filter import robust_width
from mpipipe.stages.seeing import Seeing
from mpipipe.stages.stage import StageConfig, stage

_CR = VALUE["CR"]


@dataclass
class SnapDifference:
    """One snap minus another, or minus the mean of all others.

    Attributes
    ----------
    snap, other
        Places in the list of snaps; `other` is -1 for the mean of all others.
    image, variance
        (ny, nx) float32, electrons of `snap`; the variance includes what stars leave.
    residual
        Share of a source's light that does not cancel.
    """

    snap: int
    other: int
    image: np.ndarray
    variance: np.ndarray
    residual: float


class DiffimConfig(StageConfig):
    """Options of cs_diffim."""

    least_residual: float = Field(
        default=0.02, ge=0, description="least share of a star's light taken as not cancelling"
    )


@stage(
    "cs.diffim",
    needs=("exposures", "seeing", "snap_differences", "sdqa"),
    adds=("snap_differences",),
    config=DiffimConfig,
)
def diffim(
    config: DiffimConfig,
    *,
    exposures: list[Exposure],
    seeing: list[Seeing],
    snap_differences: list[SnapDifference],
    sdqa: Sdqa,
) -> Mapping[str, Any]:
    """Subtract the snaps from each other and compare the noise with the prediction."""
    if len(exposures) < 2:
        return {"snap_differences": []}
    pairs = [(0, 1)] if len(exposures) == 2 else [(k, -1) for k in range(len(exposures))]
    differences = []
    for snap, other in pairs:
        reference = exposures[other] if other >= 0 else _mean_of_others(exposures, snap)
        differences.append(
            _subtract(exposures[snap], reference, snap, other, seeing[snap], config, sdqa)
        )
    return {"snap_differences": differences}


def exposure_times(exposures: list[Exposure]) -> list[float]:
    """Exposure times of the snaps; all 1 if any is unknown."""
    times = [float(exposure.info.exposure_time) for exposure in exposures]
    return times if all(np.isfinite(times)) and min(times) > 0 else [1.0] * len(times)


def _mean_of_others(exposures: list[Exposure], snap: int) -> Exposure:
    """The other snaps' mean, scaled to their mean time; their masks joined."""
    others = [exposure for k, exposure in enumerate(exposures) if k != snap]
    n = np.float32(len(others))
    mean = others[0].copy()
    for other in others[1:]:
        mean.image += other.image
        mean.variance += other.variance
        mean.mask |= other.mask
    mean.image /= n
    mean.variance /= n * n
    return mean


def _subtract(
    exposure: Exposure,
    reference: Exposure,
    snap: int,
    other: int,
    seeing: Seeing,
    config: DiffimConfig,
    sdqa: Sdqa,
) -> SnapDifference:
    time, other_time = exposure_times([exposure, reference])
    scale = time / other_time
    residual = _measure(exposure, reference, scale, seeing, sdqa)
    image, variance = np.empty_like(exposure.image), np.empty_like(exposure.image)
    difference = SnapDifference(snap, other, image, variance, max(residual, config.least_residual))
    planes.subtract_scaled(
        exposure.image, exposure.variance, exposure.mask,
        reference.image, reference.variance, reference.mask,
        UNUSABLE, scale, difference.residual, image, variance,
    )  # fmt: skip
    return difference


def _measure(
    exposure: Exposure, reference: Exposure, scale: float, seeing: Seeing, sdqa: Sdqa
) -> float:
    """Metrics of a snap difference; the share of stars' light that remains (0 if unknown)."""
    snap = exposure.info.snap
    sdqa.add("cs.diffim.noise_ratio", _noise_ratio(exposure, reference, scale), snap=snap)
    residual, flux_ratio, pull = _at_stars(exposure, reference, scale, seeing)
    sdqa.add("cs.diffim.star_residual", residual, snap=snap)
    sdqa.add("cs.diffim.flux_ratio", flux_ratio, snap=snap)
    sdqa.add("cs.diffim.star_pull", pull, snap=snap)
    return residual if np.isfinite(residual) else 0.0


def _noise_ratio(exposure: Exposure, reference: Exposure, scale: float) -> float:
    """Width of difference / predicted sigma on dark sky pixels, from evenly spaced samples.

    Dark is decided on the sum of the snaps, whose noise has nothing to do with the difference's.
    """
    step = max(1, int(np.sqrt(exposure.image.size / 500_000)))
    every = (slice(None, None, step), slice(step // 2, None, step))
    own, other = exposure.image[every], np.float32(scale) * reference.image[every]
    variance = exposure.variance[every] + np.float32(scale**2) * reference.variance[every]
    joined = exposure.mask[every] | reference.mask[every]
    dark = ((joined & (UNUSABLE | _CR)) == 0) & ((own + other) ** 2 < 6.25 * variance)
    return robust_width((own - other)[dark] / np.sqrt(variance[dark]))


def _at_stars(
    exposure: Exposure, reference: Exposure, scale: float, seeing: Seeing
) -> tuple[float, float, float]:
    """What remains at stars: share of their light, ratio of fluxes, width of flux pulls.

    Over pixels within 1 FWHM of each star: the share is the root of the median over stars of
    sum(difference^2 - variance) / sum(signal^2). NaN without stars.
    """
    ny, nx = exposure.shape
    reach = max(2, round(seeing.fwhm))
    shares, ratios, pulls = [], [], []
    for x, y in zip(np.rint(seeing.x).astype(int), np.rint(seeing.y).astype(int), strict=True):
        if not (reach <= x < nx - reach and reach <= y < ny - reach):
            continue
        box = (slice(y - reach, y + reach + 1), slice(x - reach, x + reach + 1))
        if ((exposure.mask[box] | reference.mask[box]) & (UNUSABLE | _CR)).any():
            continue
        own, other = exposure.image[box].astype(float), scale * reference.image[box].astype(float)
        v = exposure.variance[box].astype(float) + scale**2 * reference.variance[box]
        d = own - other
        signal = np.maximum(np.minimum(own, other), 0)
        light = float((signal * signal).sum())
        if light <= 0 or other.sum() <= 0:
            continue
        shares.append(float((d * d - v).sum()) / light)
        ratios.append(float(own.sum() / other.sum()))
        pulls.append(float(d.sum() / np.sqrt(v.sum())))
    if not shares:
        return float("nan"), float("nan"), float("nan")
    residual = float(np.sqrt(max(float(np.median(shares)), 0.0)))
    return residual, float(np.median(ratios)), robust_width(np.array(pulls))
