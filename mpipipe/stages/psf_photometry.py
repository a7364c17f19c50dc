"""PSF photometry: position and flux of point sources, by fitting a given PSF to their pixels.

Each source is fitted by weighted least squares inside a radius, linearised about its last position
(Gauss-Newton; Stetson 1987 fits stars alike). Weights are 1 / (sky variance + photons of the
model): with the photons of the data, pixels whose noise is positive would count less.

`blended_photometry` goes over all sources once more, the brightest first, each with the models of
all others taken off (Gauss-Seidel).

A position that is free settles where noise adds light: fluxes come out too large by 1 / SNR^2 of
themselves (2.7 mmag at SNR 20). This is left in here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import VALUE
from mpipipe.data.psf import Psf
from mpipipe.stages.measurement_planes import MeasurementPlanes

PSF_SOURCE = np.dtype(
    [
        (name, "f8")
        for name in ("x", "y", "xx", "yy", "xy", "flux", "flux_error", "sky_error", "chi2")
    ]
    + [("n_pixels", "i4"), ("failed", "?")]
)
"""Position (pixels), its covariance (pixel^2), flux inside the calibration radius and its error
(electrons; `sky_error` the part of sky and read noise), chi2 per degree of freedom, pixels that
counted. `failed`: too few good pixels (then flux and
errors are NaN), or the position ran away (then it is the one given, and the flux is fitted there).
"""

_CHUNK = 256
_KEPT_CHUNKS = 16
"""Whose models are drawn once a sweep, not twice; more would only take memory."""
_ROUNDS = 4
_LEAST_WEIGHT = 0.5
"""Share of the profile's sum of squares that good pixels must hold."""
_STEP = 1.0
_SETTLED = 0.02
"""Steps shorter than this, pixels, are the last: the error left is of the order of their square."""


@dataclass(frozen=True)
class Pixels:
    """What is fitted.

    Attributes
    ----------
    image, variance
        (ny, nx) float32: electrons above the sky; electron^2 of sky and read noise, > 0.
    unusable
        (ny, nx) bool: pixels that do not count.
    """

    image: np.ndarray
    variance: np.ndarray
    unusable: np.ndarray


def usable_pixels(calexp: Exposure, planes: MeasurementPlanes) -> Pixels:
    """What PSFs are fitted to: all pixels but those without a value and the saturated ones."""
    saturated = (calexp.mask & VALUE["SAT"]) != 0
    return Pixels(calexp.image, planes.variance, planes.unusable | saturated)


def psf_photometry(
    pixels: Pixels, psf: Psf, x: np.ndarray, y: np.ndarray, radius: float, *, free: bool = True
) -> np.ndarray:
    """Fit sources one by one, as if each were alone.

    Parameters
    ----------
    x, y
        (n,) where the sources are thought to be, pixels.
    radius
        Pixels within it are fitted.
    free
        Whether positions are fitted too, within `radius` / 4 of where they start.

    Returns
    -------
    numpy.ndarray
        One `PSF_SOURCE` row a source.
    """
    rows = _start(x, y)
    # A walk of more than this is one to a neighbour.
    leash = 0.25 * radius
    for some in _chunks(np.arange(len(rows))):
        active = some
        for _ in range(_ROUNDS if free else 2):
            now = rows[active]
            models, mx, my = _models(psf, now["x"], now["y"])
            moved = np.zeros(len(active))
            _fit_each(
                pixels.image, pixels.variance, pixels.unusable, models, mx, my, radius, free, now,
                moved,
            )  # fmt: skip
            rows[active] = now
            active = active[moved > _SETTLED] if free else active
            if not len(active):
                break
        if free:
            gone = some[_is_gone(rows[some], x[some], y[some], leash)]
            if len(gone):
                rows[gone] = psf_photometry(pixels, psf, x[gone], y[gone], radius, free=False)
                rows["failed"][gone] = True
    return rows


