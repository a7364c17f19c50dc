"""PSF photometry: position and flux of point sources, by fitting a given PSF to their pixels.

Each source is fitted by weighted least squares inside a radius, linearised about its last position
(Gauss-Newton; Stetson 1987 fits stars alike). Weights are 1 / (sky variance + photons of the
model): with the photons of the data, pixels whose noise is positive would count less.

Normal equations are of what the last model leaves, so that sums of single precision, in loops that
run on vectors, do.

`blended_photometry` goes over all sources once more, bright ones first, each with the models of all
others taken off (Gauss-Seidel).

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
from mpipipe.stages.psf_models import Drawn, PsfModels

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
_STRIP = 64
"""Lines of the image, along which sources follow one another."""
_LITTLE = 0.2
"""Share of an image from which it takes no longer to copy it as a whole."""
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
            models = psf.images(now["x"], now["y"], np.float32)
            moved = np.zeros(len(active))
            _fit_each(
                pixels.image, pixels.variance, pixels.unusable, models, radius, free, now, moved
            )
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
    models: PsfModels | None = None,
) -> np.ndarray:
    """Fit sources, each with the models of the others taken off; parameters as `psf_photometry`.

    Sources whose stamps touch no other's are fitted by `psf_photometry`; the rest first where they
    are thought to be, then `sweeps` times more with positions free. Images of the PSF are drawn
    into `models`, for those who need them next.
    """
    if not sweeps:
        return psf_photometry(pixels, psf, x, y, radius, free=free)
    rows = _start(x, y)
    touching = _has_neighbour(rows, psf.size)
    alone = np.flatnonzero(~touching)
    rows[alone] = psf_photometry(pixels, psf, rows["x"][alone], rows["y"][alone], radius, free=free)
    order = np.flatnonzero(touching)
    order = order[_in_turn(_peaks(pixels, rows[order]), rows[order])]
    residual = np.empty(pixels.image.shape if len(order) else (0, 0), np.float32)
    models = PsfModels(psf, len(rows)) if models is None else models
    for sweep in range(sweeps + 1 if len(order) else 0):
        if not sweep or (free and sweep > 1):
            # Made anew: a model that moves is taken off by its slopes only until the next sweep.
            _copy_about(pixels.image, rows["x"][order], rows["y"][order], psf.size, residual)
        if free and sweep > 1:
            _take_off(residual, models, order, rows["x"], rows["y"], rows["flux"])
        for some in _chunks(order):
            now = rows[some]
            _fit_in_turn(
                residual, pixels.variance, pixels.unusable, models.drawn(some, now["x"], now["y"]),
                radius, free and sweep > 0, now, np.asarray(x)[some], np.asarray(y)[some],
                0.25 * radius,
            )  # fmt: skip
            rows[some] = now
        order = order[np.isfinite(rows["flux"][order])]
        order = order[_in_turn(rows["flux"][order], rows[order])]
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
        drawn = psf.images(x[some], y[some], np.float32), np.arange(len(some)), x[some], y[some]
        _subtract(residual, Drawn(*drawn), flux[some])
    return residual


def subtract_models(
    image: np.ndarray, models: PsfModels, x: np.ndarray, y: np.ndarray, flux: np.ndarray
) -> np.ndarray:
    """The same of all sources of a catalogue, whose images are kept in `models`."""
    residual = image.astype(np.float32)
    _take_off(residual, models, np.flatnonzero(np.isfinite(flux)), x, y, flux)
    return residual


def _take_off(
    residual: np.ndarray,
    models: PsfModels,
    known: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    flux: np.ndarray,
) -> None:
    for some in _chunks(known):
        _subtract(residual, models.drawn(some, x[some], y[some]), flux[some])


def _peaks(pixels: Pixels, rows: np.ndarray) -> np.ndarray:
    """The image at the sources' pixels; what is not there comes last."""
    ny, nx = pixels.image.shape
    j, i = np.round(rows["y"]).astype(np.int64), np.round(rows["x"]).astype(np.int64)
    there = (j >= 0) & (j < ny) & (i >= 0) & (i < nx)
    value = pixels.image[np.clip(j, 0, ny - 1), np.clip(i, 0, nx - 1)].astype(float)
    return np.where(there & np.isfinite(value), value, -np.inf)


