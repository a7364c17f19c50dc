"""Kernels that draw a pixel basis at positions."""

from __future__ import annotations

import numpy as np
from numba import njit

from mpipipe.data.pixel_shift import N_TAPS, REACH, shift_image


@njit(cache=True)
def evaluate(coefficients: np.ndarray, terms: np.ndarray, out: np.ndarray) -> None:
    """``out = sum_t terms[t] coefficients[t]``, for one position."""
    size = out.shape[0]
    for j in range(size):
        row = out[j]
        row[:] = 0.0
        for t in range(len(terms)):
            factor = terms[t]
            source = coefficients[t, j]
            for i in range(size):
                row[i] += factor * source[i]


@njit(cache=True)
def draw_images(
    coefficients: np.ndarray, terms: np.ndarray, dx: np.ndarray, dy: np.ndarray, out: np.ndarray
) -> None:
    """Draw one image a row of `terms`, moved by (dx, dy) from the middle, into `out`."""
    n, size, _ = out.shape
    centred = np.empty((size, size))
    padded = np.empty((size, size + 2 * REACH))
    taps = np.empty(N_TAPS)
    for k in range(n):
        evaluate(coefficients, terms[k], centred)
        shift_image(centred, dx[k], dy[k], padded, taps, out[k])


@njit(cache=True)
def shift_images(images: np.ndarray, dx: np.ndarray, dy: np.ndarray, out: np.ndarray) -> None:
    """Move each image by its own (dx, dy), into `out`."""
    n, size, _ = out.shape
    padded = np.empty((size, size + 2 * REACH))
    taps = np.empty(N_TAPS)
    for k in range(n):
        shift_image(images[k], dx[k], dy[k], padded, taps, out[k])