def blended_photometry(
    pixels: Pixels,
    psf: Psf,
    x: np.ndarray,
    y: np.ndarray,
    radius: float,
    *,
    free: bool = True,
    sweeps: int = 2,
) -> np.ndarray:
    """Fit sources, each with the models of the others taken off; parameters as `psf_photometry`.

    Sources whose stamps touch no other's are fitted by `psf_photometry`; the rest first where they
    are thought to be, then `sweeps` times more with positions free.
    """
    if not sweeps:
        return psf_photometry(pixels, psf, x, y, radius, free=free)
    rows = _start(x, y)
    touching = _has_neighbour(rows, psf.size)
    alone = np.flatnonzero(~touching)
    rows[alone] = psf_photometry(pixels, psf, rows["x"][alone], rows["y"][alone], radius, free=free)
    order = np.flatnonzero(touching)
    order = order[np.argsort(-_peaks(pixels, rows[order]), kind="stable")]
    residual = np.empty(pixels.image.shape if len(order) else (0, 0), np.float32)
    for sweep in range(sweeps + 1 if len(order) else 0):
        # Made anew: a model that moves is taken off by its slopes only until the next sweep.
        residual[:] = pixels.image
        kept: dict[int, _Models] = {}
        for number, some in enumerate(_chunks(order) if sweep else ()):
            models, mx, my = drawn = _models(psf, rows["x"][some], rows["y"][some])
            _subtract(residual, models, mx, my, rows["flux"][some])
            if number < _KEPT_CHUNKS:
                kept[number] = drawn
        for number, some in enumerate(_chunks(order)):
            now = rows[some]
            models, mx, my = kept.get(number) or _models(psf, now["x"], now["y"])
            _fit_in_turn(
                residual, pixels.variance, pixels.unusable, models, mx, my, radius,
                free and sweep > 0, now, np.asarray(x)[some], np.asarray(y)[some], 0.25 * radius,
            )  # fmt: skip
            rows[some] = now
        order = order[np.isfinite(rows["flux"][order])]
        order = order[np.argsort(-rows["flux"][order], kind="stable")]
    return rows


def with_correlated_noise(rows: np.ndarray, map_width: float) -> np.ndarray:
    """`PSF_SOURCE` rows whose errors and covariances know about correlated noise.

    Parameters
    ----------
    map_width
        Width of the matched-filter map: the sky's part of the errors grows by it if it is above 1.
    """
    rows = rows.copy()
    sky = (max(map_width, 1.0) ** 2 - 1) * rows["sky_error"] ** 2
    error = np.sqrt(rows["flux_error"] ** 2 + sky)
    wider = (error / rows["flux_error"]) ** 2
    rows["flux_error"] = error
    for name in ("xx", "yy", "xy"):
        rows[name] *= wider
    return rows


def subtract_sources(
    image: np.ndarray, psf: Psf, x: np.ndarray, y: np.ndarray, flux: np.ndarray
) -> np.ndarray:
    """The image without the models of these sources, float32; fluxes that are NaN are left out."""
    residual = image.astype(np.float32)
    known = np.flatnonzero(np.isfinite(flux))
    for some in _chunks(known):
        models, mx, my = _models(psf, x[some], y[some])
        _subtract(residual, models, mx, my, flux[some])
    return residual


def _peaks(pixels: Pixels, rows: np.ndarray) -> np.ndarray:
    """The image at the sources' pixels; what is not there comes last."""
    ny, nx = pixels.image.shape
    j, i = np.round(rows["y"]).astype(np.int64), np.round(rows["x"]).astype(np.int64)
    there = (j >= 0) & (j < ny) & (i >= 0) & (i < nx)
    value = pixels.image[np.clip(j, 0, ny - 1), np.clip(i, 0, nx - 1)].astype(float)
    return np.where(there & np.isfinite(value), value, -np.inf)


