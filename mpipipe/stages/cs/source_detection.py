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
from mpipipe.stages.cs.masked_background import draw_discs
from mpipipe.stages.footprints import grow_footprints
from mpipipe.stages.matched_filter import FilterMap, find_peaks, matched_filter, robust_width
from mpipipe.stages.near import brightest_near, planes_near
from mpipipe.stages.seeing import Seeing
from mpipipe.stages.stage import StageConfig, stage

_CR = VALUE["CR"]
_HOLE = 1 << 29
"""Marks, for the time of a search, what another snap's hits spoil of the difference."""


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
    lit_n_sigma: float = Field(
        default=5.5,
        gt=0,
        description="seeds on the difference: n_sigma on bright light",
    )
    grow_rounds: int = Field(default=4, ge=0, description="rounds of growing by the difference")
    grow_n_sigma: float = Field(
        default=1.5, gt=0, description="significance of pixel and difference when growing"
    )
    list_sources: bool = Field(
        default=True, description="look for what differs between the snaps and is no cosmic ray"
    )
    threshold: float = Field(
        default=6.0, gt=0, description="sources on the filtered difference: significance"
    )
    residual_factor: float = Field(
        default=3.0,
        ge=0,
        description="a source must exceed this times what stars leave when seeing changes",
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
    adds=("exposures", "hits", "snap_differences", "snap_sources"),
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
    result: dict[str, Any] = {
        "exposures": exposures,
        "hits": hits,
        "snap_differences": [],  # their planes are not needed any more
        "snap_sources": snap_sources,
    }
    if not snap_differences:
        return result
    hits = list(hits)
    n_before = sum(len(found) for found in hits)
    _confirm(exposures, hits, snap_differences, config, sdqa)
    n_seeds = [0] * len(exposures)
    for difference in snap_differences:
        for snap, sign in _sides(difference):
            hits[snap], n_seeds[snap] = _complete(
                exposures, snap, difference, sign, seeing[snap], hits, config
            )
    tables = [SNAP_SOURCE.empty()]
    for difference in snap_differences if config.list_sources else ():
        tables.append(
            _remaining(exposures, difference, seeing[difference.snap], config, sdqa, warnings)
        )
    for snap, exposure in enumerate(exposures):
        hits[snap] = _spare_trails(exposure, hits[snap], n_seeds[snap])
    sdqa.add("cs.sourceDetection.n_confirmed", sum(len(found) for found in hits), "pixel")
    sdqa.add("cs.sourceDetection.n_by_shape", n_before, "pixel")
    table = np.concatenate(tables)
    sdqa.add("cs.sourceDetection.n_sources", len(table))
    sdqa.add("cs.sourceDetection.n_streak", int(table["flag_streak"].sum()))
    return result | {"hits": hits, "snap_sources": table}


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
    exposures: list[Exposure],
    snap: int,
    difference: SnapDifference,
    sign: float,
    seeing: Seeing,
    hits: list[np.ndarray],
    config: SourceDetectionConfig,
) -> tuple[np.ndarray, int]:
    """Hits of one snap, with those the difference shows by its shape, grown by significance.

    Also how many there were before growing; they come first. Where another snap was hit the
    difference has a hole, beside which any light looks sharp: there it is not searched.
    """
    image, variance = difference.image, difference.variance
    exposure, own = exposures[snap], hits[snap]
    mask = exposure.mask
    found = np.empty(max(4 * len(own), image.size // 50, 1000), np.int64)
    found[: len(own)] = own
    if sign < 0:
        np.negative(image, out=image)
    seed = (config.min_snr, config.factor, config.n_sigma, config.lit_n_sigma)
    skip = UNUSABLE | _CR | _HOLE
    more = found[len(own) :]
    holes = [places for other, places in enumerate(hits) if other != snap]
    for places in holes:
        kernels.set_around(mask, places, _HOLE, True)
    n = len(own) + kernels.find_seeds(
        image, variance, mask, skip, np.array(seeing.ratios), *seed, more
    )
    for places in holes:
        kernels.set_around(mask, places, _HOLE, False)
    if sign < 0:
        np.negative(image, out=image)
    n_seeds = n
    n = kernels.grow_by_difference(
        exposure.image, exposure.variance, image, variance, sign, mask, UNUSABLE,
        config.grow_rounds, config.grow_n_sigma, config.grow_n_sigma, found, n,
    )  # fmt: skip
    return found[:n].copy(), n_seeds


def _spare_trails(exposure: Exposure, hits: np.ndarray, n_seeds: int) -> np.ndarray:
    """Take back what growing flagged on trails, where everything is brighter than in the other."""
    flat = exposure.mask.reshape(-1)
    grown = hits[n_seeds:]
    on_trail = (flat[grown] & VALUE["STREAK"]) != 0
    flat[grown[on_trail]] &= DTYPE(~_CR)
    return np.concatenate([hits[:n_seeds], grown[~on_trail]])


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
        rows = _rows(
            exposures, difference, snap, map_, filtered, max(width, 1.0), joined, seeing, config
        )
        tables.append(rows)
    table = np.concatenate(tables)
    if len(table) > config.max_sources:
        warnings.append(f"{len(table)} sources on the snap difference: the brightest are listed")
        kept = np.sort(np.argsort(-table["snr"], kind="stable")[: config.max_sources])
        table = table[kept]
    return table


def _rows(
    exposures: list[Exposure],
    difference: SnapDifference,
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
    reach = max(2, round(seeing.fwhm))
    common = _common_light(exposures, y, x, reach)
    weight = filtered.weight[y, x].astype(float)
    flux = map_[y, x] / np.sqrt(weight)
    # What a star leaves has the star's own shape: the filter adds it up, unlike noise.
    left = config.residual_factor * difference.residual * common * filtered.ratio
    kept = flux > left
    y, x, common, weight, flux = y[kept], x[kept], common[kept], weight[kept], flux[kept]
    rows = SNAP_SOURCE.empty(len(y))
    if not len(y):
        return rows
    info = exposures[snap].info
    labels, of_peak, footprints = grow_footprints(map_, 0.6 * config.threshold * width, y, x)
    streak = (footprints["length"] > config.streak_length * seeing.fwhm) & (
        footprints["elongation"] > config.streak_elongation
    )
    _set_planes(exposures[snap].mask, labels, streak, reach)
    rows["visit"], rows["ccdNumber"], rows["snap"] = info.visit, info.detector_number, info.snap
    rows["x"], rows["y"] = x, y
    rows["snr"] = map_[y, x] / width
    rows["flux"] = flux
    rows["fluxErr"] = width / np.sqrt(weight)
    rows["length"], rows["elongation"] = (
        footprints["length"][of_peak],
        footprints["elongation"][of_peak],
    )
    rows["flag_streak"] = streak[of_peak]
    near = planes_near(joined, y, x, reach)
    rows["flag_cr"], rows["flag_masked"] = (near & _CR) != 0, (near & UNUSABLE) != 0
    ny, nx = map_.shape
    margin = 2 * reach
    rows["flag_edge"] = (np.minimum(x, nx - 1 - x) < margin) | (np.minimum(y, ny - 1 - y) < margin)
    rows["flag_star"] = common > 5 * np.sqrt(difference.variance[y, x])
    return rows


def _set_planes(mask: np.ndarray, labels: np.ndarray, streak: np.ndarray, reach: int) -> None:
    """SNAP_DIFF on all footprints; STREAK on trails, a FWHM wider for their wings."""
    inside = np.flatnonzero(labels)
    mask.reshape(-1)[inside] |= DTYPE(VALUE["SNAP_DIFF"])
    y, x = np.divmod(inside[streak[labels.reshape(-1)[inside] - 1]], mask.shape[1])
    if len(y):
        wide = np.zeros(mask.shape, dtype=bool)
        draw_discs(y, x, np.full(len(y), float(reach)), wide)
        mask[wide] |= DTYPE(VALUE["STREAK"])


def _common_light(
    exposures: list[Exposure], y: np.ndarray, x: np.ndarray, reach: int
) -> np.ndarray:
    """Brightest light that is there in all snaps, within `reach` of each position; electrons."""
    if not len(y):
        return np.empty(0)
    common = np.minimum(exposures[0].image, exposures[1].image)
    for exposure in exposures[2:]:
        np.minimum(common, exposure.image, out=common)
    return np.maximum(brightest_near(common, y, x, reach), 0)
