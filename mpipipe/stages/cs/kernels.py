"""Compiled kernels of the cosmic-ray stages.

A pixel is sharper than any star can be when it exceeds the mean of two opposite neighbours by
more than the point-spread function allows (the condition of SDSS's and Rubin's pipelines; see also
van Dokkum 2001). `ratios` holds, for each direction of `DIRECTIONS`, the smallest mean of pair over
centre that a star can have. Hits are the plane CR of the mask. No pixel with a bit of `avoid` is
ever flagged or used as a neighbour.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mpipipe.data.mask import VALUE
from mpipipe.stages.seeing import DIRECTIONS

_DY = np.array([step[0] for step in DIRECTIONS])
_DX = np.array([step[1] for step in DIRECTIONS])
_MODEL_ERROR = 0.02
"""Relative error of the profile between neighbouring pixels, in the noise of the shape test."""

_LIT_SNR, _LIT_SHARE = 1.0, 0.58
"""A pixel lies on light when this share of the 5 x 5 box about it is above this significance."""

_CR, _SAT = np.int32(VALUE["CR"]), np.int32(VALUE["SAT"])
_NEW = np.int32(1 << 30)
"""Marks what a round of growing found, until the round is over."""


@njit(cache=True)
def _is_sharp(
    image: np.ndarray,
    variance: np.ndarray,
    mask: np.ndarray,
    avoid: int,
    ratios: np.ndarray,
    y: int,
    x: int,
    factor: float,
    n_sigma: float,
    leave_out_hits: bool,
) -> bool:
    """Whether the pixel rises above any of its four pairs of neighbours by more than allowed.

    With `leave_out_hits` a neighbour that is already flagged is left out of its pair; otherwise
    the pair counts as it is. Pairs with an avoided or missing pixel are passed over.
    """
    ny, nx = image.shape
    p, v = image[y, x], variance[y, x]
    for k in range(4):
        total, noise, count = 0.0, 0.0, 0
        whole = True
        for sign in (-1, 1):
            j, i = y + sign * _DY[k], x + sign * _DX[k]
            if j < 0 or j >= ny or i < 0 or i >= nx or mask[j, i] & avoid:
                whole = False
            elif not (leave_out_hits and mask[j, i] & _CR):
                total += image[j, i]
                noise += variance[j, i]
                count += 1
        if not whole or count == 0:
            continue
        scale = factor * ratios[k]
        excess = scale * p - total / count
        spread = scale * scale * v + noise / (count * count) + (_MODEL_ERROR * p) ** 2
        if excess > 0 and excess * excess > n_sigma * n_sigma * spread:
            return True
    return False


@njit(cache=True)
def _is_lit(image: np.ndarray, variance: np.ndarray, y: int, x: int) -> bool:
    """Whether most pixels around are bright too.

    A track lights few of them; the flank of a wide star most, and there are so many such pixels
    that the noise of some would pass for a hit.
    """
    ny, nx = image.shape
    n, n_lit = 0, 0
    for j in range(max(0, y - 2), min(ny, y + 3)):
        for i in range(max(0, x - 2), min(nx, x + 3)):
            if j != y or i != x:
                p = image[j, i]
                n += 1
                if p * abs(p) > _LIT_SNR * _LIT_SNR * variance[j, i]:
                    n_lit += 1
    return n_lit >= _LIT_SHARE * n


@njit(cache=True)
def _near_saturated(mask: np.ndarray, y: int, x: int) -> bool:
    ny, nx = mask.shape
    for j in range(max(0, y - 1), min(ny, y + 2)):
        for i in range(max(0, x - 1), min(nx, x + 2)):
            if mask[j, i] & _SAT:
                return True
    return False


@njit(cache=True)
def find_seeds(
    image: np.ndarray,
    variance: np.ndarray,
    mask: np.ndarray,
    avoid: int,
    ratios: np.ndarray,
    min_snr: float,
    factor: float,
    n_sigma: float,
    lit_n_sigma: float,
    found: np.ndarray,
) -> int:
    """Flag pixels above `min_snr` that are sharper than a star; return how many there are.

    Parameters
    ----------
    image, variance
        (ny, nx) float32, background subtracted.
    mask
        (ny, nx) int32, receives the plane CR. Hits keep a pixel away from saturated ones, where
        profiles break off.
    avoid
        Bits of unusable pixels, SAT among them.
    found
        int64, receives y * nx + x of the seeds. When it is too short, the search ends there.
    """
    ny, nx = image.shape
    squared = np.float32(min_snr * min_snr)
    n = 0
    for y in range(ny):
        for x in range(nx):
            p = image[y, x]
            # One comparison, hardly ever true: p > 0 by itself would be a toss of a coin.
            if not p * abs(p) > squared * variance[y, x] or mask[y, x] & avoid:
                continue
            test = (image, variance, mask, avoid, ratios, y, x, factor)
            if not _is_sharp(*test, n_sigma, False) or _near_saturated(mask, y, x):
                continue
            if _is_lit(image, variance, y, x) and not _is_sharp(*test, lit_n_sigma, False):
                continue
            if n == len(found):
                return n
            found[n] = y * nx + x
            n += 1
    for k in range(n):
        mask[found[k] // nx, found[k] % nx] |= _CR
    return n


@njit(cache=True)
def grow_by_shape(
    image: np.ndarray,
    variance: np.ndarray,
    mask: np.ndarray,
    avoid: int,
    ratios: np.ndarray,
    rounds: int,
    lit_rounds: int,
    min_snr: float,
    factor: float,
    n_sigma: float,
    found: np.ndarray,
    n: int,
) -> int:
    """Follow tracks: flag neighbours of hits that pass a looser test; return the new count.

    A round only sees hits of earlier rounds, so the result does not depend on the order. On the
    light of a source only `lit_rounds` are made: there a hit must not eat its way over the star.
    """
    ny, nx = image.shape
    skip = np.int32(avoid) | _CR | _NEW
    squared = np.float32(min_snr * min_snr)
    for k_round in range(rounds):
        first = n
        for k in range(first):
            y, x = found[k] // nx, found[k] % nx
            for j in range(max(0, y - 1), min(ny, y + 2)):
                for i in range(max(0, x - 1), min(nx, x + 2)):
                    p = image[j, i]
                    if mask[j, i] & skip or n == len(found):
                        continue
                    if not (p > 0 and p * p > squared * variance[j, i]):
                        continue
                    if _near_saturated(mask, j, i):
                        continue
                    if k_round >= lit_rounds and _is_lit(image, variance, j, i):
                        continue
                    if _is_sharp(image, variance, mask, avoid, ratios, j, i, factor, n_sigma, True):
                        mask[j, i] |= _NEW
                        found[n] = j * nx + i
                        n += 1
        for k in range(first, n):
            y, x = found[k] // nx, found[k] % nx
            mask[y, x] = (mask[y, x] | _CR) & ~_NEW
        if n == first:
            break
    return n


@njit(cache=True)
def set_around(mask: np.ndarray, places: np.ndarray, bit: int, value: bool) -> None:
    """Set or clear a bit of the mask on pixels (y * nx + x) and their eight neighbours."""
    ny, nx = mask.shape
    for place in places:
        y, x = place // nx, place % nx
        for j in range(max(0, y - 1), min(ny, y + 2)):
            for i in range(max(0, x - 1), min(nx, x + 2)):
                if value:
                    mask[j, i] |= np.int32(bit)
                else:
                    mask[j, i] &= ~np.int32(bit)


@njit(cache=True)
def keep_brighter(
    difference: np.ndarray,
    difference_variance: np.ndarray,
    sign: float,
    n_sigma: float,
    mask: np.ndarray,
    other_mask: np.ndarray,
    avoid: int,
    found: np.ndarray,
    n: int,
) -> int:
    """Unflag hits whose snap is not significantly brighter than the other; return what is left.

    Where the other snap has no usable pixel the shape alone decides. `found` is compacted.
    """
    nx = difference.shape[1]
    kept = 0
    for k in range(n):
        y, x = found[k] // nx, found[k] % nx
        d = sign * difference[y, x]
        brighter = d > 0 and d * d > n_sigma * n_sigma * difference_variance[y, x]
        if brighter or other_mask[y, x] & avoid:
            found[kept] = found[k]
            kept += 1
        else:
            mask[y, x] &= ~_CR
    return kept


@njit(cache=True)
def grow_by_difference(
    image: np.ndarray,
    variance: np.ndarray,
    difference: np.ndarray,
    difference_variance: np.ndarray,
    sign: float,
    mask: np.ndarray,
    avoid: int,
    rounds: int,
    min_snr: float,
    n_sigma: float,
    found: np.ndarray,
    n: int,
) -> int:
    """Grow hits while the pixel and its excess over the other snap are significant."""
    ny, nx = image.shape
    skip = np.int32(avoid) | _CR
    squared, squared_d = np.float32(min_snr * min_snr), np.float32(n_sigma * n_sigma)
    first = 0
    for _ in range(rounds):
        last = n
        for k in range(first, last):
            y, x = found[k] // nx, found[k] % nx
            for j in range(max(0, y - 1), min(ny, y + 2)):
                for i in range(max(0, x - 1), min(nx, x + 2)):
                    if mask[j, i] & skip or n == len(found):
                        continue
                    p, d = image[j, i], sign * difference[j, i]
                    if not (p > 0 and p * p > squared * variance[j, i]):
                        continue
                    if d > 0 and d * d > squared_d * difference_variance[j, i]:
                        mask[j, i] |= _CR
                        found[n] = j * nx + i
                        n += 1
        first = last
    return n
