"""Stamps that hold one source each: the others' light taken off, what is left of it masked.

The residual image plus the source's own PSF model is the source on its own as long as its
neighbours are stars. Extended neighbours leave rings: discs about them are masked. A masked pixel
takes the value of its partner on the other side of the source, of twice the variance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numba import njit

from mpipipe.data.mask import VALUE
from mpipipe.stages.sfm.measurement import Scene

_CHUNK = 64
_EXTENDED_CHI2 = 1.25
"""chi2 per pixel of a PSF fit above which models do not take off all of a source's light."""
_EXTENDED_SNR = 7.0
_SCALE = 0.7
"""Scale length of the exponential that stands for an extended neighbour, FWHM."""
_FAINT = 0.3
"""Surface brightness where a disc ends, in the noise of a pixel."""
_DISC_LIMITS = (1.0, 6.0)
"""Radius of discs, FWHM."""
_MOST_OF_DISTANCE = 0.75
_SAT = VALUE["SAT"]


@dataclass(frozen=True)
class Discs:
    """Discs that are masked for each source: those of source k are ``first[k]:first[k + 1]``.

    Attributes
    ----------
    first
        (n + 1,) int64.
    x, y, radius
        Pixels of the exposure.
    """

    first: np.ndarray
    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray


@dataclass(frozen=True)
class Stamps:
    """Stamps of some sources, (n, 2 half + 1, 2 half + 1) each.

    Attributes
    ----------
    light, variance
        float32, electrons; electron^2 of sky and read noise. 0 where nothing is known.
    known
        bool: the pixel, or its partner, is.
    x, y
        Where the source is, pixels from the middle of the stamp's middle pixel.
    models
        (n, size, size) float64 images of the PSF, in the same middle pixels.
    """

    light: np.ndarray
    variance: np.ndarray
    known: np.ndarray
    x: np.ndarray
    y: np.ndarray
    models: np.ndarray


def neighbour_discs(scene: Scene, src: np.ndarray, reach: float) -> Discs:
    """Discs about the extended neighbours of each row.

    The radius is where an exponential disc of the neighbour's flux fades into the noise, at most
    0.75 of the distance.

    Parameters
    ----------
    reach
        Neighbours this far away matter, pixels.
    """
    from scipy.spatial import KDTree

    flux, error = src["psfInstFlux"], src["psfInstFluxErr"]
    is_extended = (src["psfChi2"] > _EXTENDED_CHI2) & (flux > _EXTENDED_SNR * error)
    extended = np.flatnonzero(is_extended & np.isfinite(src["x"]) & np.isfinite(src["y"]))
    n = len(src)
    if not len(extended):
        empty = np.empty(0)
        return Discs(np.zeros(n + 1, np.int64), empty, empty, empty)
    places = np.stack([src["x"], src["y"]], axis=1)
    sane = np.where(np.isfinite(places), places, -1e9)
    tree = KDTree(places[extended])
    lists = tree.query_ball_point(sane, reach, return_sorted=True)
    count = np.array([len(one) for one in lists], np.int64)
    owner = np.repeat(np.arange(n), count)
    other = extended[np.concatenate([np.asarray(one, np.int64) for one in lists])]
    owner, other = owner[owner != other], other[owner != other]
    first = np.zeros(n + 1, np.int64)
    np.cumsum(np.bincount(owner, minlength=n), out=first[1:])
    radius = _disc_radius(scene, np.asarray(flux[other], float))
    distance = np.hypot(*(places[owner] - places[other]).T)
    radius = np.minimum(radius, _MOST_OF_DISTANCE * distance)
    return Discs(first, places[other, 0].copy(), places[other, 1].copy(), radius)


