"""What measurements of extended sources need to know about the PSF, everywhere on an exposure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpipipe.data.psf import Psf

_NODES = 9


@dataclass(frozen=True)
class PsfShape:
    """Moments of the PSF at some positions.

    Attributes
    ----------
    moments
        (n, 3) Ixx, Iyy, Ixy, pixel^2.
    gaussian
        (n,) share of a star's flux that the Gaussian with these moments gives.
    """

    moments: np.ndarray
    gaussian: np.ndarray


def psf_shape(psf: Psf, x: np.ndarray, y: np.ndarray) -> PsfShape:
    """Moments at these positions, interpolated linearly between 9 x 9 nodes.

    Where the model has no moments they are those of the round Gaussian of its FWHM.
    """
    ny, nx = psf.shape
    at_x = np.round(np.linspace(0, max(nx - 1, 1), _NODES))
    at_y = np.round(np.linspace(0, max(ny - 1, 1), _NODES))
    grid_y, grid_x = (axis.ravel() for axis in np.meshgrid(at_y, at_x, indexing="ij"))
    images = psf.images(grid_x, grid_y)
    node = _node_moments(images, psf)
    moments, share = node[:, :3], _gaussian_share(images, node)
    table = np.concatenate([moments, share[:, None]], axis=1).reshape(_NODES, _NODES, 4)
    value = _bilinear(table, _place(at_x, x), _place(at_y, y))
    return PsfShape(value[:, :3], value[:, 3])


def curve_of_growth(psf: Psf) -> tuple[np.ndarray, np.ndarray]:
    """Radii (pixels, from 0, to where the model ends) and the PSF's light inside them.

    That of a star in the middle of the exposure, 1 at the calibration radius.
    """
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
