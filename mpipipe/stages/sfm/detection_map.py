"""The map on which sources are found: significance of a point source at every pixel.

The filter is a Gaussian of the PSF's FWHM: with a real PSF's wings that keeps 99.6 % of the SNR
that the PSF itself would give, and costs two short sums a pixel.

For detection only, a background of small cells is taken off: it removes peaks in the halos of
bright stars and large galaxies, and its light counts as noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpipipe.data.background import Background
from mpipipe.stages.matched_filter import FilterMap, matched_filter, tail_width
from mpipipe.stages.measurement_planes import MeasurementPlanes
from mpipipe.stages.mesh import mesh_background

_SAMPLES = 400_000


@dataclass(frozen=True)
class DetectionMap:
    """Significance of point sources.

    Attributes
    ----------
    values
        (ny, nx) float32, local background taken off; 0 where no pixel is usable.
    width
        Width of the map's noise, at least 1: the lower tail's, which sources hardly touch.
    sigma
        Median standard error of the filter's flux, electrons; NaN if no pixel is usable.
    local
        The local background; None if there is none.
    dimming
        (ny, nx) float32, what its light lowers the map by; None without.
    """

    values: np.ndarray
    width: float
    sigma: float
    local: Background | None
    dimming: np.ndarray | None


def detection_map(
    image: np.ndarray, planes: MeasurementPlanes, fwhm: float, mesh: int, bright: float
) -> DetectionMap:
    """Filter an image.

    Parameters
    ----------
    image
        (ny, nx) float32, electrons.
    fwhm
        Of the filter, pixels.
    mesh
        Side of the cells of the local background, pixels; 0: none.
    bright
        Height, in widths, of pixels that the local background leaves out.
    """
    filtered = matched_filter(image, planes.variance, planes.unusable, fwhm)
    map_ = filtered.significance()
    local = None
    if mesh:
        exclude = planes.unusable | (map_ > bright * noise_width(map_, planes.unusable))
        local, filled = mesh_background(image, exclude, mesh)
        local.values[:] = np.maximum(local.values, 0)  # holes are those of noise
        local = local if filled < 1.0 else None
    dimming = None if local is None else _dimming(planes.variance, local)
    return _finished(filtered, planes, local, dimming)


def residual_map(
    image: np.ndarray, planes: MeasurementPlanes, fwhm: float, first: DetectionMap
) -> DetectionMap:
    """The map of an image from which sources were taken off, with the local background as `first`.

    That shows what hides in the sources alone: a new background would follow the misfits.
    """
    filtered = matched_filter(image, planes.variance, planes.unusable, fwhm)
    return _finished(filtered, planes, first.local, first.dimming)


def _finished(
    filtered: FilterMap,
    planes: MeasurementPlanes,
    local: Background | None,
    dimming: np.ndarray | None,
) -> DetectionMap:
    if local is not None:
        filtered.subtract(local)
    map_ = filtered.significance()
    if dimming is not None:
        map_ *= dimming
    width = noise_width(map_, planes.unusable)
    return DetectionMap(map_, width, _flux_error(filtered, planes), local, dimming)


def noise_width(map_: np.ndarray, exclude: np.ndarray) -> float:
    """Width of a map's lower tail where it is not excluded; at least 1."""
    step = max(1, map_.size // _SAMPLES)
    width = tail_width(map_.reshape(-1)[::step][~exclude.reshape(-1)[::step]])
    return max(width, 1.0) if np.isfinite(width) else 1.0


def _flux_error(filtered: FilterMap, planes: MeasurementPlanes) -> float:
    step = max(1, filtered.weight.size // _SAMPLES)
    weight = filtered.weight.reshape(-1)[::step]
    weight = weight[~planes.unusable.reshape(-1)[::step] & (weight > 0)]
    return float(1 / np.sqrt(np.median(weight))) if weight.size else float("nan")


def _dimming(variance: np.ndarray, local: Background) -> np.ndarray:
    """What the map is lowered by where the local background's own photons add noise."""
    factor = np.empty(variance.shape, np.float32)
    for first, band in local.bands():
        rows = slice(first, first + len(band))
        sky = variance[rows]
        np.maximum(band, 0, out=band)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(sky > 0, sky / (sky + band), np.float32(1))
        np.sqrt(share, out=factor[rows])
    return factor
