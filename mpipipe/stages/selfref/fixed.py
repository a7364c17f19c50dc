"""Sources that belong to the detector: hot pixels and the like stay where they are on the CCD."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_SIDE = 2.0
"""Of a cell, pixels."""
_SHIFTS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Of the grid, in half cells: whatever is within a pixel shares a cell of one of them."""
_LEAST = 3
"""Frames that must show it."""


def stay_in_place(positions: Sequence[np.ndarray], share: float) -> list[np.ndarray]:
    """Which sources have one at the same pixel in at least this share of all frames.

    Stars do so as well where the telescope does not move.

    Parameters
    ----------
    positions
        (n, 2) pixels of every frame of one CCD.
    share
        Of the frames.

    Returns
    -------
    list of numpy.ndarray
        A mask for every frame.
    """
    return _split(positions, _fixed(positions, None, share, 0.0))


def belong_to_detector(
    positions: Sequence[np.ndarray], stars: Sequence[np.ndarray], share: float
) -> list[np.ndarray]:
    """Which sources stay at a pixel of the CCD, but not at a place on the sky.

    Parameters
    ----------
    positions
        (n, 2) pixels of every frame of one CCD.
    stars
        (n,) number of the star that each source is; negative: none.
    share
        Of the frames that must show it.

    Returns
    -------
    list of numpy.ndarray
        A mask for every frame.
    """
    # Where a field drifts slowly, a few frames take a hot pixel for one star.
    return _split(positions, _fixed(positions, np.concatenate([*stars]), share, 1.0 / 3.0))


def _fixed(
    positions: Sequence[np.ndarray], stars: np.ndarray | None, share: float, different: float
) -> np.ndarray:
    """A mask of all sources: enough frames in one cell, with enough different stars."""
    points = np.concatenate([*positions])
    frame = np.repeat(np.arange(len(positions)), [len(part) for part in positions])
    least = max(_LEAST, share * len(positions))
    fixed = np.zeros(len(points), dtype=bool)
    for shift in _SHIFTS:
        cells = np.floor(points / _SIDE + 0.5 * np.array(shift)).astype(np.int64)
        cell = np.unique(cells, axis=0, return_inverse=True)[1].ravel()
        n_frames = _distinct(cell, frame)
        here = n_frames >= least
        if stars is not None:
            here &= _distinct(cell, stars) >= np.maximum(different * n_frames, 2)
        fixed |= here[cell]
    return fixed


def _distinct(cell: np.ndarray, value: np.ndarray) -> np.ndarray:
    """How many different values each cell holds."""
    pairs = np.unique(np.stack([cell, value], axis=1), axis=0)
    return np.bincount(pairs[:, 0], minlength=int(cell.max(initial=-1)) + 1)


def _split(positions: Sequence[np.ndarray], values: np.ndarray) -> list[np.ndarray]:
    ends = np.cumsum([len(part) for part in positions])
    return np.split(values, ends[:-1])