def _in_turn(light: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The order in which to fit: bright before faint, by factors of two, and those of a like light
    by place, so that pixels are in the processor's cache when the next source needs them."""
    with np.errstate(divide="ignore", invalid="ignore"):
        class_ = np.floor(np.log2(np.maximum(light, 0.0)))
    return np.lexsort((rows["x"], rows["y"] // _STRIP, -class_))


def _start(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    rows = np.zeros(len(x), PSF_SOURCE)
    rows["x"], rows["y"] = x, y
    return rows


def _chunks(indices: np.ndarray) -> Iterator[np.ndarray]:
    """So many sources at once that their model images stay in the processor's cache and memory
    does not grow with the catalogue."""
    for first in range(0, len(indices), _CHUNK):
        yield indices[first : first + _CHUNK]


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


def _copy_about(
    image: np.ndarray, x: np.ndarray, y: np.ndarray, size: int, out: np.ndarray
) -> None:
    """Copy the image, at least in squares of `size` about these positions."""
    if len(x) * size * size > _LITTLE * image.size:
        out[:] = image
    else:
        _copy_squares(image, x, y, size, out)


@njit(cache=True)
def _copy_squares(
    image: np.ndarray, xs: np.ndarray, ys: np.ndarray, size: int, out: np.ndarray
) -> None:
    ny, nx = image.shape
    half = size // 2
    for k in range(len(xs)):
        mx, my = int(np.round(xs[k])), int(np.round(ys[k]))
        low, high = max(0, mx - half), min(nx, mx + half + 1)
        for y in range(max(0, my - half), min(ny, my + half + 1)):
            for x in range(low, high):
                i = np.uint64(x)
                out[y, i] = image[y, i]


@njit(cache=True)
def _middle(row: Any) -> tuple[int, int]:
    """Column and line of a row's pixel, as `Psf.images` places it: halves to even."""
    return int(np.round(row.x)), int(np.round(row.y))


@njit(cache=True)
def _gather(
    image: np.ndarray,
    variance: np.ndarray,
    unusable: np.ndarray,
    row: Any,
    mx: int,
    my: int,
    radius: float,
    reach: int,
    pixels: np.ndarray,
) -> tuple[int, int]:
    """Copy the pixels within the radius that count to where the model has them, all else 0.

    `pixels`, (3, size, size): image, variance (1 where nothing counts), whether it counts. How many
    count, and how many do not.
    """
    ny, nx = image.shape
    size = pixels.shape[1]
    half = size // 2
    lines = slice(half - reach, half + reach + 1)
    pixels[0, lines], pixels[1, lines], pixels[2, lines] = 0.0, 1.0, 0.0
    light, noise, known = pixels[0].reshape(-1), pixels[1].reshape(-1), pixels[2].reshape(-1)
    n = wanted = 0
    for y in range(my - reach, my + reach + 1):
        rest = radius * radius - (y - row.y) ** 2
        if rest < 0:
            continue
        low = max(int(np.ceil(row.x - np.sqrt(rest))), mx - reach)
        high = min(int(np.floor(row.x + np.sqrt(rest))), mx + reach) + 1
        wanted += max(high - low, 0)
        low, high = max(low, 0), min(high, nx)
        if low < high and 0 <= y < ny:
            first = size * (y - my + half) + low - mx + half
            n += _copy_usable(
                image[y], variance[y], unusable[y], low, high, light, noise, known, first
            )
    return n, wanted - n


@njit(cache=True)
def _copy_usable(
    image: np.ndarray,
    variance: np.ndarray,
    unusable: np.ndarray,
    low: int,
    high: int,
    light: np.ndarray,
    noise: np.ndarray,
    known: np.ndarray,
    first: int,
) -> int:
    """Copy what is usable of a line from `low` to `high`; how many pixels."""
    zero, one, n = np.float32(0), np.float32(1), 0
    source, target = np.uint64(low), np.uint64(first)
    for k in range(high - low):
        i, m = source + np.uint64(k), target + np.uint64(k)  # unsigned: no test for negative ones
        bad = unusable[i]
        light[m] = zero if bad else image[i]
        noise[m] = one if bad else variance[i]
        known[m] = zero if bad else one
        n += not bad
    return n


@njit(cache=True, error_model="numpy", fastmath={"reassoc", "nsz", "contract"})
def _normal_equations(
    model: np.ndarray, pixels: np.ndarray, reach: int, added: float, light: float, sums: np.ndarray
) -> None:
    """Sums for (flux, flux * dx, flux * dy): PP PX PY XX XY YY, dP dX dY, dd, w^2 P^2 v.

    `model` and `pixels` as lists of lines; `added` times the model is added to the pixels. Slopes
    of the model are those of four neighbours.
    """
    size = pixels.shape[1]
    half = size // 2
    image, variance, known = (
        pixels[0].reshape(-1), pixels[1].reshape(-1), pixels[2].reshape(-1),
    )  # fmt: skip
    p = model.reshape(-1)
    zero, near, far = np.float32(0), np.float32(-8 / 12), np.float32(1 / 12)
    by, photons = np.float32(added), np.float32(light)
    one, two, line, lines = np.uint64(1), np.uint64(2), np.uint64(size), np.uint64(2 * size)
    pp = px = py = xx = xy = yy = dp = dx = dy = dd = noise = zero
    for k in range(size * (half - reach), size * (half + reach + 1)):
        i = np.uint64(k)
        w = known[i] / (variance[i] + photons * max(p[i], zero))
        d = image[i] + by * p[i]
        x = near * (p[i + one] - p[i - one]) + far * (p[i + two] - p[i - two])
        y = near * (p[i + line] - p[i - line]) + far * (p[i + lines] - p[i - lines])
        wp, wx, wy, wd = w * p[i], w * x, w * y, w * d
        pp += wp * p[i]
        px += wp * x
        py += wp * y
        xx += wx * x
        xy += wx * y
        yy += wy * y
        dp += wd * p[i]
        dx += wd * x
        dy += wd * y
        dd += wd * d
        noise += wp * wp * variance[i]
    sums[0], sums[1], sums[2], sums[3], sums[4], sums[5] = pp, px, py, xx, xy, yy
    sums[6], sums[7], sums[8], sums[9], sums[10] = dp, dx, dy, dd, noise


@njit(cache=True, error_model="numpy")
def _share_known(
    model: np.ndarray, known: np.ndarray, row: Any, mx: int, my: int, radius: float, reach: int
) -> float:
    """Share of the sum of P^2 within the radius that pixels hold that count."""
    half = model.shape[0] // 2
    good = whole = 0.0
    for j in range(half - reach, half + reach + 1):
        for i in range(half - reach, half + reach + 1):
            if np.hypot(i - half + mx - row.x, j - half + my - row.y) <= radius:
                square = model[j, i] * model[j, i]
                whole += square
                good += known[j, i] * square
    return good / whole


@njit(cache=True, error_model="numpy")
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
    pixels: np.ndarray,
    sums: np.ndarray,
) -> int:
    """Normal equations of one source; how many pixels counted, 0 if they hold too little of it.

    `added` times the model is added to the image. Pixels at the very edge of the model, where it
    has no slopes, do not count.
    """
    reach = min(int(radius) + 1, model.shape[0] // 2 - 2)
    if reach < 0:
        return 0
    n, missing = _gather(image, variance, unusable, row, mx, my, radius, reach, pixels)
    if n == 0:
        return 0
    if missing and not _share_known(
        model, pixels[2], row, mx, my, radius, reach
    ) >= _LEAST_WEIGHT:  # fmt: skip
        return 0
    _normal_equations(model, pixels, reach, added, max(row.flux, 0.0), sums)
    return n if sums[0] > 0 else 0


@njit(cache=True)
def _solve(sums: np.ndarray, n: int, free: bool, before: float, row: Any) -> float:
    """One Gauss-Newton step of a source into its row; how far it moved, pixels (along one axis).

    The sums are those of the image less `before` times the model.
    """
    row.n_pixels = n
    if n == 0:
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
    more = (dp - px * step_x - py * step_y) / pp
    chi2 = sums[9] - more * dp - step_x * dx - step_y * dy
    flux = before + more
    row.chi2 = max(chi2, 0.0) / max(n - (3 if free else 1), 1)
    row.flux = flux
    row.flux_error = np.sqrt(1 / pp)
    row.sky_error = np.sqrt(sums[10]) / pp
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
    radius: float,
    free: bool,
    rows: np.ndarray,
    moved: np.ndarray,
) -> None:
    """One step of every source on the image as it is."""
    sums, pixels = np.empty(11), np.empty((3, *models.shape[1:]), np.float32)
    for k in range(len(rows)):
        row = rows[k]
        mx, my = _middle(row)
        before = row.flux
        n = _sums(
            image, variance, unusable, models[k], mx, my, radius, row, -before, pixels, sums
        )  # fmt: skip
        moved[k] = _solve(sums, n, free, before, row)
        if before == 0.0 and n > 0:
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
    sums, pixels = np.empty(11), np.empty((3, *models.shape[1:]), np.float32)
    for k in range(len(rows)):
        row = rows[k]
        before = row.flux
        n = _sums(
            stamps[k], variance[k], bad[k], models[k].astype(np.float32), half, half, radius, row,
            -before, pixels, sums,
        )  # fmt: skip
        _solve(sums, n, True, before, row)


@njit(cache=True)
def _subtract(image: np.ndarray, models: Drawn, flux: np.ndarray) -> None:
    """Take models off the image, in place."""
    for k in range(len(flux)):
        mx, my = int(np.round(models.x[k])), int(np.round(models.y[k]))
        _add(image, models.images[models.which[k]], mx, my, -flux[k])


@njit(cache=True, fastmath={"contract"})
def _add(image: np.ndarray, model: np.ndarray, mx: int, my: int, flux: float) -> None:
    """Add a model times `flux` to the image."""
    ny, nx = image.shape
    size = model.shape[0]
    half, by = size // 2, np.float32(flux)
    low, high = max(0, half - mx), min(size, nx + half - mx)
    for j in range(max(0, half - my), min(size, ny + half - my)):
        if low < high:
            target, source = image[my + j - half, mx + low - half :], model[j, low:high]
            for k in range(len(source)):
                i = np.uint64(k)
                target[i] += by * source[i]


@njit(cache=True, fastmath={"contract"})
def _change(
    model: np.ndarray, less: float, flux: float, dx: float, dy: float, change: np.ndarray
) -> None:
    """`less` times the model, plus `flux` times what a move by (-dx, -dy) makes of it by its
    slopes; these are 0 within two pixels of its edges."""
    size = model.shape[0]
    p, out = model.reshape(-1), change.reshape(-1)
    by = np.float32(less)
    near_x, far_x = np.float32(8 / 12 * flux * dx), np.float32(-1 / 12 * flux * dx)
    near_y, far_y = np.float32(8 / 12 * flux * dy), np.float32(-1 / 12 * flux * dy)
    one, two, line, lines = np.uint64(1), np.uint64(2), np.uint64(size), np.uint64(2 * size)
    for k in range(2 * size, (size - 2) * size):
        i = np.uint64(k)
        value = by * p[i]
        value += near_x * (p[i + one] - p[i - one]) + far_x * (p[i + two] - p[i - two])
        value += near_y * (p[i + line] - p[i - line]) + far_y * (p[i + lines] - p[i - lines])
        out[i] = value
    for j in range(size):
        for rim in range(2):
            for m in (rim, size - 1 - rim):
                change[j, m], change[m, j] = by * model[j, m], by * model[m, j]


@njit(cache=True, error_model="numpy")
def _fit_in_turn(
    residual: np.ndarray,
    variance: np.ndarray,
    unusable: np.ndarray,
    models: Drawn,
    radius: float,
    free: bool,
    rows: np.ndarray,
    start_x: np.ndarray,
    start_y: np.ndarray,
    leash: float,
) -> None:
    """Fit each source to what is left with its own model back, and take it off where it is now; in
    place."""
    shape = models.images.shape[1:]
    sums, pixels = np.empty(11), np.empty((3, *shape), np.float32)
    change = np.empty(shape, np.float32)
    for k in range(len(rows)):
        row, model = rows[k], models.images[models.which[k]]
        old, old_x, old_y = row.flux, row.x, row.y
        row.x, row.y = models.x[k], models.y[k]  # steps start where the model was drawn
        mx, my = _middle(row)
        n = _sums(
            residual, variance, unusable, model, mx, my, radius, row, 0.0, pixels, sums
        )  # fmt: skip
        _solve(sums, n, free, old, row)
        if n == 0:
            row.x, row.y = old_x, old_y
            continue
        away = np.hypot(row.x - start_x[k], row.y - start_y[k]) > leash
        row.failed = away or (free and not row.flux > 0)
        if row.failed:
            row.x, row.y = models.x[k], models.y[k]
            _solve(sums, n, False, old, row)
        moved_x, moved_y = row.x - models.x[k], row.y - models.y[k]
        if row.failed or not free:
            row.x, row.y = old_x, old_y
        _change(model, old - row.flux, row.flux, moved_x, moved_y, change)
        _add(residual, change, mx, my, 1.0)
