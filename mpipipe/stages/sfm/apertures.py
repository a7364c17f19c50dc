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
def _shares(dx: np.ndarray, dy: np.ndarray, radius: float, out: np.ndarray) -> None:
    """Shares of pixels on the rim of a circle about (0, 0) that are inside; centres at (dx, dy).

    That of the half plane beside the chord which has the arc's mean distance: right to 0.005 where
    the radius is 2.5 pixels, and better for larger ones. Smaller circles are summed in strips.
    """
    if radius < _SMALL:
        for k in range(len(out)):
            out[k] = _strips(dx[k], dy[k], radius)
        return
    zero, one, half = np.float32(0), np.float32(1), np.float32(0.5)
    rim, bend = np.float32(radius), np.float32(1 / (6 * radius))
    for k in range(len(out)):
        i = np.uint64(k)  # here and below unsigned, without a test for negative indices
        u, v = abs(dx[i]), abs(dy[i])
        distance = np.sqrt(u * u + v * v)
        # The chord's normal is (a, b), a >= b >= 0.
        unit = one / distance
        a, b = max(u, v) * unit, min(u, v) * unit
        flat, far, by_a, by_b = half * (a - b), half * (a + b), one / a, one / b
        depth = rim - distance
        t = min(abs(depth), far)
        # Ends of the chord from where the radius meets it, on opposite sides of the pixel or about
        # a corner; the arc's mean distance from the tangent there is that of their mean square.
        first = (half - t * b) * by_a
        second = (-half - t * b) * by_a if t <= flat else (t * a - half) * by_b
        depth -= (first * first + first * second + second * second) * bend
        over = far - abs(depth)
        corner = half * over * over * by_a * by_b if over > zero else zero
        cut = one - corner if depth > zero else corner
        out[i] = half + depth * by_a if abs(depth) <= flat else cut


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
    reach = int(radii[-1]) + 2
    side = 2 * reach + 1
    values = np.empty((3, side, side), np.float32)
    below = np.zeros((3, side, side + 1))
    rim = np.empty((6, 16 * reach), np.float32)
    for k in range(len(xs)):
        # As `Psf.images` places them: halves to even.
        x0, y0 = int(np.round(xs[k])) - reach, int(np.round(ys[k])) - reach
        _window(residual, variance, unusable, models[k], own[k], x0, y0, values, below)
        for r in range(len(radii)):
            flux[k, r], noise[k, r], good[k, r] = _circle(
                values, below, xs[k] - x0, ys[k] - y0, radii[r], rim
            )


@njit(cache=True)
def _window(
    residual: np.ndarray,
    variance: np.ndarray,
    unusable: np.ndarray,
    model: np.ndarray,
    own: float,
    x0: int,
    y0: int,
    values: np.ndarray,
    below: np.ndarray,
) -> None:
    """Copy light, sky variance and usability (1 or 0) of pixels from (x0, y0) on into `values`,
    and their sums along each line, before each pixel, into `below`."""
    ny, nx = residual.shape
    side, half = values.shape[1], model.shape[0] // 2
    margin = side // 2 - half  # of the window about the model, or the other way round
    zero, one, by = np.float32(0), np.float32(1), np.float32(own)
    low, high = min(max(0, -x0), side), max(0, min(side, nx - x0))
    inner, outer = max(margin, 0), min(side - margin, side)
    for j in range(side):
        light, noise, known = values[0, j], values[1, j], values[2, j]
        if not (low == 0 and high == side and 0 <= y0 + j < ny):
            light[:], noise[:], known[:] = 0.0, 0.0, 0.0
        if 0 <= y0 + j < ny and low < high:
            pixels, sky, bad = residual[y0 + j], variance[y0 + j], unusable[y0 + j]
            for k in range(low, high):
                i, m = np.uint64(k), np.uint64(x0 + k)
                light[i] = zero if bad[m] else pixels[m]
                noise[i] = zero if bad[m] else sky[m]
                known[i] = zero if bad[m] else one
            if inner <= j < outer:
                line = model[j - margin]
                for k in range(max(inner, low), min(outer, high)):
                    light[np.uint64(k)] += by * line[np.uint64(k - margin)]
        first = second = third = 0.0
        for x in range(side):  # three sums at once: none waits for another
            first += light[x]
            second += noise[x]
            third += known[x]
            below[0, j, x + 1], below[1, j, x + 1], below[2, j, x + 1] = first, second, third


@njit(cache=True)
def _circle(
    values: np.ndarray, below: np.ndarray, x: float, y: float, radius: float, rim: np.ndarray
) -> tuple[float, float, float]:
    """Light, sky variance and usable area inside a circle about (x, y) of the window.

    Of pixels wholly inside the sums along lines are there; those on the rim are collected, and
    count by their share. `rim` is scratch: dx, dy, share, and the three values.
    """
    side = values.shape[1]
    light = noise = known = 0.0
    n = 0
    for j in range(side):
        dy = j - y
        room = (radius + _ALL_OF_PIXEL) ** 2 - dy * dy
        if room < 0:
            continue
        span = np.sqrt(room)
        low, high = max(0, int(np.ceil(x - span))), min(side - 1, int(np.floor(x + span))) + 1
        first = last = high
        hole = (radius - _ALL_OF_PIXEL) ** 2 - dy * dy
        if hole > 0 and radius > _ALL_OF_PIXEL:
            span = np.sqrt(hole)
            first, last = max(low, int(np.ceil(x - span))), min(high, int(np.floor(x + span)) + 1)
            if last > first:
                light += below[0, j, last] - below[0, j, first]
                noise += below[1, j, last] - below[1, j, first]
                known += below[2, j, last] - below[2, j, first]
            else:
                first = last = high
        for begin, end in ((low, first), (last, high)):
            for i in range(begin, end):
                rim[0, n], rim[1, n] = i - x, dy
                rim[3, n], rim[4, n], rim[5, n] = values[0, j, i], values[1, j, i], values[2, j, i]
                n += 1
    _shares(rim[0, :n], rim[1, :n], radius, rim[2, :n])
    for k in range(n):
        share = float(rim[2, k])
        light += share * rim[3, k]
        noise += share * share * rim[4, k]
        known += share * rim[5, k]
    return light, noise, known


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
