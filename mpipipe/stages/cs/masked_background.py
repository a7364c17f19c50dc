"""The background of an exposure with its sources masked: the level that faint stars stand on.

Wanted is not the true sky but the level at which a star's flux comes out right. Cells with
unmasked sources are too high; masking low isophotes takes the sky's own positive noise away and
comes out too low. So sources are found on the *filtered* map, and each is covered by a disc whose
radius follows from its flux: out to where its profile falls below a small share of the noise of a
pixel. The footprints above the threshold are covered too, for galaxies larger than any disc. On
crowded fields, where more than half would be masked, thresholds are raised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from mpipipe.data.background import Background
from mpipipe.stages.matched_filter import find_peaks, lower_width, matched_filter
from mpipipe.stages.mesh import mesh_background

_BETA = 3.0
_WINGS_FROM = 4.0
"""In units of the FWHM: where the profile goes over from a Moffat's into r^-3."""

_LEVELS = ((4.0, 0.05), (8.0, 0.1), (16.0, 0.2), (32.0, 0.4))
"""(threshold of the map, share of a pixel's noise), for fields more and more crowded."""


@dataclass(frozen=True)
class MaskedBackground:
    """A background and how it was found.

    Attributes
    ----------
    background
        What is left to subtract.
    masked
        Share of the usable pixels that was masked as sources.
    threshold
        Significance from which sources were masked.
    filled
        Share of the cells that had to be filled from their neighbours.
    """

    background: Background
    masked: float
    threshold: float
    filled: float


def sky_variance(variance: np.ndarray, exclude: np.ndarray, mesh: int = 128) -> Background:
    """Variance of the sky alone on a mesh: the mode of the variance plane."""
    # Every fourth pixel is plenty for a level that is good to a per cent.
    every = (slice(None, None, 2), slice(None, None, 2))
    part = np.ascontiguousarray(variance[every])
    coarse, _ = mesh_background(part, np.ascontiguousarray(exclude[every]), max(mesh // 2, 16))
    values = np.maximum(coarse.values, 1e-3 * max(coarse.level, 1e-6))
    return Background(values, coarse.sigma, (variance.shape[0], variance.shape[1]))


def disc_radius(flux: np.ndarray, level: np.ndarray, fwhm: float) -> np.ndarray:
    """Radius (pixels) at which a star of this flux falls to this level; at least 2 FWHM."""
    alpha = 0.5 * fwhm / np.sqrt(2 ** (1 / _BETA) - 1)
    centre = (_BETA - 1) / (np.pi * alpha**2)
    contrast = np.maximum(flux * centre / level, 1.0)
    moffat = alpha * np.sqrt(np.maximum(contrast ** (1 / _BETA) - 1, 0))
    start = _WINGS_FROM * fwhm
    at_start = (1 + (start / alpha) ** 2) ** -_BETA
    wings = start * np.cbrt(contrast * at_start)
    return np.maximum(np.where(moffat > start, wings, moffat), 2 * fwhm)


@njit(cache=True)
def draw_discs(y: np.ndarray, x: np.ndarray, radius: np.ndarray, plane: np.ndarray) -> None:
    """Set every pixel of `plane` (ny, nx) bool within `radius` of each position."""
    ny, nx = plane.shape
    for k in range(len(y)):
        r = radius[k]
        for j in range(max(0, int(y[k] - r)), min(ny, int(y[k] + r) + 1)):
            half = r * r - (j - y[k]) ** 2
            if half < 0:
                continue
            half = np.sqrt(half)
            first, last = max(0, int(x[k] - half)), min(nx, int(x[k] + half) + 1)
            plane[j, first:last] = True


@njit(cache=True)
def _set_above(map_: np.ndarray, threshold: float, plane: np.ndarray) -> None:
    ny, nx = map_.shape
    for y in range(ny):
        for x in range(nx):
            if map_[y, x] > threshold:
                plane[y, x] = True


def masked_background(
    image: np.ndarray,
    variance: np.ndarray,
    unusable: np.ndarray,
    saturated: np.ndarray,
    fwhm: float,
    mesh: int,
) -> MaskedBackground:
    """The background left on an image that a coarse background was already taken off.

    Parameters
    ----------
    image, variance
        (ny, nx) float32.
    unusable, saturated
        (ny, nx) bool. Saturated pixels take part in finding sources, not in the level.
    fwhm
        Pixels.
    mesh
        Side of a background cell, pixels.
    """
    sky = sky_variance(variance, unusable | saturated, mesh)
    filtered = matched_filter(image, sky.image(), unusable, fwhm)
    map_ = filtered.significance()
    dark = ~unusable
    step = max(1, map_.size // 400_000)
    width = lower_width(map_.reshape(-1)[::step][dark.reshape(-1)[::step]])
    width = max(width, 1.0) if np.isfinite(width) else 1.0
    n_usable = max(int(dark.sum()), 1)
    for threshold, share in _LEVELS:
        y, x = find_peaks(map_, threshold * width, 3)
        weight = filtered.weight[y, x].astype(float)
        flux = map_[y, x] / np.sqrt(weight)
        radius = disc_radius(flux, share * np.sqrt(sky.at(y, x)), fwhm)
        covered = unusable | saturated
        draw_discs(y, x, np.minimum(radius, 0.25 * max(image.shape)), covered)
        _set_above(map_, threshold * width, covered)
        masked = float((covered & dark).sum()) / n_usable
        if masked <= 0.5:
            break
    background, filled = mesh_background(image, covered, mesh)
    return MaskedBackground(background, masked, threshold, filled)
