"""Kernels that draw a pixel basis at positions."""

from __future__ import annotations

import numpy as np
from numba import njit

from mpipipe.data.pixel_shift import REACH, copy_row, shift_image, shift_widened, widen


@njit(cache=True, fastmath={"contract"})
def evaluate(coefficients: np.ndarray, terms: np.ndarray, out: np.ndarray) -> None:
    """``out = sum_t terms[t] coefficients[t]``, for one position."""
    total = out.reshape(-1)
    total[:] = 0.0
    for t in range(len(terms)):
        factor, source = terms[t], coefficients[t].reshape(-1)
        for k in range(len(total)):
            i = np.uint64(k)  # unsigned: no test for negative indices, and so on vectors
            total[i] += factor * source[i]


@njit(cache=True)
def draw_images(
    coefficients: np.ndarray, terms: np.ndarray, dx: np.ndarray, dy: np.ndarray, out: np.ndarray
) -> None:
    """Draw one image a row of `terms`, moved by (dx, dy) from the middle, into `out`.

    Sums are of the type of the coefficients and terms.
    """
    n, size, _ = out.shape
    width = 2 * REACH + size
    wide = np.empty((len(coefficients), size, width), coefficients.dtype)
    for t in range(len(coefficients)):
        widen(coefficients[t], wide[t])
    padded = np.empty((width, width), coefficients.dtype)
    moved = np.empty((size, width), coefficients.dtype)
    for k in range(n):
        evaluate(wide, terms[k], padded[REACH : REACH + size])
        shift_widened(padded, dx[k], dy[k], moved)
        for j in range(size):
            copy_row(padded[j, :size], out[k, j])


@njit(cache=True)
def shift_images(images: np.ndarray, dx: np.ndarray, dy: np.ndarray, out: np.ndarray) -> None:
    """Move each image by its own (dx, dy), into `out`."""
    for k in range(len(out)):
        shift_image(images[k], dx[k], dy[k], out[k])
