"""Fluxes in circles and Kron ellipses, with errors that know about correlated noise.

The variance plane tells the noise of single pixels. What a sum of pixels varies by is measured on
the image itself: apertures of each size on blank sky, their scatter over the predicted error. That
factor (1 for white noise; more where pixels were resampled, or the sky is confused by undetected
sources) multiplies the sky's part of every error. Photons of the source are added for its flux.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sep

from mpipipe.data.mask import VALUE
from mpipipe.data.src import APERTURES
from mpipipe.stages.matched_filter import robust_width
from mpipipe.stages.measurement_planes import MeasurementPlanes
from mpipipe.stages.near import planes_near

_MOST_BLANK = 3000
_LEAST_BLANK = 60
_CUT = sep.APER_TRUNC | sep.APER_ALLMASKED


@dataclass(frozen=True)
class NoiseFactors:
    """Scatter of blank apertures over the predicted error, by radius.

    Attributes
    ----------
    radius
        Pixels, ascending.
    factor
        At least 1.
    n_blank
        Apertures it was measured on; 0 if there was no room: then all factors are the width of
        the matched-filter map.
    """

    radius: np.ndarray
    factor: np.ndarray
    n_blank: int

    def at(self, radius: np.ndarray | float) -> np.ndarray:
        """The factor for apertures of these radii (pixels)."""
        return np.asarray(np.interp(radius, self.radius, self.factor))


def circle(
    image: np.ndarray, planes: MeasurementPlanes, x: np.ndarray, y: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums in circles: flux, error from the sky alone, and whether it was cut.

    Unusable pixels are replaced by the mean of the aperture's others.
    """
    flux, error, flag = sep.sum_circle(
        image, x, y, radius, var=planes.variance, mask=planes.unusable
    )
    return flux, error, (flag & _CUT) != 0


def noise_factors(
    image: np.ndarray, mask: np.ndarray, planes: MeasurementPlanes, map_width: float
) -> NoiseFactors:
    """Measure the factors on blank sky; deterministic positions on a grid."""
    fwhm = planes.seeing.fwhm
    radius = np.array(APERTURES) * fwhm
    reach = int(np.ceil(radius[-1])) + 1
    ny, nx = image.shape
    spacing = max(2 * reach, int(np.sqrt(ny * nx / (3 * _MOST_BLANK))))
    grid_y, grid_x = np.mgrid[reach : ny - reach : spacing, reach : nx - reach : spacing]
    y, x = grid_y.ravel(), grid_x.ravel()
    detected = np.int32(VALUE["DETECTED"] | VALUE["SAT"])
    busy = (planes_near(mask, y, x, reach) & detected) != 0
    blank = ~busy & ~planes.unusable[y, x] if len(y) else busy
    y, x = y[blank].astype(float)[:_MOST_BLANK], x[blank].astype(float)[:_MOST_BLANK]
    if len(y) < _LEAST_BLANK:
        return NoiseFactors(radius, np.full(len(radius), max(map_width, 1.0)), 0)
    factors = []
    for r in radius:
        flux, error, cut = circle(image, planes, x, y, float(r))
        sound = ~cut & (error > 0)
        width = robust_width(flux[sound] / error[sound])
        factors.append(max(width, 1.0) if np.isfinite(width) else max(map_width, 1.0))
    return NoiseFactors(radius, np.array(factors), len(y))


@dataclass(frozen=True)
class KronFluxes:
    """Kron radius (pixels), flux and error (electrons), and whether the smallest radius was taken
    or the measurement failed."""

    radius: np.ndarray
    flux: np.ndarray
    error: np.ndarray
    flag: np.ndarray


def kron_fluxes(
    image: np.ndarray,
    planes: MeasurementPlanes,
    position: tuple[np.ndarray, np.ndarray],
    moments: tuple[np.ndarray, np.ndarray, np.ndarray],
    factors: NoiseFactors,
) -> KronFluxes:
    """Fluxes in ellipses of 2.5 Kron radii (Kron 1980), at least circles of 1 FWHM.

    Parameters
    ----------
    position
        x, y.
    moments
        ixx, iyy, ixy that give the ellipse's shape.
    """
    x, y = position
    major, minor, angle = ellipse_axes(*moments)
    unit, flag = sep.kron_radius(image, x, y, major, minor, angle, 6.0, mask=planes.unusable)
    size = np.sqrt(major * minor)
    fwhm = planes.seeing.fwhm
    small = ~np.isfinite(unit) | (2.5 * unit * size < fwhm) | (flag != 0) & ~(unit > 0)
    scale = np.where(small, fwhm, np.clip(2.5 * np.nan_to_num(unit), 0, 25.0))
    a, b = np.where(small, 1.0, major), np.where(small, 1.0, minor)
    flux, error, more = sep.sum_ellipse(
        image, x, y, a, b, np.where(small, 0.0, angle), scale,
        var=planes.variance, mask=planes.unusable,
    )  # fmt: skip
    error = full_error(flux, error, factors.at(np.sqrt(a * b) * scale))
    return KronFluxes(scale * a / 2.5, flux, error, small | ((more & _CUT) != 0))


def ellipse_axes(
    ixx: np.ndarray, iyy: np.ndarray, ixy: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Half axes (pixels, one sigma) and angle (radians, -pi/2 to pi/2) of moments."""
    half, root = 0.5 * (ixx + iyy), np.hypot(0.5 * (ixx - iyy), ixy)
    major = np.sqrt(np.maximum(half + root, 0.05))
    minor = np.sqrt(np.maximum(half - root, 0.05))
    angle = 0.5 * np.arctan2(2 * ixy, ixx - iyy)
    return major, np.minimum(minor, major), angle


def full_error(flux: np.ndarray, sky_error: np.ndarray, factor: np.ndarray | float) -> np.ndarray:
    """Error of a flux (electrons): the sky's, times its factor, and the source's own photons."""
    return np.asarray(np.sqrt((factor * sky_error) ** 2 + np.maximum(flux, 0)))
