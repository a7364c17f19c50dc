"""Fit of a `mpipipe.data.shapelet_psf.ShapeletPsf` to stars.

The model is linear in its coefficients, and each star's pixels enter only through a small matrix
and a vector (the normal equations of its own coefficients). They are made once a round, and serve
the solution, every order of the polynomial of position, and its cross-validation.

Each round refines x, y and flux of stars with the model so far, leaves out pixels and stars that
do not fit, and solves again. The first knows only the seeing, and makes a model that is the same
everywhere; the second chooses the order; both take some hundred of the brightest stars, the last
takes all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np
from numba import njit

from mpipipe.data import ccd_polynomial
from mpipipe.data.circle import sum_inside
from mpipipe.data.errors import BadDataError
from mpipipe.data.shapelet_psf import ShapeletPsf, axis_integrals, combine, n_functions
from mpipipe.stages.ic.psf_stars import PsfFit, PsfOptions, PsfStars
from mpipipe.stages.seeing import FWHM_OF_SIGMA

WIDTHS = np.array([0.7, 1.4, 2.8])
"""Widths of the series in units of the PSF's Gaussian sigma."""

ORDERS = np.array([6, 4, 2])
"""Orders of the series: fine structure belongs to the core."""

_START = np.array([0.36, 0.56, 0.08])
"""Shares of light in the functions of order 0 that come near a Moffat profile of exponent 3."""

_LEAST_SIGMA = 0.4
"""Smallest sigma for which the widths are scaled, pixels."""

_FLOOR = 0.003
"""Errors of pixels are at least this share of the model: flats and models are no better."""

_TOLERANCE = (0.3, 0.1, 0.03)
"""How far the model of each round may be off, as a share, before pixels count as outliers."""

_CLIP = 5.0
_CLIP_STAR = 6.0
_FARTHEST = 1.5
"""Pixels that a star may move from its first position."""

_MOST_STARS = 1000
_FIRST_STARS = 300
"""The brightest that count at all, and before the last round."""

_FREEDOM_SHAPE = 0.3
_FREEDOM_FIELD = 0.03
"""How much the PSF is expected to differ from the starting profile, and from its mean over the
field, as shares: what keeps a fit of few stars finite (ridge)."""

_HIGHEST_ORDER = 5

_FOLDS = 5
_SIGNIFICANCE = 2.0


def fit_shapelet(stars: PsfStars, options: PsfOptions) -> PsfFit:
    """Fit Gauss-Hermite series to stars by linear least squares.

    Parameters
    ----------
    stars
        At least one. Of more than 1,000 the brightest count.
    options
        The usual or highest order is taken unless another predicts left-out stars better.

    Raises
    ------
    BadDataError
        If no star can be fitted.
    """
    chosen = _brightest(stars.flux, _MOST_STARS)
    many = stars.take(chosen)
    few = many.take(_brightest(many.flux, _FIRST_STARS))
    psf = start = _starting_psf(stars)
    order = 0
    for number, tolerance in enumerate(_TOLERANCE):
        last = number == len(_TOLERANCE) - 1
        some = many if last else few
        state = _refine(some, psf, tolerance)
        use = state.sound if number == 0 else state.sound & ~_outlying(state)
        if not use.any():
            raise BadDataError(f"none of the {len(stars)} stars can be fitted by a PSF")
        equations = _normal_equations(some.take(use), state.take(use), psf, start, tolerance)
        if number == 1:
            order = equations.best_order(options)
        psf = replace(psf, coefficients=equations.solve(order), n_stars=int(use.sum()))
    used = np.zeros(len(stars), dtype=bool)
    used[chosen[use]] = True
    return PsfFit(replace(psf, fwhm=_fwhm(psf)), used, order)


def _brightest(flux: np.ndarray, number: int) -> np.ndarray:
    """Indices of the brightest, ascending."""
    return np.sort(np.argsort(-flux, kind="stable")[:number])


