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
    bridge_rows(np.ones((3, 4), np.float32), np.zeros((3, 4), np.int32), 1, 3, 2, 4)
