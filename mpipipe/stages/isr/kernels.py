"""Compiled inner loops of isr: one pass over the pixels of a channel each, float32, in place.

All arrays are C-contiguous. No kernel assumes finite input (`fastmath` without ``nnan``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from mpipipe.stages.isr import level_kernels

_OPTIONS: dict[str, Any] = {
    "cache": True,
    "fastmath": {"contract", "reassoc", "arcp", "nsz"},
    "error_model": "numpy",
}


@njit(**_OPTIONS)
def _mask_around(mask: np.ndarray, y: int, x: int, grow: int, bit: int) -> None:
    ny, nx = mask.shape
    for j in range(max(y - grow, 0), min(y + grow + 1, ny)):
        for i in range(max(x - grow, 0), min(x + grow + 1, nx)):
            mask[j, i] |= bit


@njit(**_OPTIONS)
def mark_saturated(
    image: np.ndarray,
    level: float,
    grow: int,
    contrast: float,
    distance: int,
    bit: int,
    mask: np.ndarray,
) -> int:
    """Mask saturated pixels, the bleed trails that leave them, and a rim around both.

    A trail is followed up and down a column from a run of at least three saturated pixels as
    long as a pixel stands out by more than `contrast` over both pixels `distance` columns away.

    Parameters
    ----------
    image, mask
        (ny, nx) float32 raw ADU; int32, changed in place.
    level
        ADU from which a pixel is saturated.
    grow
        Width of the rim in pixels.
    bit
        Value of the mask plane to set.

    Returns
    -------
    int
        Number of pixels at or above `level`.
    """
    ny, nx = image.shape
    n_core = 0
    for y in range(ny):
        for x in range(nx):
            n_core += image[y, x] >= level
    if n_core == 0:
        return 0
    rows, columns = np.empty(n_core, np.int32), np.empty(n_core, np.int32)
    n = 0
    for y in range(ny):
        n_row = 0
        for x in range(nx):
            n_row += image[y, x] >= level
        if n_row:
            for x in range(nx):
                if image[y, x] >= level:
                    rows[n], columns[n] = y, x
                    n += 1
    for k in range(n_core):
        y, x = rows[k], columns[k]
        _mask_around(mask, y, x, grow, bit)
        left, right = max(x - distance, 0), min(x + distance, nx - 1)
        for step in (1, -1):
            # The end of a run of three, seen from its last pixel, is where a trail may begin.
            if (
                not 0 <= y - 2 * step < ny
                or min(image[y - step, x], image[y - 2 * step, x]) < level
            ):
                continue
            end = y + step
            while 0 <= end < ny and image[end, x] < level:
                if image[end, x] - max(image[end, left], image[end, right]) <= contrast:
                    break
                _mask_around(mask, end, x, grow, bit)
                end += step
    return n_core


@njit(**_OPTIONS)
def subtract_and_mask(
    image: np.ndarray,
    correction: np.ndarray,
    start: int,
    usual: np.ndarray,
    limit: np.ndarray,
    bit: int,
    mask: np.ndarray,
) -> None:
    """Subtract a correction from a block of pixels; mask where it is far from its usual value.

    Parameters
    ----------
    image, mask
        (n_channels, n_pixels) float32 and int32, changed in place.
    correction
        (n_channels, n_block) float32, for the pixels from `start` on.
    usual, limit
        (n_channels,) float32: correction at the sky level; largest difference from it.
    """
    n, size = correction.shape
    for i in range(n):
        n_large = 0
        for k in range(size):
            image[i, start + k] -= correction[i, k]
            n_large += abs(correction[i, k] - usual[i]) > limit[i]
        if n_large:
            for k in range(size):
                if abs(correction[i, k] - usual[i]) > limit[i]:
                    mask[i, start + k] |= bit


@njit(**_OPTIONS)
def linearize_polynomial(
    image: np.ndarray, coefficients: np.ndarray, suspect: float, bit: int, mask: np.ndarray
) -> None:
    """x -> x + c0 x^2 + c1 x^3 + ...; mask where that changes x by more than `suspect` of it."""
    ny, nx = image.shape
    law = coefficients.astype(np.float32)
    limit = np.float32(suspect)
    factor = np.empty(nx, np.float32)
    for y in range(ny):
        for x in range(nx):
            factor[x] = 0.0
        for k in range(law.size - 1, -1, -1):
            for x in range(nx):
                factor[x] = (factor[x] + law[k]) * image[y, x]
        n_large = 0
        for x in range(nx):
            image[y, x] += image[y, x] * factor[x]
            n_large += abs(factor[x]) > limit
        if n_large:
            for x in range(nx):
                if abs(factor[x]) > limit:
                    mask[y, x] |= bit


@njit(**_OPTIONS)
def linearize_table(
    image: np.ndarray,
    measured: np.ndarray,
    linear: np.ndarray,
    suspect: float,
    bit: int,
    mask: np.ndarray,
) -> None:
    """Interpolate linearly in a table; beyond its ends the outermost slopes go on."""
    ny, nx = image.shape
    last = measured.size - 2
    k = 0
    for y in range(ny):
        for x in range(nx):
            value = np.float64(image[y, x])
            # Neighbouring pixels mostly lie in the same interval.
            while k < last and value >= measured[k + 1]:
                k += 1
            while k > 0 and value < measured[k]:
                k -= 1
            slope = (linear[k + 1] - linear[k]) / (measured[k + 1] - measured[k])
            result = linear[k] + slope * (value - measured[k])
            image[y, x] = result
            if abs(result - value) > suspect * abs(value) and abs(value) >= measured[1]:
                mask[y, x] |= bit


@njit(**_OPTIONS)
def subtract_bias(image: np.ndarray, bias: np.ndarray, pedestal: float) -> None:
    """image -= bias - pedestal, ADU."""
    ny, nx = image.shape
    offset = np.float32(pedestal)
    for y in range(ny):
        for x in range(nx):
            image[y, x] -= bias[y, x] - offset


@njit(**_OPTIONS)
def set_master_noise(sigma: np.ndarray, variance: np.ndarray, factor: float) -> None:
    """sigma = factor sqrt(variance)."""
    ny, nx = sigma.shape
    scale = np.float32(abs(factor))
    for y in range(ny):
        for x in range(nx):
            sigma[y, x] = scale * np.sqrt(variance[y, x])


@njit(**_OPTIONS)
def add_master_noise(sigma: np.ndarray, variance: np.ndarray, factor: float) -> None:
    """sigma = sqrt(sigma^2 + factor^2 variance), in place."""
    ny, nx = sigma.shape
    scale = np.float32(factor * factor)
    for y in range(ny):
        for x in range(nx):
            sigma[y, x] = np.sqrt(sigma[y, x] * sigma[y, x] + scale * variance[y, x])


@njit(**_OPTIONS)
def to_electrons(
    image: np.ndarray, gain: float, read_noise: float, radius: int, variance: np.ndarray
) -> None:
    """Multiply by the gain and fill the variance: read noise squared plus photons.

    The photons are the mean of (2 radius + 1)^2 pixels, cut at the channel's edges, and at
    least 0: with a pixel's own count, pixels that fluctuate low would look too certain.

    Parameters
    ----------
    image, variance
        (ny, nx) float32; ADU in, electrons out; filled with electron^2.
    gain, read_noise
        Electrons per ADU; electrons.
    """
    ny, nx = image.shape
    factor = np.float32(gain)
    floor = np.float32(read_noise * read_noise)
    column = np.empty(nx, np.float32)
    ready = 0
    for y in range(ny):
        first, last = max(y - radius, 0), min(y + radius, ny - 1)
        while ready <= last:  # rows are converted just before they are first summed
            for x in range(nx):
                image[ready, x] *= factor
            ready += 1
        for x in range(nx):
            column[x] = image[first, x]
        for j in range(first + 1, last + 1):
            for x in range(nx):
                column[x] += image[j, x]
        rows = last - first + 1
        if radius == 1:
            third = np.float32(1.0 / (3 * rows))
            for x in range(1, nx - 1):
                photons = (column[x - 1] + column[x] + column[x + 1]) * third
                variance[y, x] = max(photons, np.float32(0.0)) + floor
        for x in range(nx):
            if radius == 1 and 0 < x < nx - 1:
                continue
            total = np.float32(0.0)
            left, right = max(x - radius, 0), min(x + radius, nx - 1)
            for i in range(left, right + 1):
                total += column[i]
            photons = total / np.float32(rows * (right - left + 1))
            variance[y, x] = max(photons, np.float32(0.0)) + floor


@njit(**_OPTIONS)
def subtract_dark(image: np.ndarray, dark: np.ndarray, seconds: float) -> None:
    """image -= dark * seconds, electrons."""
    ny, nx = image.shape
    factor = np.float32(seconds)
    for y in range(ny):
        for x in range(nx):
            image[y, x] -= factor * dark[y, x]


@njit(**_OPTIONS)
def divide_flat(
    image: np.ndarray,
    variance: np.ndarray,
    flat: np.ndarray,
    lowest: float,
    bit: int,
    mask: np.ndarray,
) -> int:
    """Divide by the flat where it is at least `lowest`; elsewhere mask and leave the value.

    Returns
    -------
    int
        Number of pixels that were masked (a NaN in the flat counts as too low).
    """
    ny, nx = image.shape
    n_low = 0
    one, least = np.float32(1.0), np.float32(lowest)
    for y in range(ny):
        n_usable = 0
        for x in range(nx):
            response = flat[y, x]
            usable = response >= least
            n_usable += usable
            inverse = one / (response if usable else one)
            image[y, x] *= inverse
            variance[y, x] *= inverse * inverse
        if n_usable < nx:
            n_low += nx - n_usable
            for x in range(nx):
                if not flat[y, x] >= least:
                    mask[y, x] |= bit
    return n_low


@njit(**_OPTIONS)
def divide_flat_with_noise(
    image: np.ndarray,
    variance: np.ndarray,
    flat: np.ndarray,
    lowest: float,
    bit: int,
    mask: np.ndarray,
    sigma: np.ndarray,
    flat_variance: np.ndarray,
) -> int:
    """`divide_flat`, and the noise of the masters with it.

    sigma = sqrt((sigma / f)^2 + (image sigma_f / f^2)^2), image and sigma before division.
    """
    ny, nx = image.shape
    n_low = 0
    one, least = np.float32(1.0), np.float32(lowest)
    for y in range(ny):
        n_usable = 0
        for x in range(nx):
            response = flat[y, x]
            usable = response >= least
            n_usable += usable
            inverse = one / (response if usable else one)
            value = image[y, x] * inverse
            own = sigma[y, x] * inverse
            factor = value * inverse
            image[y, x] = value
            variance[y, x] *= inverse * inverse
            sigma[y, x] = np.sqrt(own * own + factor * factor * flat_variance[y, x])
        if n_usable < nx:
            n_low += nx - n_usable
            for x in range(nx):
                if not flat[y, x] >= least:
                    mask[y, x] |= bit
    return n_low


@njit(**_OPTIONS)
def clipped_moments(values: np.ndarray, n_sigma: float, rounds: int) -> tuple[float, float]:
    """Mean and standard deviation of (n,) float64, n > 0, clipped about the mean.

    It starts from median and median absolute deviation of some 2000 of the values.
    """
    some = values[:: max(1, values.size // 2000)]
    middle = np.median(some)
    spread = 1.4826 * np.median(np.abs(some - middle))
    if not spread > 0.0:
        spread = np.sqrt(np.mean((values - middle) ** 2))
    for _ in range(rounds):
        limit = n_sigma * spread
        total = squares = 0.0
        count = 0
        for i in range(values.size):
            offset = values[i] - middle
            inside = abs(offset) <= limit
            count += inside
            kept = offset if inside else 0.0
            total += kept
            squares += kept * kept
        if count < 2:
            break
        before = spread
        mean = total / count
        middle += mean
        spread = np.sqrt(max(squares / count - mean * mean, 0.0))
        if abs(before - spread) < 1e-4 * before:
            break
    return middle, spread


@njit(**_OPTIONS)
def count_planes(mask: np.ndarray, counts: np.ndarray) -> None:
    """Add to counts[b] the pixels of (ny, nx) int32 `mask` in which bit b is set."""
    ny, nx = mask.shape
    for y in range(ny):
        used = 0
        for x in range(nx):
            used |= mask[y, x]
        bit = 0
        while used >> bit:
            if (used >> bit) & 1:
                n = 0
                for x in range(nx):
                    n += (mask[y, x] >> bit) & 1
                counts[bit] += n
            bit += 1


def warm_up() -> None:
    """Compile every kernel on tiny arrays."""
    image = np.full((4, 5), 7.0, np.float32)
    mask = np.zeros((4, 5), np.int32)
    other = np.ones((4, 5), np.float32)
    row = np.zeros(4, np.float32)
    mark_saturated(image, 5.0, 1, 1.0, 3, 2, mask)
    level_kernels.warm_up()
    subtract_and_mask(image, other, 0, row, row, 1, mask)
    linearize_polynomial(image, np.zeros(1), 0.1, 1, mask)
    linearize_table(image, np.arange(3.0), np.arange(3.0), 0.1, 1, mask)
    subtract_bias(image, other, 0.0)
    set_master_noise(image, other, 1.0)
    add_master_noise(image, other, 1.0)
    to_electrons(image, 1.0, 1.0, 1, other)
    subtract_dark(image, other, 1.0)
    divide_flat(image, other, np.ones_like(image), 0.1, 1, mask)
    divide_flat_with_noise(image, other, np.ones_like(image), 0.1, 1, mask, image, other)
    clipped_moments(np.arange(4.0), 3.0, 5)
    count_planes(mask, np.zeros(32, np.int64))
