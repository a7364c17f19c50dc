"""Adaptive moments of noise-free stamps, for the truth tables."""

from __future__ import annotations

import numpy as np


def adaptive_moments(stamps: np.ndarray, rounds: int = 60) -> np.ndarray:
    """Second moments under the best-fitting elliptical Gaussian weight.

    The weight's own moments are iterated until they equal twice the weighted moments, as
    Bernstein & Jarvis (2002, AJ 123, 583) and Hirata & Seljak (2003, MNRAS 343, 459) define.

    Parameters
    ----------
    stamps
        (n, size, size), without noise, one source near the middle of each.

    Returns
    -------
    (n, 5): Ixx, Iyy, Ixy in pixel^2, and the centroid x, y in pixels of the stamp.
    """
    n, size, _ = stamps.shape
    y, x = np.mgrid[:size, :size].astype(float)
    centre = np.full((n, 2), (size - 1) / 2.0)
    cov = np.repeat(4.0 * np.eye(2)[None], n, axis=0)
    for _ in range(rounds):
        dx, dy = x - centre[:, 0, None, None], y - centre[:, 1, None, None]
        inverse = np.linalg.inv(cov)
        q = (
            inverse[:, 0, 0, None, None] * dx * dx
            + 2.0 * inverse[:, 0, 1, None, None] * dx * dy
            + inverse[:, 1, 1, None, None] * dy * dy
        )
        w = np.exp(-0.5 * q) * stamps
        total = w.sum(axis=(1, 2))
        mean_x, mean_y = (w * dx).sum(axis=(1, 2)) / total, (w * dy).sum(axis=(1, 2)) / total
        centre += 2.0 * np.stack([mean_x, mean_y], axis=1)
        xx = (w * dx * dx).sum(axis=(1, 2)) / total - mean_x**2
        yy = (w * dy * dy).sum(axis=(1, 2)) / total - mean_y**2
        xy = (w * dx * dy).sum(axis=(1, 2)) / total - mean_x * mean_y
        cov = 2.0 * np.stack([xx, xy, xy, yy], axis=1).reshape(n, 2, 2)
    return np.concatenate([cov[:, [0, 1, 0], [0, 1, 1]], centre], axis=1)
