"""Compiled inner loops of ca."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_OPTIONS: dict[str, Any] = {
    "cache": True,
    "fastmath": {"contract", "reassoc", "arcp", "nsz"},
    "error_model": "numpy",
}


@njit(**_OPTIONS)
def put_channel(
    plane: np.ndarray, out: np.ndarray, y0: int, x0: int, flip_y: bool, flip_x: bool
) -> None:
    """Copy a channel into the CCD image at (y0, x0), its axes turned where asked."""
    ny, nx = plane.shape
    for y in range(ny):
        row = y0 + (ny - 1 - y if flip_y else y)
        if flip_x:
            last = x0 + nx - 1
            for x in range(nx):
                out[row, last - x] = plane[y, x]
        else:
            for x in range(nx):
                out[row, x0 + x] = plane[y, x]


@njit(**_OPTIONS)
def or_channel(
    plane: np.ndarray, out: np.ndarray, y0: int, x0: int, flip_y: bool, flip_x: bool
) -> None:
    """As `put_channel`, for mask planes that are added to those of `out`."""
    ny, nx = plane.shape
    for y in range(ny):
        any_set = 0
        for x in range(nx):
            any_set |= plane[y, x]
        if any_set == 0:
            continue
        row = y0 + (ny - 1 - y if flip_y else y)
        for x in range(nx):
            out[row, x0 + (nx - 1 - x if flip_x else x)] |= plane[y, x]


@njit(**_OPTIONS)
def good_values(image: np.ndarray, mask: np.ndarray, avoid: int) -> np.ndarray:
    """(n,) float64 values of the pixels without any of the mask planes `avoid`.

    Parameters
    ----------
    image, mask
        (ny, nx) views of any strides.
    """
    ny, nx = image.shape
    values = np.empty(ny * nx)
    n = 0
    for y in range(ny):
        for x in range(nx):
            values[n] = image[y, x]
            n += (mask[y, x] & avoid) == 0
    return values[:n].copy()


@njit(**_OPTIONS)
def bridge_rows(
    image: np.ndarray, mask: np.ndarray, bad: int, avoid: int, longest: int, bit: int
) -> int:
    """Bridge runs of bad pixels along rows by the straight line between their neighbours.

    Parameters
    ----------
    image, mask
        (ny, nx) float32 and int32, changed in place.
    bad
        Mask planes that are bridged.
    avoid
        Mask planes that a neighbour must not have to be used.
    longest
        Longer runs are left as they are.
    bit
        Mask plane set where a value was made.

    Returns
    -------
    int
        Number of pixels that got a value.
    """
    ny, nx = image.shape
    n_made = 0
    for y in range(ny):
        any_bad = 0
        for x in range(nx):
            any_bad |= mask[y, x]
        if not any_bad & bad:
            continue
        x = 0
        while x < nx:
            if not mask[y, x] & bad:
                x += 1
                continue
            start = x
            while x < nx and mask[y, x] & bad:
                x += 1
            if x - start > longest:
                continue
            left, right = start - 1, x
            has_left = left >= 0 and not mask[y, left] & avoid
            has_right = right < nx and not mask[y, right] & avoid
            if not has_left and not has_right:
                continue
            for i in range(start, x):
                if has_left and has_right:
                    share = np.float32(i - left) / np.float32(right - left)
                    value = image[y, left] * (1 - share) + image[y, right] * share
                elif has_left:
                    value = image[y, left]
                else:
                    value = image[y, right]
                image[y, i] = value
                mask[y, i] |= bit
                n_made += 1
    return n_made


def warm_up() -> None:
    """Compile every kernel on tiny arrays."""
    for kind in (np.float32, np.int32):
        put_channel(np.ones((2, 2), kind), np.ones((4, 4), kind), 1, 1, True, True)
    mask = np.ones((2, 2), np.int32)
    good_values(np.ones((4, 4), np.float32)[::2, ::2], np.ones((4, 4), np.int32)[::2, ::2], 1)
    or_channel(mask, mask, 0, 0, False, False)
    bridge_rows(np.ones((3, 4), np.float32), np.zeros((3, 4), np.int32), 1, 3, 2, 4)
