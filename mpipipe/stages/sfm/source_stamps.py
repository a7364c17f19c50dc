"""Stamps that hold one source each: the others' light taken off, what is left of it masked.

The residual image plus the source's own PSF model is the source on its own as long as its
neighbours are stars. Extended neighbours leave rings: discs about them are masked. A masked pixel
takes the value of its partner on the other side of the source, of twice the variance. The halos of
bright sources are taken off for all others.

Stamps and PSF models are made once for all measurements of a piece of the catalogue, so long that
what is used by several stays in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit

from mpipipe.data.pixel_shift import copy_row
from mpipipe.stages.measurement_planes import MeasurementPlanes
from mpipipe.stages.psf_models import PsfModels
from mpipipe.stages.sfm.halos import Halos, halo_at, halo_end, ring_table

_PIECE = 128
HALVES = (4.0, 8.0, 14.0)
"""Half sides of stamps, FWHM: those of all sources, and of the few that do not fit in."""
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


@dataclass(frozen=True)
class Discs:
    """Discs about extended sources, which are masked for all others, in a grid of cells.

    Attributes
    ----------
    row
        (m,) int64, the source of each, cell by cell.
    x, y, radius
        (m,) pixels of the exposure.
    first
        (ny * nx + 1,) int64: those of cell k are ``first[k]:first[k + 1]``, lines of cells one
        after the other.
    shape
        (ny, nx) cells.
    cell
        Side of a cell, pixels: no radius is larger.
    """

    row: np.ndarray
    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    first: np.ndarray
    shape: tuple[int, int]
    cell: float

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """`row`, `x`, `y`, `radius`, `first`: as kernels take them."""
        return self.row, self.x, self.y, self.radius, self.first


@dataclass(frozen=True)
class Ground:
    """What stamps are cut from.

    Attributes
    ----------
    residual
        (ny, nx) float32, electrons: the image with the models and halos of all sources taken off.
    planes
        Of the exposure.
    unknown
        (ny, nx) bool: pixels that tell nothing: unusable, saturated, or without a variance.
    models
        Images of the PSF at all sources.
    discs
        About extended sources.
    halos
        What was taken off beyond the models.
    """

    residual: np.ndarray
    planes: MeasurementPlanes
    unknown: np.ndarray
    models: PsfModels
    discs: Discs
    halos: Halos


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
        (n, size, size) float32 images of the PSF, in the same middle pixels.
    """

    light: np.ndarray
    variance: np.ndarray
    known: np.ndarray
    x: np.ndarray
    y: np.ndarray
    models: np.ndarray


