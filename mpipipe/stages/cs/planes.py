"""Compiled kernels that work on whole planes: clean, subtract, sum, fill."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def sanitise(image: np.ndarray, variance: np.ndarray, mask: np.ndarray, no_data: int) -> int:
    """Set `no_data`, image 0 and variance 0 where either is not finite or the variance not > 0.

    Returns how many pixels were found that did not have the bit yet.
    """
    ny, nx = image.shape
    bit, infinite = np.int32(no_data), np.float32(np.inf)
    unsound = 0
    for y in range(ny):  # hardly ever are there any, and counting alone is fast
        for x in range(nx):
            p, v = abs(image[y, x]), variance[y, x]
            unsound += 0 if p < infinite and v < infinite and v > 0 else 1
    if unsound == 0:
        return 0
    n = 0
    for y in range(ny):
        for x in range(nx):
            sound = np.isfinite(image[y, x]) and np.isfinite(variance[y, x]) and variance[y, x] > 0
            if not sound:
                n += 0 if mask[y, x] & bit else 1
                mask[y, x] |= bit
                image[y, x] = 0
                variance[y, x] = 0
    return n


@njit(cache=True)
def subtract_scaled(
    image: np.ndarray,
    variance: np.ndarray,
    mask: np.ndarray,
    other: np.ndarray,
    other_variance: np.ndarray,
    other_mask: np.ndarray,
    avoid: int,
    scale: float,
    residual: float,
    difference: np.ndarray,
    difference_variance: np.ndarray,
) -> None:
    """difference = image - scale x other, with its variance; 0 where either has `avoid` set.

    `residual` is the share of a source's light that does not cancel (seeing differs between
    snaps); it enters the variance as (residual x the light common to both)^2.
    """
    ny, nx = image.shape
    scale32, square = np.float32(scale), np.float32(scale * scale)
    residual32, zero = np.float32(residual), np.float32(0)
    for y in range(ny):
        for x in range(nx):
            a, b = image[y, x], scale32 * other[y, x]
            usable = ((mask[y, x] | other_mask[y, x]) & avoid) == 0
            difference[y, x] = a - b if usable else zero
            # The smaller of the two: a cosmic ray in one of them must not count as a source.
            common = residual32 * max(min(a, b), zero)
            difference_variance[y, x] = (
                variance[y, x] + square * other_variance[y, x] + common * common
            )


@njit(cache=True)
def accumulate(
    image: np.ndarray,
    variance: np.ndarray,
    sigma: np.ndarray,
    mask: np.ndarray,
    skip: int,
    time: float,
    total: np.ndarray,
    total_variance: np.ndarray,
    total_sigma: np.ndarray,
    total_time: np.ndarray,
    total_mask: np.ndarray,
) -> None:
    """Add one snap's pixels without a bit of `skip` to the running sums.

    `sigma` and `total_sigma` may have no rows: no noise from masters. The masks are joined.
    """
    ny, nx = image.shape
    has_sigma = sigma.shape[0] > 0
    time32 = np.float32(time)
    for y in range(ny):
        for x in range(nx):
            total_mask[y, x] |= mask[y, x]
            if not mask[y, x] & skip:
                total[y, x] += image[y, x]
                total_variance[y, x] += variance[y, x]
                total_time[y, x] += time32
                if has_sigma:
                    total_sigma[y, x] += sigma[y, x]


@njit(cache=True)
def scale_to_full_time(
    total: np.ndarray,
    total_variance: np.ndarray,
    total_sigma: np.ndarray,
    total_time: np.ndarray,
    total_mask: np.ndarray,
    full_time: float,
    no_data: int,
    replaced: int,
) -> None:
    """Turn sums over the clean snaps into what all snaps would have given.

    With f = full time / time of the clean snaps: image x f, variance f^2 (sum v + (sum sigma)^2),
    for the masters' noise is the same in every snap. A pixel that only some snaps give gets the
    bit `replaced` and loses `no_data`; one that none gives gets `no_data`, image and variance 0.
    """
    ny, nx = total.shape
    full32 = np.float32(full_time)
    has_sigma = total_sigma.shape[0] > 0
    no_data32, replaced32 = np.int32(no_data), np.int32(replaced)
    for y in range(ny):
        for x in range(nx):
            time = total_time[y, x]
            if has_sigma:
                total_variance[y, x] += total_sigma[y, x] * total_sigma[y, x]
            if time <= 0:
                total_mask[y, x] |= no_data32
                total[y, x] = 0
                total_variance[y, x] = 0
            elif time < np.float32(0.999) * full32:
                f = full32 / time
                total[y, x] *= f
                total_variance[y, x] *= f * f
                total_mask[y, x] = (total_mask[y, x] & ~no_data32) | replaced32


@njit(cache=True)
def interpolate(
    image: np.ndarray, variance: np.ndarray, usable: np.ndarray, places: np.ndarray
) -> None:
    """Fill pixels from usable ones around them, weighted by 1 / distance^2.

    Looks as far as 5 pixels; what finds nothing stays. `usable` must be unset at all `places`,
    so that the result does not depend on their order.
    """
    ny, nx = image.shape
    for place in places:
        y, x = place // nx, place % nx
        weights, value, spread = 0.0, 0.0, 0.0
        for reach in range(1, 6):
            for j in range(max(0, y - reach), min(ny, y + reach + 1)):
                for i in range(max(0, x - reach), min(nx, x + reach + 1)):
                    if usable[j, i]:
                        w = 1.0 / ((j - y) ** 2 + (i - x) ** 2)
                        weights += w
                        value += w * image[j, i]
                        spread += w * variance[j, i]
            if weights > 0:
                image[y, x] = value / weights
                variance[y, x] = spread / weights
                break