def _disc_radius(scene: Scene, flux: np.ndarray) -> np.ndarray:
    fwhm = scene.psf.fwhm
    variance = scene.planes.variance
    sample = variance.reshape(-1)[:: max(1, variance.size // 100_000)]
    sample = sample[sample > 0]
    noise = float(np.sqrt(np.median(sample))) if len(sample) else 1.0
    length = _SCALE * fwhm
    central = np.maximum(flux, 0) / (2 * np.pi * length**2)
    fades = length * np.log(np.maximum(central / (_FAINT * noise), 1.0))
    return np.asarray(np.clip(fades, _DISC_LIMITS[0] * fwhm, _DISC_LIMITS[1] * fwhm))


def each_stamps(
    scene: Scene, src: np.ndarray, rows: np.ndarray, half: int, reach: float | None = None
) -> Iterator[tuple[np.ndarray, Stamps]]:
    """Rows of `src`, so many at once that their stamps need little memory, and the stamps.

    Parameters
    ----------
    rows
        (n,) indices.
    half, reach
        See `source_stamps` and `neighbour_discs`; `reach` is 1.5 `half` if not given.
    """
    discs = neighbour_discs(scene, src, 1.5 * half if reach is None else reach)
    for first in range(0, len(rows), _CHUNK):
        some = rows[first : first + _CHUNK]
        yield some, source_stamps(scene, src, discs, some, half)


def source_stamps(
    scene: Scene, src: np.ndarray, discs: Discs, rows: np.ndarray, half: int
) -> Stamps:
    """The stamps of these rows of `src`; sources without a finite position get empty ones.

    Parameters
    ----------
    rows
        (n,) indices; see `each_stamps`.
    half
        Pixels on each side of the middle one.
    """
    x, y = np.asarray(src["x"][rows], float), np.asarray(src["y"][rows], float)
    lost = ~(np.isfinite(x) & np.isfinite(y))
    x, y = np.where(lost, -1e6, x), np.where(lost, -1e6, y)
    own = np.nan_to_num(np.asarray(src["psfInstFlux"][rows], float))
    near_x, near_y = np.where(lost, 0.0, x), np.where(lost, 0.0, y)
    models = scene.psf.images(near_x, near_y)
    shape = (len(rows), 2 * half + 1, 2 * half + 1)
    light, variance = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    known = np.zeros(shape, bool)
    _fill(
        scene.residual, scene.planes.variance, scene.planes.unusable, scene.calexp.mask,
        models, x, y, own, rows, discs.first, discs.x, discs.y, discs.radius,
        light, variance, known,
    )  # fmt: skip
    return Stamps(light, variance, known, x - np.round(x), y - np.round(y), models)


@njit(cache=True)
def _fill(
    residual: np.ndarray,
    sky_variance: np.ndarray,
    unusable: np.ndarray,
    mask: np.ndarray,
    models: np.ndarray,
    xs: np.ndarray,
    ys: np.ndarray,
    own: np.ndarray,
    rows: np.ndarray,
    first: np.ndarray,
    disc_x: np.ndarray,
    disc_y: np.ndarray,
    disc_radius: np.ndarray,
    light: np.ndarray,
    variance: np.ndarray,
    known: np.ndarray,
) -> None:
    """Copy the pixels, hide the discs, and mirror what is missing."""
    ny, nx = residual.shape
    size = light.shape[1]
    half = size // 2
    reach = models.shape[1] // 2
    hidden = np.empty((size, size), np.bool_)
    for k in range(len(xs)):
        # As `Psf.images` places them: halves to even.
        mx, my = int(np.round(xs[k])), int(np.round(ys[k]))
        x0, y0 = mx - half, my - half
        hidden[:] = True
        for j in range(max(0, -y0), min(size, ny - y0)):
            for i in range(max(0, -x0), min(size, nx - x0)):
                y, x = y0 + j, x0 + i
                v = sky_variance[y, x]
                if unusable[y, x] or mask[y, x] & _SAT or not v > 0:
                    continue
                hidden[j, i] = False
                light[k, j, i], variance[k, j, i] = residual[y, x], v
        for j in range(max(0, half - reach), min(size, half + reach + 1)):
            for i in range(max(0, half - reach), min(size, half + reach + 1)):
                if not hidden[j, i]:
                    light[k, j, i] += own[k] * models[k, j - half + reach, i - half + reach]
        for d in range(first[rows[k]], first[rows[k] + 1]):
            _hide(hidden, disc_x[d] - x0, disc_y[d] - y0, disc_radius[d])
        turn_x, turn_y = int(np.round(2 * xs[k])) - 2 * x0, int(np.round(2 * ys[k])) - 2 * y0
        for j in range(size):
            for i in range(size):
                if not hidden[j, i]:
                    known[k, j, i] = True
                    continue
                light[k, j, i], variance[k, j, i] = 0.0, 0.0
                pj, pi = turn_y - j, turn_x - i
                if 0 <= pj < size and 0 <= pi < size and not hidden[pj, pi]:
                    known[k, j, i] = True
                    light[k, j, i], variance[k, j, i] = light[k, pj, pi], 2 * variance[k, pj, pi]


@njit(cache=True)
def _hide(hidden: np.ndarray, x: float, y: float, radius: float) -> None:
    """Set the pixels of a disc."""
    size = hidden.shape[0]
    for j in range(max(0, int(np.ceil(y - radius))), min(size, int(np.floor(y + radius)) + 1)):
        for i in range(max(0, int(np.ceil(x - radius))), min(size, int(np.floor(x + radius)) + 1)):
            if (j - y) ** 2 + (i - x) ** 2 <= radius * radius:
                hidden[j, i] = True
