"""Matched filter for point sources with a Gaussian of the seeing, and what its map tells.

For an image d of noise variance v with good pixels g, the filter gives
``S = conv(g d / v, P) / sqrt(conv(g / v, P^2))``, the significance of a point source of profile P
at every pixel, and ``F = conv(g d / v, P) / conv(g / v, P^2)``, its flux. v holds sky and read
noise but no light of sources: with the data's own photons in it, faint peaks would weigh less
when their noise is positive. P is separable, so the filter costs two short sums a pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

_CLIP = 4.0
_SAMPLES = 400_000
_SPAN = 64
"""Pixels of a line that are looked at together, most of them in vain."""


@dataclass(frozen=True)
class FilterMap:
    """The result of a matched filter.

    Attributes
    ----------
    numerator
        (ny, nx) float32: conv(g d / v, P).
    weight
        (ny, nx) float32: conv(g / v, P^2), the inverse variance of the flux.
    ratio
        sum(P) / sum(P^2): the area of the profile, in pixels.
    """

    numerator: np.ndarray
    weight: np.ndarray
    ratio: float

    def significance(self) -> np.ndarray:
        """The map S, (ny, nx) float32; 0 where no pixel is good."""
        out = np.empty_like(self.numerator)
        _significance(self.numerator, self.weight, out)
        return out

    def significance_above(self, surface: np.ndarray, variance: np.ndarray) -> np.ndarray:
        """The map S with a surface taken off the filtered image, whose photons count as noise.

        Exact where the surface is smooth on the scale of P, but for a share of the surface at
        pixels whose neighbours are excluded.

        Parameters
        ----------
        surface
            (ny, nx) float32, electrons, >= 0.
        variance
            (ny, nx) float32, electron^2 without the surface's light.
        """
        out = np.empty_like(self.numerator)
        ratio = np.float32(self.ratio)
        _significance_above(self.numerator, self.weight, surface, variance, ratio, out)
        return out


def gaussian_taps(fwhm: float) -> np.ndarray:
    """One-dimensional Gaussian of this FWHM (pixels) out to 4 sigma, float32, sum 1."""
    sigma = fwhm / 2.354820045
    half = max(1, math.ceil(4 * sigma))
    x = np.arange(-half, half + 1)
    taps = np.exp(-0.5 * (x / sigma) ** 2)
    return (taps / taps.sum()).astype(np.float32)


def matched_filter(
    image: np.ndarray, variance: np.ndarray, exclude: np.ndarray, fwhm: float
) -> FilterMap:
    """Filter an image with a Gaussian of its FWHM.

    Parameters
    ----------
    image, variance
        (ny, nx) float32, electrons (background subtracted) and electrons^2 without sources.
    exclude
        (ny, nx) bool, pixels that do not count.
    fwhm
        Pixels.
    """
    taps = gaussian_taps(fwhm)
    squares = taps * taps
    numerator = np.empty_like(image)
    weight = np.empty_like(image)
    _filter(image, variance, exclude, taps, numerator)
    _filter(None, variance, exclude, squares, weight)
    ratio = 1 / float(squares.sum(dtype=float)) ** 2
    return FilterMap(numerator, weight, ratio)


def filter_again(
    like: FilterMap, image: np.ndarray, variance: np.ndarray, exclude: np.ndarray, fwhm: float
) -> FilterMap:
    """What `matched_filter` gives, of another image with all else as `like` was made with."""
    numerator = np.empty_like(image)
    _filter(image, variance, exclude, gaussian_taps(fwhm), numerator)
    return FilterMap(numerator, like.weight, like.ratio)


def robust_width(values: np.ndarray) -> float:
    """Clipped standard deviation about the clipped mean, corrected for what a Gaussian loses.

    Evenly spaced samples are taken of long arrays. NaN when there are fewer than 10 values.
    """
    values = values[:: max(1, values.size // _SAMPLES)].astype(np.float64)
    values = values[np.isfinite(values)]
    if values.size < 10:
        return float("nan")
    centre = float(np.median(values))
    width = 1.4826 * float(np.median(np.abs(values - centre)))
    # The width of a Gaussian cut at k sigma is less than sigma by a known factor.
    edge = math.exp(-0.5 * _CLIP**2) * _CLIP * math.sqrt(2 / math.pi)
    lost = math.sqrt(1 - edge / math.erf(_CLIP / math.sqrt(2)))
    for _ in range(20):
        inside = values[np.abs(values - centre) <= _CLIP * width]
        if inside.size < 10:
            return width
        centre, last = float(inside.mean()), width
        width = float(inside.std()) / lost
        if abs(width - last) <= 1e-4 * width:
            break
    return width


def lower_width(values: np.ndarray) -> float:
    """Width of the lower half: median minus the 15.87th percentile.

    Sources, resolved or not, only ever add light: on a map of the sky this half is the noise.
    NaN when there are fewer than 10 values.
    """
    return _percentiles_apart(values, 15.865525, 50.0, fewest=10)


def tail_width(values: np.ndarray) -> float:
    """Width of the lower tail: the 15.87th minus the 2.28th percentile.

    Faint sources below the threshold raise the median, and with it `lower_width`, by up to 12 %
    on a deep image; they hardly touch this. NaN when there are fewer than 50 values.
    """
    return _percentiles_apart(values, 2.2750132, 15.865525, fewest=50)


def _percentiles_apart(values: np.ndarray, low: float, high: float, fewest: int) -> float:
    """The `high` minus the `low` percentile of evenly spaced samples; NaN for too few."""
    values = values[:: max(1, values.size // _SAMPLES)]
    values = values[np.isfinite(values)]
    if values.size < fewest:
        return float("nan")
    bottom, top = np.percentile(values, [low, high])
    return float(top - bottom)


@njit(cache=True, fastmath={"contract"})
def _add_pairs(
    total: np.ndarray,
    tap: np.float32,
    near: np.ndarray,
    far: np.ndarray,
    other: np.float32,
    low: np.ndarray,
    high: np.ndarray,
) -> None:
    """Add two pairs of values with a weight each: sums are written half as often as one by one."""
    for k in range(len(total)):
        x = np.uint64(k)  # here and below unsigned, without a test for negative indices
        total[x] += tap * (near[x] + far[x]) + other * (low[x] + high[x])


@njit(cache=True)
def _scale(values: np.ndarray, factor: np.float32, out: np.ndarray) -> None:
    for k in range(len(out)):
        x = np.uint64(k)
        out[x] = factor * values[x]


@njit(cache=True)
def _sum_rows(
    ring: np.ndarray, first: int, taps: np.ndarray, padded: np.ndarray, out: np.ndarray
) -> None:
    """One row of the separable sum: over the rows of `ring` from slot `first`, then along it.

    The taps, an odd number of them, are symmetric. `padded` has `len(taps) // 2` zeros at each end.
    """
    n, nx = ring.shape
    half = n // 2
    sums = padded[half : half + nx]
    _scale(ring[(first + half) % n], taps[half], sums)
    for k in range(0, half, 2):
        m = min(k + 1, half - 1)  # the last of an odd number of pairs stands alone
        _add_pairs(
            sums, taps[k], ring[(first + k) % n], ring[(first + n - 1 - k) % n],
            taps[m] if m > k else np.float32(0), ring[(first + m) % n],
            ring[(first + n - 1 - m) % n],
        )  # fmt: skip
    _scale(sums, taps[half], out)
    for k in range(0, half, 2):
        m = min(k + 1, half - 1)
        _add_pairs(
            out, taps[k], padded[k:], padded[n - 1 - k :],
            taps[m] if m > k else np.float32(0), padded[m:], padded[n - 1 - m :],
        )  # fmt: skip


@njit(cache=True, error_model="numpy")
def _filter(
    image: np.ndarray | None,
    variance: np.ndarray,
    exclude: np.ndarray,
    taps: np.ndarray,
    out: np.ndarray,
) -> None:
    """Sum image / variance (1 / variance without an image) with `taps`, through a ring of rows."""
    ny, nx = variance.shape
    n_taps = len(taps)
    half = n_taps // 2
    ring = np.zeros((n_taps, nx), np.float32)
    padded = np.zeros(nx + 2 * half, np.float32)
    for y in range(ny + half):
        row = ring[y % n_taps]
        if y >= ny:
            row[:] = 0.0
        elif image is None:
            _weigh(None, variance[y], exclude[y], row)
        else:
            _weigh(image[y], variance[y], exclude[y], row)
        if y >= half:
            _sum_rows(ring, (y + 1) % n_taps, taps, padded, out[y - half])  # from the oldest row


@njit(cache=True, error_model="numpy")
def _weigh(
    image: np.ndarray | None, variance: np.ndarray, exclude: np.ndarray, out: np.ndarray
) -> None:
    """One row of image / variance, or of 1 / variance; 0 where it is excluded."""
    zero, one = np.float32(0), np.float32(1)
    for k in range(len(out)):
        x = np.uint64(k)
        value = (one if image is None else image[x]) / variance[x]
        out[x] = zero if exclude[x] else value


@njit(cache=True, error_model="numpy")
def _significance(numerator: np.ndarray, weight: np.ndarray, out: np.ndarray) -> None:
    """S = numerator / sqrt(weight), 0 where there is no weight."""
    ny, nx = numerator.shape
    tiny = np.float32(1e-30)
    for y in range(ny):
        for x in range(nx):
            # Without any weight the numerator is 0 too.
            out[y, x] = numerator[y, x] / np.sqrt(max(weight[y, x], tiny))


@njit(cache=True, error_model="numpy")
def _significance_above(
    numerator: np.ndarray,
    weight: np.ndarray,
    surface: np.ndarray,
    variance: np.ndarray,
    ratio: np.float32,
    out: np.ndarray,
) -> None:
    """(numerator - ratio * weight * surface) / sqrt(weight), times sqrt(sky / (sky + surface))."""
    ny, nx = weight.shape
    zero, one, tiny = np.float32(0), np.float32(1), np.float32(1e-30)
    for y in range(ny):
        for x in range(nx):
            w, level = max(weight[y, x], tiny), surface[y, x]
            sky = max(variance[y, x], zero)
            share = sky / (sky + level) if sky > zero else one
            out[y, x] = (numerator[y, x] - ratio * weight[y, x] * level) * np.sqrt(share / w)


@njit(cache=True)
def _any_above(values: np.ndarray, threshold: float) -> bool:
    """Whether some value may be above the threshold."""
    n, limit = 0, np.float32(threshold)
    for k in range(len(values)):
        n += values[np.uint64(k)] >= limit
    return n > 0


@njit(cache=True)
def _is_peak(map_: np.ndarray, y: int, x: int, half: int) -> bool:
    """Whether no neighbour is higher; of equal ones the first in reading order counts."""
    ny, nx = map_.shape
    value = map_[y, x]
    for j in range(max(0, y - half), min(ny, y + half + 1)):
        for i in range(max(0, x - half), min(nx, x + half + 1)):
            other = map_[j, i]
            earlier = j < y or (j == y and i < x)
            if other > value or (earlier and other == value):
                return False
    return True


@njit(cache=True)
def _scan_peaks(
    map_: np.ndarray, threshold: float, half: int, ys: np.ndarray, xs: np.ndarray
) -> int:
    """Maxima above `threshold` in windows of half width `half`; how many there are.

    Fills `ys`, `xs` as far as they reach.
    """
    ny, nx = map_.shape
    n = 0
    for y in range(ny):
        for first in range(0, nx, _SPAN):
            last = min(first + _SPAN, nx)
            if not _any_above(map_[y, first:last], threshold):
                continue
            for x in range(first, last):
                if map_[y, x] > threshold and _is_peak(map_, y, x, half):
                    if n < len(ys):
                        ys[n], xs[n] = y, x
                    n += 1
    return n


def find_peaks(map_: np.ndarray, threshold: float, half: int) -> tuple[np.ndarray, np.ndarray]:
    """Local maxima of a map above a threshold, in windows of (2 half + 1)^2 pixels.

    Returns
    -------
    y, x
        int32, in reading order.
    """
    room = 20_000
    while True:
        ys, xs = np.empty(room, np.int32), np.empty(room, np.int32)
        n = _scan_peaks(map_, threshold, half, ys, xs)
        if n <= room:
            return ys[:n], xs[:n]
        room = n
