"""Fluxes in circles, with errors that know about correlated noise.

The variance plane tells the noise of single pixels. What a sum of pixels varies by is measured on
the image itself: apertures of each size on blank sky, their scatter over the predicted error. That
factor (1 for white noise; more where pixels were resampled, or the sky is confused by undetected
sources) multiplies the sky's part of every error. Photons of the source are added for its flux.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from mpipipe.data.mask import VALUE
from mpipipe.data.src import APERTURES
from mpipipe.stages.matched_filter import robust_width
from mpipipe.stages.measurement_planes import MeasurementPlanes
from mpipipe.stages.near import planes_near

_MOST_BLANK = 3000
_LEAST_BLANK = 60
_LEAST_GOOD = 0.5
"""Share of a circle that has to be usable."""
_SMALL, _STRIPS = 2.5, 16
_ALL_OF_PIXEL = 0.7072
"""A pixel whose centre is this far from the rim lies on one side of it."""
_STEPS = 8


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


def circles(
    residual: np.ndarray,
    planes: MeasurementPlanes,
    models: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    psf_flux: np.ndarray,
    radii: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums in circles about sources on their own: `residual` and the source's own PSF model.

    An unusable pixel counts as the model says.

    Parameters
    ----------
    models
        (n, size, size) images of the PSF, their middle pixels at (round(x), round(y)).
    psf_flux
        What was taken off for each source, electrons; NaN: nothing.
    radii
        (k,) pixels, rising.

    Returns
    -------
    flux, sky_error
        (n, k) electrons; the error is that of sky and read noise as white noise.
    is_cut
        (n, k) bool: the circle leaves the image, or less than half of it is usable.
    """
    radii = np.asarray(radii, float)
    sums = np.zeros((3, len(x), len(radii)))
    _sum_circles(
        residual, planes.variance, planes.unusable, models, x, y, np.nan_to_num(psf_flux), radii,
        sums[0], sums[1], sums[2],
    )  # fmt: skip
    flux, variance, good = sums
    ny, nx = residual.shape
    room = np.minimum(np.minimum(x, nx - 1 - x), np.minimum(y, ny - 1 - y)) + 0.5
    is_cut = (room[:, None] < radii) | (good < _LEAST_GOOD * np.pi * np.square(radii))
    return flux, np.sqrt(variance), is_cut


@njit(cache=True, error_model="numpy")
def _share(dx: float, dy: float, radius: float) -> float:
    """Share of the pixel whose centre lies at (dx, dy) that is inside a circle about (0, 0).

    That of the half plane beside the chord which has the arc's mean distance: right to 0.005 where
    the radius is 2.5 pixels, and better for larger ones. Smaller circles are summed in strips.
    """
    distance = np.sqrt(dx * dx + dy * dy)
    depth = radius - distance
    if abs(depth) > _ALL_OF_PIXEL:
        return 1.0 if depth > 0 else 0.0
    if radius < _SMALL:
        return _strips(dx, dy, radius)
    # The chord's normal is (a, b), a >= b >= 0; few divisions, which are what costs time here.
    unit = 1 / distance
    a, b = max(abs(dx), abs(dy)) * unit, min(abs(dx), abs(dy)) * unit
    flat, far, by_a = 0.5 * (a - b), 0.5 * (a + b), 1 / a
    t = min(abs(depth), far)
    # Ends of the chord from where the radius meets it, on opposite sides of the pixel or about a
    # corner; the arc's mean distance from the tangent there is that of their mean square.
    first = (0.5 - t * b) * by_a
    if t <= flat:
        second = (-0.5 - t * b) * by_a
    else:
        second = (t * a - 0.5) / b
    depth -= (first * first + first * second + second * second) / (6 * radius)
    if abs(depth) <= flat:
        return 0.5 + depth * by_a
    corner = (far - abs(depth)) ** 2 * by_a / (2 * b) if abs(depth) < far else 0.0
    return 1 - corner if depth > 0 else corner


@njit(cache=True)
def _strips(dx: float, dy: float, radius: float) -> float:
    """The share, strip by strip of the pixel."""
    total = 0.0
    for k in range(_STRIPS):
        x = dx + (k + 0.5) / _STRIPS - 0.5
        square = radius * radius - x * x
        if square > 0:
            height = np.sqrt(square)
            total += max(min(height, dy + 0.5) - max(-height, dy - 0.5), 0.0)
    return total / _STRIPS


