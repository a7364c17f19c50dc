"""sfm_sourceDetection: peaks and footprints, on the image and on what models leave of it.

The map's threshold is in units of its noise, so that 5 sigma means the same on correlated noise and
on a sky full of sources too faint to be found; see `mpipipe.stages.sfm.detection_map`. Where there
is a PSF, what was found is fitted and taken off, and what that uncovers is found next; see
`mpipipe.stages.sfm.redetection`.

Peaks are connected into footprints by the map of the image itself. Fits go from source to source,
so a footprint with thousands of peaks takes no more time than as many lone sources; it gets a flag.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from mpipipe.data.exposure import Exposure
from mpipipe.data.ids import MAX_SOURCES
from mpipipe.data.mask import DTYPE, VALUE, bits, is_set
from mpipipe.data.psf import Psf
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages.detections import are_streaks
from mpipipe.stages.footprints import grow_footprints, set_planes, spread_footprints
from mpipipe.stages.matched_filter import find_peaks
from mpipipe.stages.measurement_planes import MeasurementPlanes
from mpipipe.stages.near import planes_near
from mpipipe.stages.psf_photometry import usable_pixels
from mpipipe.stages.sfm.deep_detections import DeepDetections, near_saturated
from mpipipe.stages.sfm.detection_map import DetectionMap, detection_map, residual_map
from mpipipe.stages.sfm.doubtful import count_doubtful
from mpipipe.stages.sfm.redetection import Rules, redetect, settle, take_off, take_off_more
from mpipipe.stages.stage import StageConfig, stage


class SourceDetectionConfig(StageConfig):
    """Options of sfm_sourceDetection."""

    threshold: float = Field(
        default=5.0, gt=0, description="least height of a peak in units of the map's noise"
    )
    separation: int = Field(
        default=3, ge=1, description="pixels from a peak within which it must be the highest"
    )
    local_mesh: int = Field(
        default=32, ge=0, description="side of the cells of the local background, pixels; 0: none"
    )
    local_mask: float = Field(
        default=8.0, gt=0, description="height from which the local background is masked"
    )
    passes: int = Field(
        default=3,
        ge=1,
        description="most passes: all but the first on the residuals of PSF fits of the earlier",
    )
    few: float = Field(
        default=0.1, ge=0, description="share of new sources below which no pass follows"
    )
    residual_share: float = Field(
        default=0.15, ge=0, description="share of the light taken off that counts as noise"
    )
    misfit_share: float = Field(
        default=0.75,
        ge=0,
        description="the same near extended and bright sources, in units of their model's misfit",
    )
    residual_separation: float = Field(
        default=0.5, ge=0, description="least distance between sources of two passes, FWHM"
    )
    crowded_share: float = Field(
        default=0.05, ge=0, description="residual_share in a crowd, where what is hidden are stars"
    )
    crowded_separation: float = Field(
        default=0.4, ge=0, description="residual_separation in a crowd"
    )
    crowd: tuple[float, float] = Field(
        default=(0.013, 0.023),
        description="peaks per squared FWHM from which a crowd begins, and is complete",
    )
    extended_chi2: float = Field(
        default=1.15,
        gt=0,
        description="reduced chi2 of a PSF fit from which a source counts as extended: peaks near "
        "it have to be higher than their mirror images through it",
    )
    bright_star: float = Field(
        default=300.0, gt=0, description="height from which the same holds for a point source"
    )
    grow: float = Field(
        default=0.4, ge=0, description="pixels that footprints grow by, in units of the FWHM"
    )
    streak_length: float = Field(
        default=25.0, gt=0, description="least length of a trail in units of the FWHM"
    )
    streak_elongation: float = Field(
        default=8.0, gt=1, description="least ratio of length to width of a trail"
    )


class _Peaks(NamedTuple):
    y: np.ndarray
    x: np.ndarray
    snr: np.ndarray
    found_in: np.ndarray

    def only(self, which: np.ndarray) -> _Peaks:
        return _Peaks(*(column[which] for column in self))

    def and_also(self, other: _Peaks) -> _Peaks:
        return _Peaks(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))


@stage(
    "sfm.sourceDetection",
    needs=("calexp", "planes", "psf", "sdqa", "warnings"),
    adds=("calexp", "detections"),
    config=SourceDetectionConfig,
    always=True,
)
def source_detection(
    config: SourceDetectionConfig,
    *,
    calexp: Exposure,
    planes: MeasurementPlanes,
    psf: Psf,
    sdqa: Sdqa,
    warnings: list[str],
) -> Mapping[str, Any]:
    """Find peaks above the threshold, of both signs, and set the planes `DETECTIONS`."""
    fwhm = planes.seeing.fwhm if psf.is_guess else psf.fwhm
    first = detection_map(calexp.image, planes, fwhm, config.local_mesh, config.local_mask)
    peaks, crowding = _visible(config, first, planes, fwhm)
    width = first.width
    if not psf.is_guess:
        peaks, width = _redetected(config, calexp, planes, psf, first, peaks, crowding)
    if len(peaks.y) > MAX_SOURCES:
        warnings.append(f"{len(peaks.y)} detections: the {MAX_SOURCES} most significant are kept")
        peaks = peaks.only(np.argsort(-peaks.snr, kind="stable")[:MAX_SOURCES])
    peaks = peaks.only(np.lexsort((peaks.x, peaks.y)))
    width = max(width, first.noise)
    # Undetected sources disturb a flux; nearly half of what they do is the same at every visit.
    scatter = float(np.hypot(first.noise, width) / np.sqrt(2))
    found = _with_footprints(config, calexp.mask, first, peaks, scatter, fwhm)
    _mark(calexp.mask, found)
    sdqa.add("sfm.sourceDetection.map_width", width)
    sdqa.add("sfm.sourceDetection.noise_width", first.noise)
    sdqa.add("sfm.sourceDetection.crowding", crowding)
    sdqa.add("sfm.sourceDetection.n_sources", len(found.y))
    sdqa.add("sfm.sourceDetection.n_redetected", int((found.found_in > 0).sum()))
    sdqa.add("sfm.sourceDetection.n_blended", int((found.n_peaks > 1).sum()))
    sdqa.add("sfm.sourceDetection.n_negative", _negative(calexp, first, config))
    sdqa.add("sfm.sourceDetection.n_streak", int(found.streak.sum()))
    for cause, n in count_doubtful(found, calexp.shape, fwhm, config.threshold).items():
        sdqa.add(f"sfm.sourceDetection.n_doubtful_{cause}", n)
    sdqa.add("sfm.sourceDetection.depth", 5 * first.noise * first.sigma, "electron")
    return {"calexp": calexp, "detections": found}


def _visible(
    config: SourceDetectionConfig, map_: DetectionMap, planes: MeasurementPlanes, fwhm: float
) -> tuple[_Peaks, float]:
    """Peaks of the map itself, and how crowded it is: from 0 to 1."""
    limit, separation = config.threshold * map_.noise, config.separation
    y, x = find_peaks(map_.values, limit, separation)
    area = max(float(np.count_nonzero(~planes.unusable)), 1.0) / fwhm**2
    begins, complete = config.crowd
    crowding = (len(y) / area - begins) / max(complete - begins, 1e-9)
    crowding = min(max(crowding, 0.0), 1.0)
    if crowding > 0.5:
        closer = max(1, min(separation, round(0.5 * fwhm)))
        y, x = find_peaks(map_.values, limit, closer)
    snr = map_.values[y, x].astype(float) / map_.noise
    found = _Peaks(y.astype(np.int64), x.astype(np.int64), snr, np.zeros(len(y), np.int32))
    return found, crowding


def _redetected(
    config: SourceDetectionConfig,
    calexp: Exposure,
    planes: MeasurementPlanes,
    psf: Psf,
    first: DetectionMap,
    peaks: _Peaks,
    crowding: float,
) -> tuple[_Peaks, float]:
    """The peaks and those that they hid; the least width among all maps."""
    usual = 1 - crowding
    share = usual * config.residual_share + crowding * config.crowded_share
    separation = usual * config.residual_separation + crowding * config.crowded_separation
    rules = Rules(
        config.threshold, share, config.misfit_share, separation, config.extended_chi2,
        config.bright_star, crowding,
    )  # fmt: skip
    pixels, width = usable_pixels(calexp, planes), first.width
    spoiled = _spoiled(config, calexp.mask, first, peaks, psf.fwhm)
    rest = None
    for number in range(1, config.passes):
        if not 0 < len(peaks.y) <= MAX_SOURCES:
            break
        rest = (
            take_off(pixels, psf, peaks.y, peaks.x)
            if rest is None
            else take_off_more(pixels, psf, rest, peaks.y, peaks.x)
        )
        after = residual_map(rest.image, planes, psf.fwhm, first)
        y, x, snr, noise, now = redetect(first, after, planes.unusable, rest.fits, psf.fwhm, rules)
        sound = ~spoiled(y, x)
        y, x, kept = settle(pixels, psf, rest, y[sound], x[sound], noise, rules)
        new = _Peaks(y, x, snr[sound], np.full(len(y), number, np.int32)).only(kept)
        peaks, width = peaks.and_also(new), min(width, now)
        if len(new.y) <= config.few * len(peaks.y):
            break
    return peaks, width


def _spoiled(
    config: SourceDetectionConfig,
    mask: np.ndarray,
    map_: DetectionMap,
    peaks: _Peaks,
    fwhm: float,
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Whether positions lie on a trail or a saturated core, which models do not take off."""
    limit = config.threshold * map_.noise
    labels, _, footprints = grow_footprints(map_.values, limit, peaks.y, peaks.x)
    streak = are_streaks(footprints, config.streak_length * fwhm, config.streak_elongation)
    is_streak = np.concatenate([[False], streak])

    def spoiled(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        on_trail = is_set(planes_near(mask, y, x, 2 * fwhm), "STREAK") | is_streak[labels[y, x]]
        return np.asarray(on_trail | is_set(planes_near(mask, y, x, fwhm), "SAT"))

    return spoiled


def _with_footprints(
    config: SourceDetectionConfig,
    mask: np.ndarray,
    map_: DetectionMap,
    peaks: _Peaks,
    scatter: float,
    fwhm: float,
) -> DeepDetections:
    limit = config.threshold * map_.noise
    labels, of_peak, footprints = grow_footprints(map_.values, limit, peaks.y, peaks.x)
    streak = are_streaks(footprints, config.streak_length * fwhm, config.streak_elongation)
    footprints = spread_footprints(labels, footprints, round(config.grow * fwhm))
    saturated = near_saturated(mask, peaks.y, peaks.x, fwhm)
    return DeepDetections(
        peaks.y, peaks.x, peaks.snr, of_peak, footprints, streak, scatter, peaks.found_in,
        saturated, labels,
    )  # fmt: skip


def _mark(mask: np.ndarray, found: DeepDetections) -> None:
    """Set the planes of detected pixels; in place."""
    values = np.where(found.streak, bits("DETECTED", "DETECTED_STREAK"), VALUE["DETECTED"])
    set_planes(mask, found.labels, values.astype(DTYPE))


def _negative(calexp: Exposure, map_: DetectionMap, config: SourceDetectionConfig) -> int:
    """Count negative peaks and set DETECTED_NEGATIVE."""
    limit = config.threshold * map_.noise
    values = -map_.values
    y, x = find_peaks(values, limit, config.separation)
    if len(y):
        labels, _, footprints = grow_footprints(values, limit, y, x)
        value = np.full(len(footprints), VALUE["DETECTED_NEGATIVE"], DTYPE)
        set_planes(calexp.mask, labels, value)
    return len(y)