class Piece:
    """Some consecutive rows of the catalogue: where they are, their PSF models and stamps.

    Attributes
    ----------
    ground
        What stamps are cut from.
    first
        Number of its first row in the catalogue.
    x, y, flux
        (n,) pixels and electrons of the PSF fit; sources without a finite position stand far
        outside, and their stamps are empty. Fluxes that are not finite count as 0.
    """

    def __init__(self, ground: Ground, src: np.ndarray, first: int) -> None:
        x, y = src["x"].astype(float), src["y"].astype(float)
        lost = ~(np.isfinite(x) & np.isfinite(y))
        self.ground, self.first = ground, first
        self.x, self.y = np.where(lost, -1e6, x), np.where(lost, -1e6, y)
        self.flux = np.nan_to_num(src["psfInstFlux"].astype(float))

    @cached_property
    def models(self) -> np.ndarray:
        """(n, size, size) float32 images of the PSF."""
        return self._draw(np.arange(len(self.x)))

    def _draw(self, rows: np.ndarray) -> np.ndarray:
        x, y = self.x[rows], self.y[rows]
        lost = x < -1e5
        x, y = np.where(lost, 0.0, x), np.where(lost, 0.0, y)
        return self.ground.models.at(self.first + rows, x, y)

    @cached_property
    def common(self) -> Stamps:
        """Stamps of all rows, of the first of `HALVES`."""
        rows = np.arange(len(self.x))
        return self._cut(rows, int(np.ceil(HALVES[0] * self.ground.models.psf.fwhm)), self.models)

    def stamps(self, rows: np.ndarray, half: int) -> Stamps:
        """Stamps of some rows.

        Parameters
        ----------
        rows
            Indices into the piece.
        half
            Pixels on each side of the middle one.
        """
        # Drawn for all only where others want all.
        drawn = self.models[rows] if "models" in self.__dict__ else self._draw(rows)
        return self._cut(rows, half, drawn)

    def growing(self, wants_more: Callable[[], np.ndarray]) -> Iterator[tuple[np.ndarray, Stamps]]:
        """The common stamps of all rows, then larger ones of those that still want more.

        Parameters
        ----------
        wants_more
            Gives (n,) bool, once what was yielded is measured.
        """
        yield np.arange(len(self.x)), self.common
        for half in HALVES[1:]:
            rows = np.flatnonzero(wants_more())
            if len(rows):
                yield rows, self.stamps(rows, int(np.ceil(half * self.ground.models.psf.fwhm)))

    def _cut(self, rows: np.ndarray, half: int, models: np.ndarray) -> Stamps:
        ground, discs = self.ground, self.ground.discs
        shape = (len(rows), 2 * half + 1, 2 * half + 1)
        light, variance = np.empty(shape, np.float32), np.empty(shape, np.float32)
        known = np.empty(shape, bool)
        x, y = self.x[rows], self.y[rows]
        _cut_all(
            ground.residual, ground.planes.variance, ground.unknown, models, x, y,
            self.flux[rows], self.first + rows, discs.arrays, discs.shape, discs.cell,
            ground.halos.arrays, light, variance, known,
        )  # fmt: skip
        return Stamps(light, variance, known, x - np.round(x), y - np.round(y), models)


def pieces(ground: Ground, src: np.ndarray) -> Iterator[tuple[np.ndarray, Piece]]:
    """The catalogue piece by piece: the rows (a view), and what is made of them."""
    for first in range(0, len(src), _PIECE):
        rows = src[first : first + _PIECE]
        yield rows, Piece(ground, rows, first)


def extended_discs(planes: MeasurementPlanes, fwhm: float, src: np.ndarray) -> Discs:
    """Discs about the extended sources of a catalogue.

    The radius is where an exponential disc of the source's flux fades into the noise. For each
    other source it ends at 0.75 of the distance.
    """
    flux, error = src["psfInstFlux"], src["psfInstFluxErr"]
    is_extended = (src["psfChi2"] > _EXTENDED_CHI2) & (flux > _EXTENDED_SNR * error)
    row = np.flatnonzero(is_extended & np.isfinite(src["x"]) & np.isfinite(src["y"]))
    cell = max(_DISC_LIMITS[1] * fwhm, 1.0)
    ny, nx = (int(side / cell) + 1 for side in planes.variance.shape)
    x, y = src["x"][row].astype(float), src["y"][row].astype(float)
    j = np.clip((y / cell).astype(np.int64), 0, ny - 1)
    i = np.clip((x / cell).astype(np.int64), 0, nx - 1)
    order = np.argsort(j * nx + i, kind="stable")
    first = np.zeros(ny * nx + 1, np.int64)
    np.cumsum(np.bincount(j * nx + i, minlength=ny * nx), out=first[1:])
    radius = _disc_radius(planes, fwhm, flux[row].astype(float))
    return Discs(row[order], x[order], y[order], radius[order], first, (ny, nx), cell)


