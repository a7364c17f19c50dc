"""The sky background of a CCD: a few numbers on a coarse grid, and the smooth surface they mean.

The grid divides the image evenly, so that no cell is cut off at an edge; its nodes are the cells'
centres. Between nodes the surface is a natural bicubic spline, beyond the outermost nodes it goes
on linearly. The surface is linear in the values: backgrounds add by adding their values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

_BAND = 64
"""Rows that are evaluated at once."""


def cell_edges(length: int, size: int) -> np.ndarray:
    """Limits of about `size` pixels each that divide `length` pixels evenly.

    Returns
    -------
    numpy.ndarray
        int64, one more than there are cells, from 0 to `length`.
    """
    n_cells = max(1, round(length / size))
    return np.arange(n_cells + 1, dtype=np.int64) * length // n_cells


@dataclass(frozen=True)
class Background:
    """A background surface.

    Attributes
    ----------
    values
        (my, mx) float64, electrons: the level at the nodes.
    sigma
        (my, mx) float64, electrons: the width of the sky's noise in each cell; NaN if unknown.
    shape
        (ny, nx) of the image it belongs to.
    """

    values: np.ndarray
    sigma: np.ndarray
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape != self.sigma.shape:
            raise ValueError(f"values {self.values.shape} and sigma {self.sigma.shape} disagree")

    @classmethod
    def constant(cls, level: float, shape: tuple[int, int]) -> Background:
        """A flat background."""
        return cls(np.full((1, 1), float(level)), np.full((1, 1), np.nan), shape)

    @property
    def level(self) -> float:
        """The median over the nodes, electrons."""
        return float(np.median(self.values))

    @property
    def rms(self) -> float:
        """The median width of the sky's noise, electrons; NaN if unknown everywhere."""
        known = self.sigma[np.isfinite(self.sigma)]
        return float(np.median(known)) if known.size else float("nan")

    def nodes(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixel coordinates (y, x) of the nodes, each one-dimensional."""
        return _centres(self.shape[0], self.values.shape[0]), _centres(
            self.shape[1], self.values.shape[1]
        )

    def at(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The level at pixel positions `y`, `x` (arrays of one shape), float64, electrons."""
        y, x = np.broadcast_arrays(np.asarray(y, float), np.asarray(x, float))
        rows = _weights(y.ravel(), self.shape[0], self.values.shape[0])
        columns = _weights(x.ravel(), self.shape[1], self.values.shape[1])
        level = ((rows @ self.values) * columns).sum(axis=1)
        return level.reshape(y.shape)

    def image(self) -> np.ndarray:
        """The whole surface, (ny, nx) float32."""
        surface = np.zeros(self.shape, dtype=np.float32)
        for first, band in self.bands():
            surface[first : first + len(band)] = band
        return surface

    def subtract_from(self, image: np.ndarray) -> None:
        """Subtract the surface from a float32 image (ny, nx) in place."""
        if image.shape != self.shape:
            raise ValueError(f"background of {self.shape} on an image of {image.shape}")
        for first, band in self.bands():
            image[first : first + len(band)] -= band

    def bands(self) -> Iterator[tuple[int, np.ndarray]]:
        """The surface in bands of rows that stay in the CPU's cache: (first row, float32 rows).

        The array is the same one every time: use it before asking for the next.
        """
        ny, nx = self.shape
        rows = _weights(np.arange(ny, dtype=float), ny, self.values.shape[0]) @ self.values
        factors = _interval_factors(nx, rows.shape[1])
        curvature = rows @ _curvature_matrix(nx, rows.shape[1]).T
        sides = (rows[:, :-1], rows[:, 1:], curvature[:, :-1], curvature[:, 1:])
        parts = np.stack(sides, axis=-1, dtype=np.float32).transpose(1, 0, 2).copy()
        band = np.empty((min(_BAND, ny), nx), dtype=np.float32)
        for first in range(0, ny, _BAND):
            here = slice(first, min(first + _BAND, ny))
            part = band[: here.stop - here.start]
            for k, span, weights in factors:
                np.matmul(parts[k, here], weights, out=part[:, span])
            if not factors:
                part[:] = rows[here]
            yield first, part

    def __add__(self, other: Background) -> Background:
        """The sum of two backgrounds of one image; noise widths add in quadrature."""
        if self.shape != other.shape:
            raise ValueError(f"backgrounds of images {self.shape} and {other.shape}")
        finer, coarser = self, other
        if coarser.values.size > finer.values.size:
            finer, coarser = coarser, finer
        if finer.values.shape == coarser.values.shape:
            return replace(
                finer,
                values=finer.values + coarser.values,
                sigma=np.hypot(finer.sigma, coarser.sigma),
            )
        # A surface of fewer nodes is sampled: exact when it is constant, else to spline accuracy.
        y, x = np.meshgrid(*finer.nodes(), indexing="ij")
        return replace(finer, values=finer.values + coarser.at(y, x))


def _centres(length: int, n_cells: int) -> np.ndarray:
    edges = np.arange(n_cells + 1, dtype=np.int64) * length // n_cells
    centres: np.ndarray = 0.5 * (edges[1:] + edges[:-1] - 1)
    return centres


def _interval(at: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Index of the spline interval of each position; the end ones reach to infinity."""
    return np.clip(np.searchsorted(nodes, at, side="right") - 1, 0, len(nodes) - 2)


@lru_cache(maxsize=32)
def _curvature_matrix(length: int, n_cells: int) -> np.ndarray:
    """Matrix from values at the nodes to second derivatives of the natural spline there."""
    nodes, n = _centres(length, n_cells), n_cells
    matrix = np.zeros((n, n))
    if n < 3:
        return matrix
    h = np.diff(nodes)
    inner = np.arange(1, n - 1)
    system, right = np.zeros((n - 2, n - 2)), np.zeros((n - 2, n))
    system[inner - 1, inner - 1] = (h[:-1] + h[1:]) / 3
    system[inner[:-1] - 1, inner[:-1]] = h[1:-1] / 6
    system[inner[:-1], inner[:-1] - 1] = h[1:-1] / 6
    right[inner - 1, inner - 1] = 1 / h[:-1]
    right[inner - 1, inner] = -1 / h[:-1] - 1 / h[1:]
    right[inner - 1, inner + 1] = 1 / h[1:]
    matrix[1:-1] = np.linalg.solve(system, right)
    return matrix


def _hermite(t: np.ndarray, h: np.ndarray | float) -> tuple[np.ndarray, ...]:
    """Factors of left and right value and left and right curvature at fraction `t`."""
    bow_left = ((1 - t) ** 3 - (1 - t)) * h**2 / 6
    bow_right = (t**3 - t) * h**2 / 6
    # Outside the nodes: the tangent at the end, where a natural spline has no curvature.
    below, above = t < 0, t > 1
    bow_left = np.where(below, 0.0, np.where(above, (t - 1) * h**2 / 6, bow_left))
    bow_right = np.where(below, -t * h**2 / 6, np.where(above, 0.0, bow_right))
    return 1 - t, t, bow_left, bow_right


def _weights(at: np.ndarray, length: int, n_cells: int) -> np.ndarray:
    """(len(at), n_cells) weights of the nodes in the spline at positions `at`."""
    if n_cells == 1:
        return np.ones((len(at), 1))
    nodes = _centres(length, n_cells)
    k = _interval(at, nodes)
    h = np.diff(nodes)[k]
    left, right, bow_left, bow_right = _hermite((at - nodes[k]) / h, h)
    curvature = _curvature_matrix(length, n_cells)
    weights: np.ndarray = bow_left[:, None] * curvature[k] + bow_right[:, None] * curvature[k + 1]
    rows = np.arange(len(at))
    weights[rows, k] += left
    weights[rows, k + 1] += right
    return weights


def _interval_factors(length: int, n_cells: int) -> list[tuple[int, slice, np.ndarray]]:
    """For each spline interval: its number, its pixels, (4, n) float32 factors there."""
    nodes = _centres(length, n_cells)
    if len(nodes) < 2:
        return []
    pixels = np.arange(length)
    interval = _interval(pixels, nodes)
    factors = []
    for k in range(len(nodes) - 1):
        x = pixels[interval == k]
        if len(x):
            h = float(nodes[k + 1] - nodes[k])
            weights = np.array(_hermite((x - nodes[k]) / h, h), dtype=np.float32)
            factors.append((k, slice(int(x[0]), int(x[-1]) + 1), weights))
    return factors