def _start(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    rows = np.zeros(len(x), PSF_SOURCE)
    rows["x"], rows["y"] = x, y
    return rows


def _chunks(indices: np.ndarray) -> Iterator[np.ndarray]:
    """So many sources at once that their model images stay in the processor's cache and memory
    does not grow with the catalogue."""
    for first in range(0, len(indices), _CHUNK):
        yield indices[first : first + _CHUNK]


_Models = tuple[np.ndarray, np.ndarray, np.ndarray]


def _models(psf: Psf, x: np.ndarray, y: np.ndarray) -> _Models:
    """Model images at some positions, and the pixels under their middles."""
    images = psf.images(x, y)
    return images, np.round(x).astype(np.int64), np.round(y).astype(np.int64)


def _is_gone(rows: np.ndarray, x: np.ndarray, y: np.ndarray, leash: float) -> np.ndarray:
    """Whose free fit failed for another reason than missing pixels, which stays missing."""
    far = np.hypot(rows["x"] - x, rows["y"] - y) > leash
    return np.asarray((far | ~(rows["flux"] > 0)) & (rows["n_pixels"] > 0))


def _has_neighbour(rows: np.ndarray, size: int) -> np.ndarray:
    """Whether another source lies within `size` pixels along both axes."""
    if len(rows) < 2:
        return np.zeros(len(rows), bool)
    from scipy.spatial import KDTree

    places = np.stack([rows["x"], rows["y"]], axis=1)
    distance, _ = KDTree(places).query(places, k=2, p=np.inf)
    return np.asarray(distance[:, 1] < size)


@njit(cache=True)
def _slope(model: np.ndarray, j: int, i: int, along_x: bool) -> float:
    """Derivative of the model by four neighbours; 0 beyond its edges' reach."""
    size = model.shape[0]
    if along_x:
        if i < 2 or i >= size - 2:
            return 0.0
        near, far = model[j, i + 1] - model[j, i - 1], model[j, i + 2] - model[j, i - 2]
    else:
        if j < 2 or j >= size - 2:
            return 0.0
        near, far = model[j + 1, i] - model[j - 1, i], model[j + 2, i] - model[j - 2, i]
    return (8 * near - far) / 12


@njit(cache=True)
def _sums(
    image: np.ndarray,
    variance: np.ndarray,
    unusable: np.ndarray,
    model: np.ndarray,
    mx: int,
    my: int,
    radius: float,
    row: Any,
    added: float,
    sums: np.ndarray,
) -> int:
    """Normal equations of one source for (flux, flux * dx, flux * dy); how many pixels counted.

    `sums` becomes: PP PX PY XX XY YY, dP dX dY, dd, the good and the whole sum of P^2, and
    w^2 P^2 times the sky's variance.
    `added` times the model is added to the image: what was taken off before.
    """
    ny, nx = image.shape
    half = model.shape[0] // 2
    reach = min(int(radius) + 1, half)
    light = max(row.flux, 0.0)
    sums[:] = 0.0
    n = 0
    for j in range(half - reach, half + reach + 1):
        y = my + j - half
        for i in range(half - reach, half + reach + 1):
            x = mx + i - half
            if (x - row.x) ** 2 + (y - row.y) ** 2 > radius * radius:
                continue
            p = model[j, i]
            sums[11] += p * p
            if x < 0 or y < 0 or x >= nx or y >= ny or unusable[y, x]:
                continue
            w = 1.0 / (variance[y, x] + light * max(p, 0.0))
            d = image[y, x] + added * p
            px, py = -_slope(model, j, i, True), -_slope(model, j, i, False)
            n += 1
            sums[0] += w * p * p
            sums[1] += w * p * px
            sums[2] += w * p * py
            sums[3] += w * px * px
            sums[4] += w * px * py
            sums[5] += w * py * py
            sums[6] += w * p * d
            sums[7] += w * px * d
            sums[8] += w * py * d
            sums[9] += w * d * d
            sums[10] += p * p
            sums[12] += w * w * p * p * variance[y, x]
    return n


@njit(cache=True)
def _solve(sums: np.ndarray, n: int, free: bool, row: Any) -> float:
    """One Gauss-Newton step of a source into its row; how far it moved, pixels (along one axis)."""
    row.n_pixels = n
    if not (sums[10] >= _LEAST_WEIGHT * sums[11] and sums[0] > 0):
        row.n_pixels = 0
        row.flux = row.flux_error = row.sky_error = row.xx = row.yy = row.xy = row.chi2 = np.nan
        row.failed = True
        return 0.0
    pp, px, py, xx, xy, yy, dp, dx, dy = sums[:9]
    # Positions after the flux is eliminated: a 2 x 2 system.
    a, b, c = xx - px * px / pp, xy - px * py / pp, yy - py * py / pp
    determinant = a * c - b * b
    step_x = step_y = 0.0
    if free and determinant > 1e-12 * a * c:
        u, v = dx - px * dp / pp, dy - py * dp / pp
        step_x, step_y = (c * u - b * v) / determinant, (a * v - b * u) / determinant
    flux = (dp - px * step_x - py * step_y) / pp
    chi2 = sums[9] - flux * dp - step_x * dx - step_y * dy
    row.chi2 = max(chi2, 0.0) / max(n - (3 if free else 1), 1)
    row.flux = flux
    row.flux_error = np.sqrt(1 / pp)
    row.sky_error = np.sqrt(sums[12]) / pp
    moved = 0.0
    if free and determinant > 1e-12 * a * c and flux > 0:
        square = flux * flux * determinant
        row.xx, row.yy, row.xy = c / square, a / square, -b / square
        extra = px * px * row.xx + 2 * px * py * row.xy + py * py * row.yy
        row.flux_error = np.sqrt(1 / pp + extra * (flux / pp) ** 2)
        step_x = min(max(step_x / flux, -_STEP), _STEP)
        step_y = min(max(step_y / flux, -_STEP), _STEP)
        row.x += step_x
        row.y += step_y
        moved = max(abs(step_x), abs(step_y))
    return moved


@njit(cache=True, error_model="numpy")
def _fit_each(
    image: np.ndarray,
    variance: np.ndarray,
    unusable: np.ndarray,
    models: np.ndarray,
    mx: np.ndarray,
    my: np.ndarray,
    radius: float,
    free: bool,
    rows: np.ndarray,
    moved: np.ndarray,
) -> None:
    """One step of every source on the image as it is."""
    sums = np.empty(13)
    for k in range(len(rows)):
        row = rows[k]
        n = _sums(
            image, variance, unusable, models[k], mx[k], my[k], radius, row, 0.0, sums
        )  # fmt: skip
        first = row.flux == 0.0
        moved[k] = _solve(sums, n, free, row)
        if first and row.n_pixels > 0:
            moved[k] = _STEP  # the weights did not know the flux


@njit(cache=True, error_model="numpy")
def fit_stamps(
    stamps: np.ndarray,
    variance: np.ndarray,
    bad: np.ndarray,
    models: np.ndarray,
    radius: float,
    rows: np.ndarray,
) -> None:
    """One step of stars in stamps of their own; `rows` (`PSF_SOURCE`) count pixels from the stamp.

    Parameters
    ----------
    stamps, variance, bad, models
        (n, size, size); the models drawn at the rows' positions, both in the same middle pixel.
    """
    half = models.shape[1] // 2
    sums = np.empty(13)
    for k in range(len(rows)):
        row = rows[k]
        n = _sums(
            stamps[k], variance[k], bad[k], models[k], half, half, radius, row, 0.0, sums
        )  # fmt: skip
        _solve(sums, n, True, row)


@njit(cache=True)
def _subtract(
    image: np.ndarray, models: np.ndarray, mx: np.ndarray, my: np.ndarray, flux: np.ndarray
) -> None:
    """Take models off the image, in place."""
    for k in range(len(models)):
        _add(image, models[k], mx[k], my[k], -flux[k], 0.0, 0.0)


@njit(cache=True)
def _add(
    image: np.ndarray, model: np.ndarray, mx: int, my: int, flux: float, dx: float, dy: float
) -> None:
    """Add a model, moved by a little (dx, dy), times `flux`, to the image."""
    ny, nx = image.shape
    size = model.shape[0]
    half = size // 2
    for j in range(max(0, half - my), min(size, ny + half - my)):
        for i in range(max(0, half - mx), min(size, nx + half - mx)):
            value = model[j, i]
            if dx != 0.0 or dy != 0.0:
                value -= dx * _slope(model, j, i, True) + dy * _slope(model, j, i, False)
            image[my + j - half, mx + i - half] += flux * value


@njit(cache=True, error_model="numpy")
def _fit_in_turn(
    residual: np.ndarray,
    variance: np.ndarray,
    unusable: np.ndarray,
    models: np.ndarray,
    mx: np.ndarray,
    my: np.ndarray,
    radius: float,
    free: bool,
    rows: np.ndarray,
    start_x: np.ndarray,
    start_y: np.ndarray,
    leash: float,
) -> None:
    """Add each source's own model back, fit it, take it off where it is now; in place."""
    sums = np.empty(13)
    for k in range(len(rows)):
        row = rows[k]
        old, old_x, old_y = row.flux, row.x, row.y
        n = _sums(
            residual, variance, unusable, models[k], mx[k], my[k], radius, row, old, sums
        )  # fmt: skip
        _solve(sums, n, free, row)
        if row.n_pixels == 0:
            continue
        away = np.hypot(row.x - start_x[k], row.y - start_y[k]) > leash
        row.failed = away or (free and not row.flux > 0)
        if row.failed:
            row.x, row.y = old_x, old_y
            _solve(sums, n, False, row)
        _add(residual, models[k], mx[k], my[k], old, 0.0, 0.0)
        _add(residual, models[k], mx[k], my[k], -row.flux, row.x - old_x, row.y - old_y)