def sky_noise(planes: MeasurementPlanes) -> float:
    """Noise of a typical pixel of the sky, electrons; 1 if there is none."""
    variance = planes.variance
    sample = variance.reshape(-1)[:: max(1, variance.size // 100_000)]
    sample = sample[sample > 0]
    return float(np.sqrt(np.median(sample))) if len(sample) else 1.0


def _disc_radius(planes: MeasurementPlanes, fwhm: float, flux: np.ndarray) -> np.ndarray:
    noise = sky_noise(planes)
    length = _SCALE * fwhm
    central = np.maximum(flux, 0) / (2 * np.pi * length**2)
    fades = length * np.log(np.maximum(central / (_FAINT * noise), 1.0))
    return np.asarray(np.clip(fades, _DISC_LIMITS[0] * fwhm, _DISC_LIMITS[1] * fwhm))


@njit(cache=True)
def hide_discs(
    known: np.ndarray,
    own: int,
    x: float,
    y: float,
    x0: int,
    y0: int,
    discs: tuple[np.ndarray, ...],
    shape: tuple[int, int],
    cell: float,
) -> int:
    """Mark the pixels of a stamp as not known that lie in discs of sources other than `own`.

    Parameters
    ----------
    known
        (size, size) bool, in place; (x0, y0) is its first pixel.
    own, x, y
        Number and position of the stamp's source.
    discs, shape, cell
        See `Discs`.

    Returns
    -------
    int
        How many pixels were.
    """
    row, disc_x, disc_y, disc_radius, first = discs
    size, n = known.shape[0], 0
    # A disc that reaches the stamp stands in a cell at most one away from it.
    low_j, high_j = int(np.floor(y0 / cell)) - 1, int(np.floor((y0 + size) / cell)) + 1
    low_i, high_i = int(np.floor(x0 / cell)) - 1, int(np.floor((x0 + size) / cell)) + 1
    for j in range(max(low_j, 0), min(high_j + 1, shape[0])):
        for i in range(max(low_i, 0), min(high_i + 1, shape[1])):
            at = j * shape[1] + i
            for d in range(first[at], first[at + 1]):
                if row[d] != own:
                    away = np.hypot(disc_x[d] - x, disc_y[d] - y)
                    radius = min(disc_radius[d], _MOST_OF_DISTANCE * away)
                    n += _hide(known, disc_x[d] - x0, disc_y[d] - y0, radius)
    return n


@njit(cache=True)
def _hide(known: np.ndarray, x: float, y: float, radius: float) -> int:
    """Mark the pixels of a disc as not known; how many were."""
    size, n = known.shape[0], 0
    for j in range(max(0, int(np.ceil(y - radius))), min(size, int(np.floor(y + radius)) + 1)):
        for i in range(max(0, int(np.ceil(x - radius))), min(size, int(np.floor(x + radius)) + 1)):
            if known[j, i] and (j - y) ** 2 + (i - x) ** 2 <= radius * radius:
                known[j, i] = False
                n += 1
    return n


@njit(cache=True)
def _cut_all(
    residual: np.ndarray,
    sky_variance: np.ndarray,
    unknown: np.ndarray,
    models: np.ndarray,
    xs: np.ndarray,
    ys: np.ndarray,
    own: np.ndarray,
    rows: np.ndarray,
    discs: tuple[np.ndarray, ...],
    shape: tuple[int, int],
    cell: float,
    halos: tuple[np.ndarray, ...],
    light: np.ndarray,
    variance: np.ndarray,
    known: np.ndarray,
) -> None:
    """Copy the pixels, add the source's own light, hide the discs, mirror what is missing."""
    halo_of, radius, profiles, inner = halos
    table = ring_table(radius)
    size = light.shape[1]
    half = size // 2
    for k in range(len(xs)):
        # As `Psf.images` places them: halves to even.
        x0, y0 = int(np.round(xs[k])) - half, int(np.round(ys[k])) - half
        missing = _copy(
            residual, sky_variance, unknown, x0, y0, light[k], variance[k], known[k]
        )  # fmt: skip
        _add_model(light[k], models[k], own[k])
        halo = halo_of[rows[k]]
        if halo >= 0 and half > inner[halo]:
            _add_halo(light[k], xs[k] - x0, ys[k] - y0, radius, table, profiles[halo], inner[halo])
        missing += hide_discs(known[k], rows[k], xs[k], ys[k], x0, y0, discs, shape, cell)
        if missing > 0:
            turn_x, turn_y = int(np.round(2 * xs[k])) - 2 * x0, int(np.round(2 * ys[k])) - 2 * y0
            _mirror(light[k], variance[k], known[k], turn_x, turn_y)


@njit(cache=True)
def _copy(
    residual: np.ndarray,
    sky_variance: np.ndarray,
    unknown: np.ndarray,
    x0: int,
    y0: int,
    light: np.ndarray,
    variance: np.ndarray,
    known: np.ndarray,
) -> int:
    """Fill a stamp; how many of its pixels are not known."""
    ny, nx = residual.shape
    size = light.shape[0]
    low, high = min(max(0, -x0), size), max(0, min(size, nx - x0))
    missing = 0
    for j in range(size):
        y = y0 + j
        if y < 0 or y >= ny or low >= high:
            known[j] = False
            missing += size
            continue
        known[j, :low], known[j, high:] = False, False
        missing += low + size - high
        part = slice(x0 + low, x0 + high)
        copy_row(residual[y, part], light[j, low:high])
        copy_row(sky_variance[y, part], variance[j, low:high])
        missing += _turn(unknown[y, part], known[j, low:high])
    return missing


@njit(cache=True)
def _turn(unknown: np.ndarray, known: np.ndarray) -> int:
    """Make the opposite; how many are not known."""
    n = 0
    for k in range(len(known)):
        i = np.uint64(k)  # unsigned: no test for negative indices, and so on vectors
        known[i] = not unknown[i]
        n += unknown[i]
    return n


@njit(cache=True)
def _add_model(light: np.ndarray, model: np.ndarray, flux: float) -> None:
    """Add the source's model to its stamp; both have the same middle pixel."""
    reach, by_flux = min(light.shape[0], model.shape[0]) // 2, np.float32(flux)
    to, by = light.shape[0] // 2 - reach, model.shape[0] // 2 - reach
    for j in range(2 * reach + 1):
        target, source = light[to + j, to:], model[by + j, by:]
        for m in range(2 * reach + 1):
            i = np.uint64(m)
            target[i] += by_flux * source[i]


@njit(cache=True)
def _add_halo(
    light: np.ndarray,
    x: float,
    y: float,
    radius: np.ndarray,
    table: np.ndarray,
    profile: np.ndarray,
    inner: int,
) -> None:
    """Add the source's halo to its stamp, outside the square of its model."""
    size = light.shape[0]
    end = halo_end(radius, profile)
    first_j, last_j = max(0, int(y - end)), min(size, int(y + end) + 2)
    first_i, last_i = max(0, int(x - end)), min(size, int(x + end) + 2)
    for j in range(first_j, last_j):
        for i in range(first_i, last_i):
            if max(abs(i - size // 2), abs(j - size // 2)) > inner:
                light[j, i] += halo_at(np.hypot(i - x, j - y), radius, table, profile)


@njit(cache=True)
def _mirror(
    light: np.ndarray, variance: np.ndarray, known: np.ndarray, turn_x: int, turn_y: int
) -> None:
    """Give pixels that are not known the values of their partners; 0 where these are not, either.

    The partner of pixel (i, j) is (turn_x - i, turn_y - j).
    """
    size = light.shape[0]
    had = known.copy()
    for j in range(size):
        for i in range(size):
            if had[j, i]:
                continue
            light[j, i], variance[j, i] = 0.0, 0.0
            pj, pi = turn_y - j, turn_x - i
            if 0 <= pj < size and 0 <= pi < size and had[pj, pi]:
                known[j, i] = True
                light[j, i], variance[j, i] = light[pj, pi], 2 * variance[pj, pi]
