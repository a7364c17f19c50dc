"""The map on which sources are found: significance of a point source at every pixel.

The filter is a Gaussian of the PSF's FWHM: with a real PSF's wings that keeps 99.6 % of the SNR
that the PSF itself would give, and costs two short sums a pixel.

For detection only, a background of small cells is taken off: it removes peaks in the halos of
bright stars and large galaxies, and its light counts as noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from mpipipe.stages.matched_filter import FilterMap, filter_again, matched_filter, tail_width
from mpipipe.stages.measurement_planes import MeasurementPlanes
from mpipipe.stages.mesh import mesh_background
from mpipipe.stages.sfm.noise_correlation import noise_correlation

_SAMPLES = 400_000
_BLANK = 4.0
"""Height in widths from which a pixel belongs to a visible source."""
_DEEP = 3.5
_AGREES = 1.75
"""So many times the noise, and this factor, are seldom reached below zero. The factor is what
crowded sources do there: between them the sky is darker than its mean."""


@dataclass(frozen=True)
class DetectionMap:
    """Significance of point sources.

    Attributes
    ----------
    values
        (ny, nx) float32, local background taken off; 0 where no pixel is usable.
    width
        Width of the map, at least 1: the lower tail's, which visible sources hardly touch.
    noise
        The part of the width that is noise, at least 1: see
        `mpipipe.stages.sfm.noise_correlation`; `width` where the two can not be told apart.
    sigma
        Median standard error of the filter's flux, electrons; NaN if no pixel is usable.
    local
        (ny, nx) float32, the local background, electrons; None if there is none.
    filtered
        What it was made of.
    """

    values: np.ndarray
    width: float
    noise: float
    sigma: float
    local: np.ndarray | None
    filtered: FilterMap


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
    map_, local = filtered.significance(), None
    if mesh:
        exclude = planes.unusable | (map_ > bright * map_width(map_, planes.unusable))
        local = _local_light(image, exclude, mesh)
    if local is not None:
        map_ = filtered.significance_above(local, planes.variance)
    width = map_width(map_, planes.unusable)
    noise = _noise(map_, width, image, planes, fwhm)
    return DetectionMap(map_, width, noise, _flux_error(filtered, planes), local, filtered)


def _local_light(image: np.ndarray, exclude: np.ndarray, mesh: int) -> np.ndarray | None:
    """The local background where it is above 0, as holes are those of noise; None without any."""
    found, filled = mesh_background(image, exclude, mesh)
    if filled == 1.0:
        return None
    surface = np.empty(image.shape, np.float32)
    for first, band in found.bands():
        np.maximum(band, 0, out=surface[first : first + len(band)])
    return surface


def _noise(
    map_: np.ndarray, width: float, image: np.ndarray, planes: MeasurementPlanes, fwhm: float
) -> float:
    """The noise's part of the width, if deep negative values, which no light makes, agree.

    They do not on noise that correlates as far as light does.
    """
    blank = ~planes.unusable & (map_ < _BLANK * width)
    noise = noise_correlation(image, planes.variance, blank, fwhm)
    if not np.isfinite(noise):
        return width
    n_deep = np.count_nonzero(map_ < -_DEEP * _AGREES * max(noise, 1.0))
    expected = 0.5 * math.erfc(_DEEP / math.sqrt(2)) * np.count_nonzero(~planes.unusable)
    return width if n_deep > expected else min(max(noise, 1.0), width)


def residual_map(
    image: np.ndarray, planes: MeasurementPlanes, fwhm: float, first: DetectionMap
) -> DetectionMap:
    """The map of an image from which sources were taken off, with background and noise of `first`.

    That shows what hides in the sources alone: a new background would follow the misfits.
    """
    filtered = filter_again(first.filtered, image, planes.variance, planes.unusable, fwhm)
    if first.local is None:
        map_ = filtered.significance()
    else:
        map_ = filtered.significance_above(first.local, planes.variance)
    return replace(first, values=map_, width=map_width(map_, planes.unusable), filtered=filtered)


def map_width(map_: np.ndarray, exclude: np.ndarray) -> float:
    """Width of a map's lower tail where it is not excluded; at least 1."""
    step = max(1, map_.size // _SAMPLES)
    width = tail_width(map_.reshape(-1)[::step][~exclude.reshape(-1)[::step]])
    return max(width, 1.0) if np.isfinite(width) else 1.0


def _flux_error(filtered: FilterMap, planes: MeasurementPlanes) -> float:
    step = max(1, filtered.weight.size // _SAMPLES)
    weight = filtered.weight.reshape(-1)[::step]
    weight = weight[~planes.unusable.reshape(-1)[::step] & (weight > 0)]
    return float(1 / np.sqrt(np.median(weight))) if weight.size else float("nan")
