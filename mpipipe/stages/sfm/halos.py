"""Halos: the light of bright sources beyond the reach of their PSF models.

A PSF model ends where stars of usual brightness are lost in the noise; the wings of bright ones go
on, and faint neighbours' radii and models would take them for their own light. A saturated star
may have no PSF flux, so that all its light is still there. The profile of each such source is the
median of the residual image in rings; it is taken off, the brightest first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from mpipipe.data.psf import Psf

_LEAST = 0.3
"""Brightness, in the noise of a pixel, at the edge of the model: fainter halos stay."""
_END = 0.1
"""Brightness, in the noise of a pixel, where a halo ends."""
_REACH = 30.0
"""FWHM at which halos end at the latest."""
_WIDTH, _RATIO = 2.0, 1.1
"""Rings are as wide, pixels, or grow by this ratio."""
_LEAST_PIXELS = 30


@dataclass(frozen=True)
class Halos:
    """Wings of some sources.

    Attributes
    ----------
    index
        (n,) int64: which of the profiles is each source's; -1: none.
    radius
        (b,) pixels, middles of the rings.
    light
        (m, b) electrons a pixel; falling, 0 beyond the end.
    inner
        (m,) half side of the square about the source that its PSF model covers, pixels: no halo
        there; -1 without a model.
    """

    index: np.ndarray
    radius: np.ndarray
    light: np.ndarray
    inner: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """`index`, `radius`, `light`, `inner`: as kernels take them."""
        return self.index, self.radius, self.light, self.inner


def take_off_halos(
    residual: np.ndarray, unknown: np.ndarray, noise: float, psf: Psf, src: np.ndarray
) -> tuple[np.ndarray, Halos]:
    """The residual image without halos, and what was taken off.

    Parameters
    ----------
    residual
        (ny, nx) float32, electrons: the image with the PSF models of all sources taken off.
    unknown
        (ny, nx) bool: pixels that tell nothing.
    noise
        Of a pixel of the sky, electrons.
    """
    edges = [_WIDTH]
    while edges[-1] < _REACH * psf.fwhm:
        edges.append(max(edges[-1] + _WIDTH, edges[-1] * _RATIO))
    limits = np.array(edges)
    flux = src["psfInstFlux"].astype(float)
    # Of saturated stars that could not be fitted the light that is known has to do.
    bare = ~np.isfinite(flux) & src["flag_saturated"]
    bright = np.nan_to_num(flux) * _edge_brightness(psf) > _LEAST * noise
    rows = np.flatnonzero((bare | bright) & np.isfinite(src["x"]) & np.isfinite(src["y"]))
    near = [_light_near(residual, unknown, src[k], psf.fwhm) if bare[k] else 0.0 for k in rows]
    rows = rows[np.lexsort((-np.array(near), -np.nan_to_num(flux[rows]), ~bare[rows]))]
    index = np.full(len(src), -1, np.int64)
    index[rows] = np.arange(len(rows))
    inner = np.where(bare[rows], -1, psf.size // 2)
    light = np.zeros((len(rows), len(limits) - 1))
    if len(rows):
        residual = residual.copy()
        x, y = src["x"][rows].astype(float), src["y"][rows].astype(float)
        _take_off(residual, unknown, x, y, inner, limits, _END * noise, light)
    return residual, Halos(index, 0.5 * (limits[1:] + limits[:-1]), light, inner)


def _light_near(residual: np.ndarray, unknown: np.ndarray, row: np.ndarray, fwhm: float) -> float:
    """Mean of the known pixels within 2 FWHM along both axes; 0 without any."""
    (y0, y1), (x0, x1) = (
        (max(int(row[axis] - 2 * fwhm), 0), max(int(row[axis] + 2 * fwhm) + 1, 0)) for axis in "yx"
    )
    known = ~unknown[y0:y1, x0:x1]
    return float(residual[y0:y1, x0:x1][known].mean()) if known.any() else 0.0


def _edge_brightness(psf: Psf) -> float:
    """Share of a star's light in a pixel at the edge of the model."""
    ny, nx = psf.shape
    half = psf.size // 2
    axis = np.arange(-half, half + 1)
    distance = np.hypot(axis[None, :], axis[:, None])
    rim = psf.image(float(nx // 2), float(ny // 2))[(distance > half - 2) & (distance <= half)]
    return max(float(rim.mean()), 1e-7)


@njit(cache=True, error_model="numpy")
def _take_off(
    residual: np.ndarray,
    unknown: np.ndarray,
    xs: np.ndarray,
    ys: np.ndarray,
    inner: np.ndarray,
    limits: np.ndarray,
    least: float,
    light: np.ndarray,
) -> None:
    """Measure and subtract one halo after the other."""
    n = len(limits) - 1
    radius = 0.5 * (limits[1:] + limits[:-1])
    table, middles = ring_table(limits), ring_table(radius)
    widest = int(limits[n]) + 2
    values = np.empty((n, 8 * widest * (int(limits[n] - limits[n - 1]) + 2)))
    for k in range(len(xs)):
        # As far as it turns out to reach.
        first, ends, before = 0, False, np.inf
        rings = min(int(np.searchsorted(limits, 1.5 * max(inner[k], 0) + 4.0)), n)
        light[k] = 0.0
        while not ends and first < n:
            far = limits[rings]
            ends, before = _profile(
                residual, unknown, xs[k], ys[k], inner[k], limits, table, first, rings, values,
                least, before, light[k],
            )  # fmt: skip
            first, rings = rings, min(int(np.searchsorted(limits, 1.5 * far)), n)
        brightest = np.argmax(light[k])
        light[k, :brightest] = light[k, brightest]  # within, nothing is known
        if light[k, 0] > 0:
            _subtract(residual, xs[k], ys[k], far, radius, middles, light[k], inner[k])


@njit(cache=True, error_model="numpy")
def _profile(
    residual: np.ndarray,
    unknown: np.ndarray,
    x0: float,
    y0: float,
    inner: int,
    limits: np.ndarray,
    table: np.ndarray,
    first: int,
    rings: int,
    values: np.ndarray,
    least: float,
    before: float,
    light: np.ndarray,
) -> tuple[bool, float]:
    """Medians of the rings from `first` on, made to fall from what was `before`; whether the halo
    ends among them, and the last median."""
    ny, nx = residual.shape
    mx, my = int(np.round(x0)), int(np.round(y0))
    far, hole = limits[rings], limits[first]
    count = np.zeros(rings, np.int64)
    for y in range(max(0, int(np.ceil(y0 - far))), min(ny, int(np.floor(y0 + far)) + 1)):
        dy = y - y0
        reach, gap = np.sqrt(max(far * far - dy * dy, 0.0)), -1.0
        if dy * dy < hole * hole:
            gap = np.sqrt(hole * hole - dy * dy)
        if abs(y - my) <= inner:
            gap = max(gap, inner + 1.0 - abs(x0 - mx))
        left, right = int(np.ceil(x0 - reach)), int(np.floor(x0 + reach)) + 1
        leap, back = right, right  # beyond the gap, exact below
        if gap >= 0:
            leap, back = int(np.floor(x0 - gap)) + 1, int(np.ceil(x0 + gap))
        for begin, end in ((left, min(leap, right)), (max(back, left), right)):
            for x in range(max(0, begin), min(nx, end)):
                if abs(x - mx) <= inner and abs(y - my) <= inner or unknown[y, x]:
                    continue
                r = np.sqrt((x - x0) ** 2 + dy * dy)
                if hole <= r < far:
                    after = table[int(r)]
                    if limits[after] <= r:
                        after += 1
                    at = after - 1
                    values[at, count[at]] = residual[y, x]
                    count[at] += 1
    for ring in range(first, rings):
        if count[ring] >= _LEAST_PIXELS:
            before = min(before, np.median(values[ring, : count[ring]]))
            if before < least:
                return True, before
            light[ring] = before
        elif before < np.inf:
            return True, before
    return False, before


@njit(cache=True)
def ring_table(limits: np.ndarray) -> np.ndarray:
    """For whole numbers of pixels up to the last limit: the first limit that is not less.

    Limits are more than a pixel apart: that of a radius is the one of its whole pixels, or the
    next.
    """
    table = np.empty(int(limits[-1]) + 2, np.int64)
    for whole in range(len(table)):
        table[whole] = np.searchsorted(limits, whole)
    return table


@njit(cache=True)
def halo_at(r: float, radius: np.ndarray, table: np.ndarray, light: np.ndarray) -> float:
    """Brightness of a halo at a radius, between rings linearly; `table` is that of `radius`."""
    if r <= radius[0]:
        return float(light[0])
    if r > radius[-1]:
        return 0.0
    ring = table[int(r)]
    if radius[ring] < r:
        ring += 1
    share = (r - radius[ring - 1]) / (radius[ring] - radius[ring - 1])
    return float((1 - share) * light[ring - 1] + share * light[ring])


@njit(cache=True)
def halo_end(radius: np.ndarray, light: np.ndarray) -> float:
    """Radius from which on there is no light."""
    last = len(light)
    while last > 0 and light[last - 1] == 0.0:
        last -= 1
    return float(radius[min(last, len(radius) - 1)])


@njit(cache=True)
def _subtract(
    residual: np.ndarray,
    x0: float,
    y0: float,
    reach: float,
    radius: np.ndarray,
    table: np.ndarray,
    light: np.ndarray,
    inner: int,
) -> None:
    ny, nx = residual.shape
    mx, my = int(np.round(x0)), int(np.round(y0))
    far = int(min(reach, halo_end(radius, light))) + 1
    for y in range(max(0, my - far), min(ny, my + far + 1)):
        for x in range(max(0, mx - far), min(nx, mx + far + 1)):
            if max(abs(x - mx), abs(y - my)) > inner:
                residual[y, x] -= halo_at(np.hypot(x - x0, y - y0), radius, table, light)
