"""Stars on the sky that grow in number and accuracy with every frame that shows them.

A star's position is the weighted mean of all its detections. Stars are found again by cells of
space through which the unit sphere passes: so there is no pole and no RA 0/360.
"""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np

from mpipipe.data.sky_vectors import sky_of

MAS = np.pi / (180.0 * 3600.0e3)
"""A milliarcsecond in radians."""


class SkyStars:
    """Weighted means of detections, by number of the star.

    Parameters
    ----------
    cell
        Side of a cell, degrees: about as large as what `near` is asked for.
    """

    def __init__(self, cell: float) -> None:
        self._cell = 2.0 * np.sin(np.radians(min(cell, 60.0)) / 2.0)
        self._cells: dict[tuple[int, int, int], list[np.ndarray]] = defaultdict(list)
        self._sum = np.zeros((1024, 3))
        self._weight = np.zeros(1024)
        self._magnitude = np.zeros(1024)
        self._members = np.zeros((1024, 2), dtype=np.int64)
        self._n = 0

    def __len__(self) -> int:
        return self._n

    @property
    def members(self) -> np.ndarray:
        """(n,) detections that a star has; 0 of one that is given up."""
        return self._members[: self._n, 0]

    @property
    def vectors(self) -> np.ndarray:
        """(n, 3) unit vectors."""
        length = np.linalg.norm(self._sum[: self._n], axis=1, keepdims=True)
        return np.asarray(self._sum[: self._n] / np.where(length > 0.0, length, 1.0))

    def near(self, vector: np.ndarray, radius: float) -> np.ndarray:
        """Numbers, rising, of the stars within a radius (deg) of a unit vector."""
        chord = 2.0 * np.sin(np.radians(min(radius, 180.0)) / 2.0)
        low, high = (np.floor((vector + way * chord) / self._cell).astype(int) for way in (-1, 1))
        sides = [range(a, b + 1) for a, b in zip(low.tolist(), high.tolist(), strict=True)]
        if np.prod([len(side) for side in sides]) <= len(self._cells):
            x, y, z = sides
            keys = itertools.product(x, y, z)
            found = [part for key in keys for part in self._cells.get(key, ())]
        else:
            found = [
                part
                for key, parts in self._cells.items()
                if all(k in side for k, side in zip(key, sides, strict=True))
                for part in parts
            ]
        numbers = np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *found]))
        numbers = numbers[self._members[numbers, 0] > 0]
        apart = self._sum[numbers] / np.linalg.norm(self._sum[numbers], axis=1)[:, None] - vector
        return np.asarray(numbers[(apart**2).sum(axis=1) <= chord**2])

    def places(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Right ascension, declination (deg) and standard error an axis (mas) of stars."""
        error = 1.0 / np.sqrt(self._weight[numbers]) / MAS
        return (*sky_of(self._sum[numbers]), error)

    def magnitudes(self, numbers: np.ndarray) -> np.ndarray:
        """Mean magnitudes; NaN if unknown."""
        n = self._members[numbers, 1]
        return np.where(n > 0, self._magnitude[numbers] / np.maximum(n, 1), np.nan)

    def add(self, number: int, vectors: np.ndarray) -> np.ndarray:
        """Numbers of so many new stars, which will be near these vectors."""
        first = self._n
        self._n += number
        while self._n > len(self._weight):
            self._sum, self._weight, self._magnitude, self._members = (
                np.concatenate([values, np.zeros_like(values)])
                for values in (self._sum, self._weight, self._magnitude, self._members)
            )
        numbers = np.arange(first, self._n)
        keys = np.floor(vectors / self._cell).astype(int)
        order = np.lexsort(keys.T[::-1])
        change = np.flatnonzero(np.any(np.diff(keys[order], axis=0) != 0, axis=1)) + 1
        for part in np.split(order, change) if number else ():
            x, y, z = keys[part[0]].tolist()
            self._cells[x, y, z].append(numbers[part])
        return numbers

    def put(
        self,
        numbers: np.ndarray,
        vectors: np.ndarray,
        error: np.ndarray,
        magnitudes: np.ndarray,
        sign: int = 1,
    ) -> None:
        """Give each of some stars, all different, one detection more, or take one away (-1).

        Parameters
        ----------
        vectors
            (n, 3) unit vectors.
        error
            Standard error an axis, mas.
        magnitudes
            NaN if unknown.
        """
        weight = 1.0 / (error * MAS) ** 2
        known = np.isfinite(magnitudes)
        self._sum[numbers] += sign * weight[:, None] * vectors
        self._weight[numbers] += sign * weight
        self._magnitude[numbers] += sign * np.where(known, magnitudes, 0.0)
        self._members[numbers] += sign * np.stack([np.ones(len(known), int), known], axis=1)
        if sign < 0:
            # Nothing of rounding stays of a star that nobody sees.
            gone = numbers[self._members[numbers, 0] == 0]
            self._sum[gone], self._weight[gone], self._magnitude[gone] = 0.0, 0.0, 0.0
