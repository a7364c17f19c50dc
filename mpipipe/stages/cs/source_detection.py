"""cs_sourceDetection: what differs between the snaps, cosmic rays and the rest.

First the hits that shape alone found are held against the difference: a hit must be brighter in
its own snap (what is sharp in both is a defect of the CCD: SUSPECT). Then the difference itself is
searched by shape: there the stars are gone, so hits on top of them show. Hits grow while the
difference is significant. What remains significant on the filtered difference has the shape of
light: movers, satellites, flares. It stays in the image, masked SNAP_DIFF or STREAK, and is listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import DTYPE, VALUE
from mpipipe.data.sdqa import Sdqa
from mpipipe.data.src import SNAP_SOURCE
from mpipipe.stages.cs import kernels
from mpipipe.stages.cs.diffim import SnapDifference
from mpipipe.stages.cs.initialize import UNUSABLE
from mpipipe.stages.footprints import grow_footprints
from mpipipe.stages.matched_filter import FilterMap, find_peaks, matched_filter, robust_width
from mpipipe.stages.seeing import Seeing
from mpipipe.stages.stage import StageConfig, stage

_CR = VALUE["CR"]


class SourceDetectionConfig(StageConfig):
    """Options of cs_sourceDetection."""

    veto_n_sigma: float = Field(
        default=2.0, ge=0, description="significance by which a hit must outshine the other snap"
    )
    min_snr: float = Field(
        default=5.5, gt=0, description="least significance of a seed on the difference"
    )
    factor: float = Field(default=0.8, gt=0, le=1, description="seeds on the difference: factor")
    n_sigma: float = Field(default=3.5, gt=0, description="seeds on the difference: significance")
    grow_rounds: int = Field(default=4, ge=0, description="rounds of growing by the difference")
    grow_n_sigma: float = Field(
        default=1.5, gt=0, description="significance of pixel and difference when growing"
    )
    threshold: float = Field(
        default=6.0, gt=0, description="sources on the filtered difference: significance"
    )
    streak_length: float = Field(
        default=12.0, gt=0, description="least length of a trail in units of the FWHM"
    )
    streak_elongation: float = Field(
        default=5.0, gt=1, description="least ratio of length to width of a trail"
    )
    max_sources: int = Field(
        default=5000, ge=1, description="most sources that are listed; the brightest are kept"
    )


@stage(
    "cs.sourceDetection",
    needs=("exposures", "seeing", "hits", "snap_differences", "snap_sources", "sdqa", "warnings"),
    adds=("exposures", "hits", "snap_sources"),
    config=SourceDetectionConfig,
)
def source_detection(
    config: SourceDetectionConfig,
    *,
    exposures: list[Exposure],
    seeing: list[Seeing],
    hits: list[np.ndarray],
    snap_differences: list[SnapDifference],
    snap_sources: np.ndarray,
    sdqa: Sdqa,
    warnings: list[str],
) -> Mapping[str, Any]:
    """Confirm and complete the cosmic rays on the difference; list what else differs."""
    if not snap_differences:
        return {"exposures": exposures, "hits": hits, "snap_sources": snap_sources}
    hits = list(hits)
    n_before = sum(len(found) for found in hits)
    _confirm(exposures, hits, snap_differences, config, sdqa)
    for difference in snap_differences:
        for snap, sign in _sides(difference):
            hits[snap] = _complete(
                exposures[snap], difference, sign, seeing[snap], hits[snap], config
            )
    tables = [
        _remaining(exposures, difference, seeing[difference.snap], config, sdqa, warnings)
        for difference in snap_differences
    ]
    sdqa.add("cs.sourceDetection.n_confirmed", sum(len(found) for found in hits), "pixel")
    sdqa.add("cs.sourceDetection.n_by_shape", n_before, "pixel")
    table = np.concatenate(tables)
    sdqa.add("cs.sourceDetection.n_sources", len(table))
    sdqa.add("cs.sourceDetection.n_streak", int(table["flag_streak"].sum()))
    return {"exposures": exposures, "hits": hits, "snap_sources": table}


def _sides(difference: SnapDifference) -> list[tuple[int, float]]:
    """Snaps whose light stands on a difference, with the sign it has there."""
    sides = [(difference.snap, 1.0)]
    return [*sides, (difference.other, -1.0)] if difference.other >= 0 else sides


def _confirm(
    exposures: list[Exposure],
    hits: list[np.ndarray],
    differences: list[SnapDifference],
    config: SourceDetectionConfig,
    sdqa: Sdqa,
) -> None:
    """Drop hits that are no brighter than the other snap; what all snaps drop is SUSPECT."""
    dropped: list[np.ndarray] = []
    for difference in differences:
        for snap, sign in _sides(difference):
            mask = exposures[snap].mask
            other = exposures[difference.other if sign > 0 else difference.snap].mask
            if difference.other < 0:
                other = mask  # the mean of all others: unusable pixels were made 0 there
            kept = hits[snap].copy()
            n = kernels.keep_brighter(
                difference.image, difference.variance, sign, config.veto_n_sigma,
                mask, other, UNUSABLE, kept, len(kept),
            )  # fmt: skip
            dropped.append(np.setdiff1d(hits[snap], kept[:n]))
            hits[snap] = kept[:n]
    common = dropped[0]
    for places in dropped[1:]:
        common = np.intersect1d(common, places)
    for exposure in exposures:
        exposure.mask.reshape(-1)[common] |= DTYPE(VALUE["SUSPECT"])
    sdqa.add("cs.sourceDetection.n_sharp_in_all", len(common), "pixel")


def _complete(
    exposure: Exposure,
    difference: SnapDifference,
    sign: float,
    seeing: Seeing,
    hits: np.ndarray,
    config: SourceDetectionConfig,
) -> np.ndarray:
    """Hits of one snap, with those the difference shows by its shape, grown by significance."""
    image, variance, mask = difference.image, difference.variance, exposure.mask
    found = np.empty(max(4 * len(hits), image.size // 50, 1000), np.int64)
    found[: len(hits)] = hits
    if sign < 0:
        np.negative(image, out=image)
    seed = (config.min_snr, config.factor, config.n_sigma)
    skip = UNUSABLE | _CR
    more = found[len(hits) :]
    n = len(hits) + kernels.find_seeds(
        image, variance, mask, skip, np.array(seeing.ratios), *seed, more
    )
    if sign < 0:
        np.negative(image, out=image)
    n = kernels.grow_by_difference(
        exposure.image, exposure.variance, image, variance, sign, mask, UNUSABLE,
        config.grow_rounds, config.grow_n_sigma, config.grow_n_sigma, found, n,
    )  # fmt: skip
    return found[:n].copy()


def _remaining(
    exposures: list[Exposure],
    difference: SnapDifference,
    seeing: Seeing,
    config: SourceDetectionConfig,
    sdqa: Sdqa,
    warnings: list[str],
) -> np.ndarray:
    """Detect on the filtered difference, set SNAP_DIFF and STREAK, return the table's rows."""
    joined = exposures[0].mask.copy()
    for exposure in exposures[1:]:
        joined |= exposure.mask
    exclude = (joined & (UNUSABLE | _CR)) != 0
    filtered = matched_filter(difference.image, difference.variance, exclude, seeing.fwhm)
    map_ = filtered.significance()
    step = max(1, map_.size // 400_000)
    width = robust_width(map_.reshape(-1)[::step][~exclude.reshape(-1)[::step]])
    snap_number = exposures[difference.snap].info.snap
    sdqa.add("cs.sourceDetection.map_width", width, snap=snap_number)
    if not np.isfinite(width):
        return SNAP_SOURCE.empty()
    tables = []
    for snap, sign in _sides(difference):
        if sign < 0:
            np.negative(map_, out=map_)
        rows = _rows(exposures, snap, map_, filtered, max(width, 1.0), joined, seeing, config)
        tables.append(rows)
    table = np.concatenate(tables)
    if len(table) > config.max_sources:
        warnings.append(f"{len(table)} sources on the snap difference: the brightest are listed")
        kept = np.sort(np.argsort(-table["snr"], kind="stable")[: config.max_sources])
        table = table[kept]
    return table


def _rows(
    exposures: list[Exposure],
    snap: int,
    map_: np.ndarray,
    filtered: FilterMap,
    width: float,
    joined: np.ndarray,
    seeing: Seeing,
    config: SourceDetectionConfig,
) -> np.ndarray:
    """Rows of the peaks of a significance map that belong to one snap; sets the mask planes."""
    y, x = find_peaks(map_, config.threshold * width, 3)
    rows = SNAP_SOURCE.empty(len(y))
    if not len(y):
        return rows
    info = exposures[snap].info
    labels, of_peak, footprints = grow_footprints(map_, 0.6 * config.threshold * width, y, x)
    streak = (footprints["length"] > config.streak_length * seeing.fwhm) & (
        footprints["elongation"] > config.streak_elongation
    )
    values = np.where(streak, VALUE["STREAK"] | VALUE["SNAP_DIFF"], VALUE["SNAP_DIFF"])
    inside = np.flatnonzero(labels)
    exposures[snap].mask.reshape(-1)[inside] |= values.astype(DTYPE)[labels.reshape(-1)[inside] - 1]
    weight = filtered.weight[y, x].astype(float)
    rows["visit"], rows["ccdNumber"], rows["snap"] = info.visit, info.detector_number, info.snap
    rows["x"], rows["y"] = x, y
    rows["snr"] = map_[y, x] / width
    rows["flux"] = map_[y, x] / np.sqrt(weight)
    rows["fluxErr"] = width / np.sqrt(weight)
    rows["length"], rows["elongation"] = (
        footprints["length"][of_peak],
        footprints["elongation"][of_peak],
    )
    rows["flag_streak"] = streak[of_peak]
    reach = max(2, round(seeing.fwhm))
    rows["flag_cr"] = near(joined, y, x, _CR, reach)
    rows["flag_masked"] = near(joined, y, x, UNUSABLE, reach)
    ny, nx = map_.shape
    margin = 2 * reach
    rows["flag_edge"] = (np.minimum(x, nx - 1 - x) < margin) | (np.minimum(y, ny - 1 - y) < margin)
    rows["flag_star"] = _on_star(exposures, y, x)
    return rows


def near(mask: np.ndarray, y: np.ndarray, x: np.ndarray, planes: int, reach: int) -> np.ndarray:
    """For each position: whether a pixel within `reach` (a square) has any of the bits."""
    ny, nx = mask.shape
    result = np.zeros(len(y), dtype=bool)
    for dy in range(-reach, reach + 1):
        rows = np.clip(y + dy, 0, ny - 1)
        for dx in range(-reach, reach + 1):
            result |= (mask[rows, np.clip(x + dx, 0, nx - 1)] & planes) != 0
    return result


def _on_star(exposures: list[Exposure], y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Whether even the faintest snap has a significant signal at the position."""
    significance = [
        exposure.image[y, x] / np.sqrt(np.maximum(exposure.variance[y, x], 1e-6))
        for exposure in exposures
    ]
    return np.asarray(np.min(significance, axis=0) > 5)
