"""Positions on the sky as vectors."""

from __future__ import annotations

import numpy as np


def unit_vectors(ra: np.ndarray | float, dec: np.ndarray | float) -> np.ndarray:
    """(n, 3) unit vectors to positions in degrees."""
    a, d = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=-1)


def sky_of(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right ascension (0 to 360) and declination of (n, 3) vectors of any length, degrees."""
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    return np.degrees(np.arctan2(y, x)) % 360.0, np.degrees(np.arctan2(z, np.hypot(x, y)))
