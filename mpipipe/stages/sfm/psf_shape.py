"""What measurements of extended sources need to know about the PSF, everywhere on an exposure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpipipe.data.psf import Psf

_NODES = 9


@dataclass(frozen=True)
class PsfShapes:
    """Shape of the PSF all over an exposure.

    Attributes
    ----------
    node_x, node_y
        (9,) columns and lines, pixels, where it is known.
    table
        (9, 9, 4): Ixx, Iyy, Ixy (pixel^2), and the share of a star's flux that the Gaussian with
        these moments gives.
    radius, light
        Curve of growth in the middle of the exposure: radii (pixels, from 0 to where the model
        ends), and the light inside them, 1 at the calibration radius.
    """

    node_x: np.ndarray
    node_y: np.ndarray
    table: np.ndarray
    radius: np.ndarray
    light: np.ndarray

    def at(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Moments, (n, 3), and share of the Gaussian, (n,), between the nodes linearly."""
        value = _bilinear(self.table, _place(self.node_x, x), _place(self.node_y, y))
        return value[:, :3], value[:, 3]

    def light_inside(self, radius: np.ndarray) -> np.ndarray:
        """A star's light inside these radii (pixels)."""
        return np.interp(radius, self.radius, self.light)


def psf_shapes(psf: Psf) -> PsfShapes:
    """The shape of a PSF; a node without moments has those of the round Gaussian of its FWHM."""
    ny, nx = psf.shape
    node_x = np.round(np.linspace(0, max(nx - 1, 1), _NODES))
    node_y = np.round(np.linspace(0, max(ny - 1, 1), _NODES))
    grid_y, grid_x = (axis.ravel() for axis in np.meshgrid(node_y, node_x, indexing="ij"))
    images = psf.images(grid_x, grid_y)
    node = _node_moments(images, psf)
    moments, share = node[:, :3], _gaussian_share(images, node)
    table = np.concatenate([moments, share[:, None]], axis=1).reshape(_NODES, _NODES, 4)
    return PsfShapes(node_x, node_y, table, *_curve_of_growth(psf))


def _curve_of_growth(psf: Psf) -> tuple[np.ndarray, np.ndarray]:
    from mpipipe.data.circle import circle_weights

    ny, nx = psf.shape
    image = psf.image(float(nx // 2), float(ny // 2))
    radius = np.arange(0.0, psf.size / 2, 0.5)
    light = np.array([(image * circle_weights(psf.size, float(r))).sum() if r else 0.0
                      for r in radius])  # fmt: skip
    return radius, light


def _node_moments(images: np.ndarray, psf: Psf) -> np.ndarray:
    from mpipipe.data.moments import adaptive_moments

    node = adaptive_moments(images)
    lost = ~np.isfinite(node).all(axis=1)
    square, middle = psf.fwhm**2 / (8 * np.log(2)), 0.5 * (psf.size - 1)
    node[lost] = [square, square, 0.0, middle, middle]
    return node


def _gaussian_share(images: np.ndarray, node: np.ndarray) -> np.ndarray:
    axis = np.arange(images.shape[1])
    ixx, iyy, ixy, x, y = (column[:, None, None] for column in node.T)
    dy, dx = axis[None, :, None] - y, axis[None, None, :] - x
    form = (iyy * dx**2 - 2 * ixy * dx * dy + ixx * dy**2) / (ixx * iyy - ixy**2)
    return np.asarray(2 * (np.exp(-0.5 * form) * images).sum(axis=(1, 2)))


def _place(nodes: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Position in units of nodes, within them."""
    last = float(nodes[-1] - nodes[0])
    place = (np.nan_to_num(np.asarray(value, float)) - nodes[0]) / last * (len(nodes) - 1)
    return np.asarray(np.clip(place, 0, len(nodes) - 1 - 1e-9))


def _bilinear(table: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    i, j = x.astype(np.int64), y.astype(np.int64)
    u, v = (x - i)[:, None], (y - j)[:, None]
    low = table[j, i] * (1 - u) + table[j, i + 1] * u
    high = table[j + 1, i] * (1 - u) + table[j + 1, i + 1] * u
    return np.asarray(low * (1 - v) + high * v)