@njit(cache=True)
def _zones(radii: np.ndarray) -> np.ndarray:
    """What distances tell, in steps of 1 / _STEPS pixel: k where a pixel is wholly inside circle k
    and outside those before; -1 where the rim of a circle may cross it."""
    zones = np.full(int((radii[-1] + _ALL_OF_PIXEL) * _STEPS) + 2, len(radii), np.int64)
    for cell in range(len(zones)):
        near, far = cell / _STEPS, (cell + 1) / _STEPS
        for r in range(len(radii) - 1, -1, -1):
            if far < radii[r] - _ALL_OF_PIXEL:
                zones[cell] = r
            elif near <= radii[r] + _ALL_OF_PIXEL:
                zones[cell] = -1
    return zones


@njit(cache=True, error_model="numpy")
def _sum_circles(
    residual: np.ndarray,
    variance: np.ndarray,
    unusable: np.ndarray,
    models: np.ndarray,
    xs: np.ndarray,
    ys: np.ndarray,
    own: np.ndarray,
    radii: np.ndarray,
    flux: np.ndarray,
    noise: np.ndarray,
    good: np.ndarray,
) -> None:
    """Add up flux, sky variance and usable area of every source and circle."""
    ny, nx = residual.shape
    half = models.shape[1] // 2
    n = len(radii)
    reach = int(radii[-1]) + 2
    zones = _zones(radii)
    # Of pixels that are wholly in a circle and not in the one before, and of circles' rims.
    whole, rims = np.empty((n + 1, 3)), np.empty((n, 3))
    for k in range(len(xs)):
        # As `Psf.images` places them: halves to even.
        mx, my = int(np.round(xs[k])), int(np.round(ys[k]))
        whole[:], rims[:] = 0.0, 0.0
        for y in range(max(0, my - reach), min(ny, my + reach + 1)):
            dy, j = y - ys[k], y - my + half
            for x in range(max(0, mx - reach), min(nx, mx + reach + 1)):
                dx = x - xs[k]
                distance = np.sqrt(dx * dx + dy * dy)
                cell = int(distance * _STEPS)
                if cell >= len(zones):
                    continue
                value, v, known = 0.0, 0.0, 0.0
                if not unusable[y, x]:
                    value, v, known = residual[y, x], variance[y, x], 1.0
                i = x - mx + half
                if 0 <= j <= 2 * half and 0 <= i <= 2 * half:
                    value += own[k] * models[k, j, i]
                inner = zones[cell]
                if inner < 0:
                    inner = _add_rims(rims, radii, dx, dy, distance, value, v, known)
                whole[inner, 0] += value
                whole[inner, 1] += v
                whole[inner, 2] += known
        for r in range(n):
            flux[k, r] = whole[: r + 1, 0].sum() + rims[r, 0]
            noise[k, r] = whole[: r + 1, 1].sum() + rims[r, 1]
            good[k, r] = whole[: r + 1, 2].sum() + rims[r, 2]


@njit(cache=True)
def _add_rims(
    rims: np.ndarray,
    radii: np.ndarray,
    dx: float,
    dy: float,
    distance: float,
    value: float,
    v: float,
    known: float,
) -> int:
    """Add a pixel to circles whose rims cross it; the first circle that it is wholly inside of."""
    for r in range(len(radii)):
        if distance < radii[r] - _ALL_OF_PIXEL:
            return r
        if distance <= radii[r] + _ALL_OF_PIXEL:
            share = _share(dx, dy, radii[r])
            rims[r, 0] += share * value
            rims[r, 1] += share * share * v
            rims[r, 2] += share * known
    return len(radii)


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
    nothing = np.zeros(len(y))
    sums = circles(image, planes, np.zeros((len(y), 1, 1), np.float32), x, y, nothing, radius)
    factors = []
    for flux, error, cut in zip(*(one.T for one in sums), strict=True):
        sound = ~cut & (error > 0)
        width = robust_width(flux[sound] / error[sound])
        factors.append(max(width, 1.0) if np.isfinite(width) else max(map_width, 1.0))
    return NoiseFactors(radius, np.array(factors), len(y))


def full_error(flux: np.ndarray, sky_error: np.ndarray, factor: np.ndarray | float) -> np.ndarray:
    """Error of a flux (electrons): the sky's, times its factor, and the source's own photons."""
    return np.asarray(np.sqrt((factor * sky_error) ** 2 + np.maximum(flux, 0)))