def _starting_psf(stars: PsfStars) -> ShapeletPsf:
    """Round, of the seeing's FWHM, the same everywhere."""
    # The seeing's moments hold the pixel, of variance 1 / 12 per axis; the functions do not.
    sigma = math.sqrt(max((stars.fwhm / FWHM_OF_SIGMA) ** 2 - 1 / 12, _LEAST_SIGMA**2))
    widths = WIDTHS * sigma
    coefficients = np.zeros((1, n_functions(ORDERS)))
    first = np.cumsum([0, *((ORDERS[:-1] + 1) * (ORDERS[:-1] + 2) // 2)])
    coefficients[0, first] = _START / (2 * math.sqrt(math.pi) * widths)
    return ShapeletPsf(coefficients, widths, ORDERS, stars.shape, stars.radius, stars.fwhm, 0)


def _fwhm(psf: ShapeletPsf) -> float:
    ny, nx = psf.shape
    ixx, iyy, ixy = psf.moments(np.array([nx / 2]), np.array([ny / 2]))[0]
    area = ixx * iyy - ixy * ixy
    return FWHM_OF_SIGMA * area**0.25 if area > 0 else psf.fwhm


@dataclass(frozen=True)
class _State:
    """Where the stars stand and how well they fit: (n,) arrays.

    `dx`, `dy`: from the stamp's middle, pixels; `flux`: electrons; `misfit`: chi2 per pixel inside
    1 FWHM; `sound`: neither lost nor without flux.
    """

    dx: np.ndarray
    dy: np.ndarray
    flux: np.ndarray
    misfit: np.ndarray
    sound: np.ndarray

    def take(self, chosen: np.ndarray) -> _State:
        """Of some of the stars."""
        return _State(*(getattr(self, field.name)[chosen] for field in fields(self)))


def _refine(stars: PsfStars, psf: ShapeletPsf, tolerance: float) -> _State:
    """Fit x, y and flux of every star with the model as it is."""
    first_x, first_y = stars.x - stars.middle_x, stars.y - stars.middle_y
    dx, dy, flux, misfit = first_x.copy(), first_y.copy(), stars.flux.copy(), np.empty(len(stars))
    _fit_positions(
        stars.stamps, stars.variance, stars.bad, _coefficients_at(stars, psf),
        psf.widths, psf.orders, psf.radius, stars.fwhm, tolerance, dx, dy, flux, misfit,
    )  # fmt: skip
    near = np.hypot(dx - first_x, dy - first_y) < _FARTHEST
    return _State(dx, dy, flux, misfit, near & np.isfinite(misfit) & (flux > 0))


def _coefficients_at(stars: PsfStars, psf: ShapeletPsf) -> np.ndarray:
    return ccd_polynomial.terms(stars.x, stars.y, psf.shape, psf.order) @ psf.coefficients


def _outlying(state: _State) -> np.ndarray:
    """Stars whose core fits far worse than the others'."""
    misfit = state.misfit[state.sound]
    if len(misfit) == 0:
        return ~state.sound
    middle = np.median(misfit)
    scatter = 1.4826 * np.median(np.abs(misfit - middle))
    # Few stars know little of their scatter; it is taken to be no less than half the level.
    return ~(state.misfit <= middle + _CLIP_STAR * max(scatter, 0.5 * middle, 0.1))


@dataclass(frozen=True)
class _Equations:
    """Normal equations of each star's own coefficients, and what is known beforehand.

    `terms` (n, n_terms) of the highest order, `matrix` (n, k, k), `vector` (n, k), of stars in use;
    `start` (k,), with the precisions `shape` and `field` (k, k) of the constant and other terms.
    """

    terms: np.ndarray
    matrix: np.ndarray
    vector: np.ndarray
    start: np.ndarray
    shape: np.ndarray
    field: np.ndarray

    def solve(self, order: int, chosen: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Coefficients (n_terms, k) of the chosen stars."""
        from scipy.linalg import cho_factor, cho_solve

        terms = self.terms[chosen, : ccd_polynomial.n_terms(order)]
        n, k = terms.shape[1], len(self.start)
        pairs = (terms[:, :, None] * terms[:, None, :]).reshape(len(terms), -1)
        total = pairs.T @ self.matrix[chosen].reshape(len(terms), -1)
        blocks = total.reshape(n, n, k, k)
        right = terms.T @ self.vector[chosen]
        blocks[0, 0] += self.shape
        right[0] += self.shape @ self.start
        for term in range(1, n):
            blocks[term, term] += self.field
        full = blocks.transpose(0, 2, 1, 3).reshape(n * k, n * k)
        return cho_solve(cho_factor(full), right.ravel()).reshape(n, k)

    def best_order(self, options: PsfOptions) -> int:
        """The usual order, unless another predicts left-out stars better.

        Better means by more than `_SIGNIFICANCE` standard errors of the difference. The highest
        order counts as usual where none is named: the ridge keeps needless terms small, while
        missing ones cost more than they save.
        """
        best = options.orders[-1] if options.usual is None else options.usual
        if len(self.terms) < 2 or len(options.orders) == 1:
            return best
        loss = self._loss(best)
        for order in options.orders[::-1]:
            gain = loss - self._loss(order) if order != best else np.zeros(1)
            if gain.sum() > _SIGNIFICANCE * math.sqrt(np.sum(gain**2)):
                best, loss = order, loss - gain
        return best

    def _loss(self, order: int) -> np.ndarray:
        """chi2 of each star by a model made without its fold, less a constant of the star."""
        fold = np.arange(len(self.terms)) % min(_FOLDS, len(self.terms))
        loss = np.empty(len(self.terms))
        for number in range(fold.max() + 1):
            out = fold == number
            solution = self.solve(order, ~out)
            at = self.terms[out, : len(solution)] @ solution
            square = np.matmul(self.matrix[out], at[:, :, None])[:, :, 0]
            loss[out] = np.sum(at * (square - 2.0 * self.vector[out]), axis=1)
        return loss


def _normal_equations(
    stars: PsfStars, state: _State, psf: ShapeletPsf, start: ShapeletPsf, tolerance: float
) -> _Equations:
    k = psf.coefficients.shape[1]
    matrix, vector = np.zeros((len(stars), k, k)), np.zeros((len(stars), k))
    _accumulate(
        stars.stamps, stars.variance, stars.bad, _coefficients_at(stars, psf),
        psf.widths, psf.orders, psf.radius, tolerance,
        state.dx, state.dy, state.flux, matrix, vector,
    )  # fmt: skip
    terms = ccd_polynomial.terms(stars.x, stars.y, psf.shape, _HIGHEST_ORDER)
    metric = _metric(psf)
    shape, field = metric / _FREEDOM_SHAPE**2, metric / _FREEDOM_FIELD**2
    return _Equations(terms, matrix, vector, start.coefficients[0], shape, field)


def _metric(psf: ShapeletPsf) -> np.ndarray:
    """Matrix of the mean square of a relative difference between models, times their freedom."""
    ny, nx = psf.shape
    model = psf.image(nx // 2, ny // 2)
    functions = _functions(psf.widths, psf.orders, psf.size)
    relative = functions / (np.maximum(model, 0.0) + 1e-4 * model.max())
    flat = relative.reshape(len(functions), -1)
    return (len(flat) / flat.shape[1]) * (flat @ flat.T)


def _functions(widths: np.ndarray, orders: np.ndarray, size: int) -> np.ndarray:
    """All functions of a star in the middle of its pixel, (k, size, size)."""
    table = np.empty((len(widths), orders.max() + 1, size))
    axis_integrals(0.0, widths, orders, table, np.empty_like(table))
    pixels = np.arange(size * size)
    functions = np.empty((n_functions(orders), size * size))
    _fill_functions(table, table, orders, pixels, np.ones(size * size), functions)
    return functions.reshape(-1, size, size)


_BLOCK = 96
"""Pixels whose functions are held at once: they fit into the processor's cache."""

_STEPS = 2


@njit(cache=True)
def _fill_functions(
    along_x: np.ndarray, along_y: np.ndarray, orders: np.ndarray,
    pixels: np.ndarray, factor: np.ndarray, functions: np.ndarray,
) -> None:  # fmt: skip
    """Functions (k, n) at some pixels, by index in the stamp, times a factor of each pixel."""
    size, n_pixels = along_x.shape[2], len(pixels)
    at_x = np.empty((along_x.shape[1], n_pixels))
    at_y = np.empty(n_pixels)
    k = 0
    for series in range(len(orders)):
        for n in range(orders[series] + 1):
            for p in range(n_pixels):
                at_x[n, p] = along_x[series, n, pixels[p] % size]
        for m in range(orders[series] + 1):
            for p in range(n_pixels):
                at_y[p] = factor[p] * along_y[series, m, pixels[p] // size]
            for n in range(orders[series] + 1 - m):
                for p in range(n_pixels):
                    functions[k, p] = at_y[p] * at_x[n, p]
                k += 1


@njit(cache=True, error_model="numpy")
def _fit_positions(
    stamps: np.ndarray, variance: np.ndarray, bad: np.ndarray, coefficients: np.ndarray,
    widths: np.ndarray, orders: np.ndarray, radius: float, fwhm: float, tolerance: float,
    dx: np.ndarray, dy: np.ndarray, flux: np.ndarray, misfit: np.ndarray,
) -> None:  # fmt: skip
    """Gauss-Newton steps for position and flux of every star, in place.

    `misfit` is filled with chi2 per pixel inside 1 FWHM, NaN where the fit fails.
    """
    n_stars, size, _ = stamps.shape
    shape = (len(widths), orders.max() + 1, size)
    x_values, x_slopes, y_values, y_slopes = (
        np.empty(shape), np.empty(shape), np.empty(shape), np.empty(shape)
    )  # fmt: skip
    model, by_x, by_y = np.empty((size, size)), np.empty((size, size)), np.empty((size, size))
    for k in range(n_stars):
        for _ in range(_STEPS):
            axis_integrals(dx[k], widths, orders, x_values, x_slopes)
            axis_integrals(dy[k], widths, orders, y_values, y_slopes)
            combine(coefficients[k], x_values, y_values, orders, model)
            combine(coefficients[k], x_slopes, y_values, orders, by_x)
            combine(coefficients[k], x_values, y_slopes, orders, by_y)
            inside = sum_inside(model, dx[k], dy[k], radius)
            normal, right = np.zeros((3, 3)), np.zeros(3)
            chi2, n_core = 0.0, 0
            for j in range(size):
                for i in range(size):
                    r = math.sqrt((i - size // 2 - dx[k]) ** 2 + (j - size // 2 - dy[k]) ** 2)
                    if bad[k, j, i] or r > radius + 0.5:
                        continue
                    share = model[j, i] / inside
                    light = flux[k] * max(share, 0.0)
                    noise = variance[k, j, i] + light + ((_FLOOR + tolerance) * light) ** 2
                    rest = stamps[k, j, i] - flux[k] * share
                    if not rest * rest <= _CLIP**2 * noise:  # NaN is left out too
                        continue
                    weight = 1.0 / (variance[k, j, i] + light + (_FLOOR * light) ** 2)
                    by = (share, flux[k] * by_x[j, i] / inside, flux[k] * by_y[j, i] / inside)
                    for a in range(3):
                        right[a] += weight * by[a] * rest
                        for b in range(3):
                            normal[a, b] += weight * by[a] * by[b]
                    if r < fwhm:
                        chi2 += rest * rest / noise
                        n_core += 1
            step = _solved(normal, right)
            flux[k] += step[0]
            dx[k] += min(max(step[1], -0.5), 0.5)
            dy[k] += min(max(step[2], -0.5), 0.5)
            misfit[k] = chi2 / n_core if n_core > 3 and math.isfinite(step[0]) else math.nan
            if not (math.isfinite(misfit[k]) and flux[k] > 0):
                misfit[k] = math.nan
                break
        shift_x, shift_y = _centroid(model, dx[k] - step[1], dy[k] - step[2], fwhm)
        dx[k] += shift_x
        dy[k] += shift_y


@njit(cache=True, error_model="numpy")
def _centroid(image: np.ndarray, dx: float, dy: float, fwhm: float) -> tuple[float, float]:
    """How far from (dx, dy) the centroid under a Gaussian window of the seeing is, pixels.

    Twice the weighted mean: the window pulls a Gaussian of its own width back by half.
    """
    size = image.shape[0]
    steep = 0.5 * (FWHM_OF_SIGMA / fwhm) ** 2
    total = sum_x = sum_y = 0.0
    for j in range(size):
        y = j - size // 2 - dy
        row = math.exp(-steep * y * y)
        for i in range(size):
            x = i - size // 2 - dx
            light = row * math.exp(-steep * x * x) * image[j, i]
            total += light
            sum_x += light * x
            sum_y += light * y
    return 2.0 * sum_x / total, 2.0 * sum_y / total


@njit(cache=True, error_model="numpy")
def _solved(normal: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solution of three equations; NaN where there is none."""
    ((a, b, c), (_, d, e), (_, _, f)) = normal
    top = d * f - e * e, c * e - b * f, b * e - c * d
    determinant = a * top[0] + b * top[1] + c * top[2]
    if not determinant > 1e-12 * a * d * f:
        return np.full(3, np.nan)
    u, v, w = right
    return np.array([
        top[0] * u + top[1] * v + top[2] * w,
        top[1] * u + (a * f - c * c) * v + (b * c - a * e) * w,
        top[2] * u + (b * c - a * e) * v + (a * d - b * b) * w,
    ]) / determinant  # fmt: skip


@njit(cache=True, error_model="numpy")
def _accumulate(
    stamps: np.ndarray, variance: np.ndarray, bad: np.ndarray, coefficients: np.ndarray,
    widths: np.ndarray, orders: np.ndarray, radius: float, tolerance: float,
    dx: np.ndarray, dy: np.ndarray, flux: np.ndarray, matrix: np.ndarray, vector: np.ndarray,
) -> None:  # fmt: skip
    """Fill each star's normal equations: of its image divided by its flux."""
    n_stars, size, _ = stamps.shape
    shape = (len(widths), orders.max() + 1, size)
    along_x, along_y, slopes = np.empty(shape), np.empty(shape), np.empty(shape)
    model = np.empty((size, size))
    pixels, root, value = np.empty(size**2, np.int64), np.empty(size**2), np.empty(size**2)
    n_functions = vector.shape[1]
    even = n_functions + n_functions % 2
    block, products, scalars = np.zeros((even, _BLOCK)), np.empty((even, even)), np.empty(even)
    for k in range(n_stars):
        axis_integrals(dx[k], widths, orders, along_x, slopes)
        axis_integrals(dy[k], widths, orders, along_y, slopes)
        combine(coefficients[k], along_x, along_y, orders, model)
        inside = sum_inside(model, dx[k], dy[k], radius)
        n = 0
        for j in range(size):
            for i in range(size):
                r = math.sqrt((i - size // 2 - dx[k]) ** 2 + (j - size // 2 - dy[k]) ** 2)
                if bad[k, j, i] or r > radius + 0.5:
                    continue
                share = model[j, i] / inside
                light = max(share, 0.0)
                plain = variance[k, j, i] / flux[k] ** 2 + light / flux[k]
                rest = stamps[k, j, i] / flux[k] - share
                if not rest * rest <= _CLIP**2 * (plain + ((_FLOOR + tolerance) * light) ** 2):
                    continue
                pixels[n] = j * size + i
                root[n] = 1.0 / math.sqrt(plain + (_FLOOR * light) ** 2)
                value[n] = root[n] * stamps[k, j, i] / flux[k]
                n += 1
        products[:] = 0.0
        scalars[:] = 0.0
        for first in range(0, n, _BLOCK):
            some = slice(first, min(first + _BLOCK, n))
            _fill_functions(along_x, along_y, orders, pixels[some], root[some], block)
            _add_products(block, value[some], some.stop - first, products, scalars)
        for a in range(n_functions):
            vector[k, a] = scalars[a]
            for b in range(a + 1):
                matrix[k, a, b] = matrix[k, b, a] = products[a, b]


@njit(cache=True, fastmath={"reassoc", "contract"})
def _add_products(
    functions: np.ndarray, value: np.ndarray, n_pixels: int, matrix: np.ndarray, vector: np.ndarray
) -> None:
    """Add the scalar products of functions (their lower triangle), and with the values.

    Two by two, so that what is loaded serves twice; the number of functions must be even.
    """
    for a in range(0, len(functions), 2):
        f0, f1 = functions[a], functions[a + 1]
        v0 = v1 = 0.0
        for p in range(n_pixels):
            v0 += f0[p] * value[p]
            v1 += f1[p] * value[p]
        vector[a] += v0
        vector[a + 1] += v1
        for b in range(0, a + 1, 2):
            g0, g1 = functions[b], functions[b + 1]
            t00 = t01 = t10 = t11 = 0.0
            for p in range(n_pixels):
                t00 += f0[p] * g0[p]
                t01 += f0[p] * g1[p]
                t10 += f1[p] * g0[p]
                t11 += f1[p] * g1[p]
            matrix[a, b] += t00
            matrix[a, b + 1] += t01
            matrix[a + 1, b] += t10
            matrix[a + 1, b + 1] += t11
