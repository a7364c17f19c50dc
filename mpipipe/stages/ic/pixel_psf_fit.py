"""Fit of the PSF kind ``pixel``: a polynomial of position in every pixel, by least squares.

Each round draws the model of every star where it stands, moves the residual to the middle of the
pixel, and fits the sum of model and moved residual over all stars, pixel by pixel (as effective
PSFs are built: Anderson & King 2000). What the shift loses of a star it then loses of the model
too, so that it cancels. A pixel of a star weighs ``1 / (v / F^2 + M / F + (0.003 M)^2)``, v the
variance of the sky, F the star's flux, M the model: photon noise, but no star counts for more than
a model of 0.3 % could be.

Stars are divided by fluxes that are fitted with the model itself, so its sum could drift over the
field: `PixelPsf` divides by its sum inside the calibration radius. Its centre could drift too, and
is held where the centroid of the light inside that radius is. Under a Gaussian of the seeing, as in
windowed centroids, coma would shift it by some hundredths of a pixel, differently over the field
and in every seeing; few stars have to do with that, as their light far out is noisy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from mpipipe.data import ccd_polynomial
from mpipipe.data.ccd_polynomial import n_terms
from mpipipe.data.circle import circle_weights
from mpipipe.data.errors import BadDataError
from mpipipe.data.pixel_draw import draw_images, evaluate, shift_images
from mpipipe.data.pixel_psf import PixelPsf, order_of
from mpipipe.data.pixel_shift import shift_image
from mpipipe.stages.ic.psf_stars import PsfFit, PsfOptions, PsfStars
from mpipipe.stages.psf_photometry import PSF_SOURCE, fit_stamps
from mpipipe.stages.seeing import FWHM_OF_SIGMA

_FLOOR = 0.003
_CLIP = 5.0
_TOLERANCES = (0.15, 0.03, 0.005)
"""By round: error of the model, as a share of it, that clipping allows for."""
_RIDGE = 0.1
"""Expected size of the terms above the constant, as a share of the constant."""
_FIRST = 100
"""Stars that the first model is the median of."""
_FIRST_ORDER = 2
"""Highest order of the first round, before the order is chosen in the second."""
_FOLDS = 5
_OUTER = 0.75
"""Share of the half width beyond which the model is the same over the field, and round."""
_BLEND = 0.1
_CORE = 1.0
"""Radius in FWHM inside which stars and orders are judged: outside noise rules."""
_FIT_RADIUS = 2.0
"""Radius in FWHM of the fit of position and flux."""
_OUTLIER = 6.0
_CENTROID_FROM = 20
"""Stars from which the centre is the centroid of all the light."""
_LEAST_TO_JUDGE = 5


@dataclass
class _State:
    """What a round changes: the model, the stars' positions and fluxes, who counts."""

    coefficients: np.ndarray
    rows: np.ndarray
    alive: np.ndarray

    @property
    def order(self) -> int:
        """Order of the model's polynomials."""
        return order_of(len(self.coefficients))


def fit_pixel(stars: PsfStars, options: PsfOptions) -> PsfFit:
    """Fit a pixel basis; see the module and `mpipipe.stages.ic.psf_stars`.

    Raises
    ------
    BadDataError
        If no star has light in it.
    """
    state = _start(stars)
    order = min(options.orders[-1], _FIRST_ORDER)
    for number, tolerance in enumerate(_TOLERANCES):
        _refine(stars, state)
        judge = number == 1 and len(options.orders) > 1
        order = options.orders[-1] if judge else order
        terms = _terms(stars, state, order)
        target, weight, core_chi2 = _centred(stars, state, tolerance)
        _reject(state, core_chi2)
        folds = np.where(state.alive, np.arange(len(stars)) % _FOLDS, -1)
        sums = _normal_sums(target, weight, terms, folds)
        mean = _mean_model(stars, state)
        if judge:
            order = _best_order(options, sums, mean, (target, weight, terms, folds))
        state.coefficients = _solve(sums.total(), mean, n_terms(order))
        _tidy(stars, state)
    psf = _as_psf(stars, state)
    if not np.isfinite(psf.fwhm):
        raise BadDataError("the stars' light does not make a PSF: its moments do not converge")
    return PsfFit(psf, state.alive, order)


def _start(stars: PsfStars) -> _State:
    """A constant model, the median of the brightest stars moved to the middle."""
    if not len(stars):
        raise BadDataError("no star to fit a PSF to")
    # Missing pixels take the value of their mirror image through the middle.
    mirrored = stars.stamps[:, ::-1, ::-1]
    filled = np.where(stars.bad, mirrored, stars.stamps)
    some = np.argsort(-stars.flux, kind="stable")[:_FIRST]
    moved = np.empty_like(filled[some])
    dx, dy = stars.x - stars.middle_x, stars.y - stars.middle_y
    shift_images(filled[some] / stars.flux[some, None, None], -dx[some], -dy[some], moved)
    model = np.median(moved, axis=0)
    total = float((model * circle_weights(stars.size, stars.radius)).sum())
    if not (np.isfinite(total) and total > 0):
        raise BadDataError("the stars have no light inside the calibration radius")
    rows = np.zeros(len(stars), PSF_SOURCE)
    rows["x"], rows["y"], rows["flux"] = stars.half + dx, stars.half + dy, stars.flux
    state = _State(model[None] / total, rows, np.ones(len(stars), bool))
    _tidy(stars, state)
    return state


def _terms(stars: PsfStars, state: _State, order: int) -> np.ndarray:
    """Terms of position at the stars."""
    return ccd_polynomial.terms(stars.x, stars.y, stars.shape, order)


def _refine(stars: PsfStars, state: _State) -> None:
    """Fit the stars' positions and fluxes with the model as it is; what fails stays as it was."""
    models = np.empty_like(stars.stamps)
    for _ in range(2):
        dx, dy = state.rows["x"] - stars.half, state.rows["y"] - stars.half
        terms = _unit_terms(stars, state)
        draw_images(state.coefficients, terms, np.clip(dx, -1, 1), np.clip(dy, -1, 1), models)
        rows = state.rows.copy()
        fit_stamps(stars.stamps, stars.variance, stars.bad, models, _FIT_RADIUS * stars.fwhm, rows)
        near = np.hypot(rows["x"] - stars.half, rows["y"] - stars.half) < 0.5 * stars.fwhm + 0.7
        sound = near & (rows["flux"] > 0) & ~rows["failed"]
        state.rows[sound] = rows[sound]
        state.alive &= sound


def _unit_terms(stars: PsfStars, state: _State) -> np.ndarray:
    """Terms at the stars, divided by the model's sum there, as `PixelPsf` does."""
    terms = _terms(stars, state, state.order)
    sums = (state.coefficients * circle_weights(stars.size, stars.radius)).sum(axis=(1, 2))
    return terms / (terms @ sums)[:, None]


def _centred(
    stars: PsfStars, state: _State, tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each star says the model is, its weight, and the star's chi2 a pixel in the core."""
    target, weight = np.empty_like(stars.stamps), np.empty_like(stars.stamps)
    chi2 = np.empty(len(stars))
    rows = state.rows
    _gather(
        stars.stamps, stars.variance, stars.bad, state.coefficients, _unit_terms(stars, state),
        rows["x"] - stars.half, rows["y"] - stars.half, rows["flux"], tolerance,
        _CORE * stars.fwhm, target, weight, chi2,
    )  # fmt: skip
    return target, weight, chi2


@njit(cache=True, error_model="numpy")
def _gather(
    stamps: np.ndarray,
    variance: np.ndarray,
    bad: np.ndarray,
    coefficients: np.ndarray,
    terms: np.ndarray,
    dx: np.ndarray,
    dy: np.ndarray,
    flux: np.ndarray,
    tolerance: float,
    core: float,
    target: np.ndarray,
    weight: np.ndarray,
    chi2: np.ndarray,
) -> None:
    """Fill the arrays of `_centred`, star by star."""
    n, size, _ = stamps.shape
    half = size // 2
    model, drawn, residual = np.empty((size, size)), np.empty((size, size)), np.empty((size, size))
    for k in range(n):
        evaluate(coefficients, terms[k], model)
        shift_image(model, dx[k], dy[k], drawn)
        for j in range(size):
            for i in range(size):
                known = 0.0 if bad[k, j, i] else 1.0
                residual[j, i] = known * (stamps[k, j, i] / flux[k] - drawn[j, i])
        shift_image(residual, -dx[k], -dy[k], drawn)
        total, count = 0.0, 0
        for j in range(size):
            for i in range(size):
                m = max(model[j, i], 0.0)
                noise = variance[k, j, i] / (flux[k] * flux[k]) + m / flux[k]
                square = drawn[j, i] ** 2 / (noise + (tolerance * m) ** 2)
                good = not bad[k, j, i]
                if good and (j - half) ** 2 + (i - half) ** 2 < core * core:
                    total += min(square, 100.0 * _CLIP * _CLIP)
                    count += 1
                good = good and square < _CLIP * _CLIP
                target[k, j, i] = model[j, i] + drawn[j, i]
                weight[k, j, i] = 1 / (noise + (_FLOOR * m) ** 2) if good else 0.0
        chi2[k] = total / max(count, 1)


def _reject(state: _State, chi2: np.ndarray) -> None:
    """Drop stars whose core fits far worse than the others', while enough are left."""
    judged = chi2[state.alive]
    if len(judged) < _LEAST_TO_JUDGE:
        return
    middle = float(np.median(judged))
    width = max(1.4826 * float(np.median(np.abs(judged - middle))), 0.1 * middle)
    keep = state.alive & (chi2 <= middle + _OUTLIER * width)
    if keep.sum() >= max(_LEAST_TO_JUDGE, len(judged) // 2):
        state.alive = keep


@dataclass(frozen=True)
class _Sums:
    """Normal equations of every pixel, by fold: left (folds, size^2, t, t), right (.., t)."""

    left: np.ndarray
    right: np.ndarray

    def total(self) -> tuple[np.ndarray, np.ndarray]:
        """Of all stars."""
        return self.left.sum(axis=0), self.right.sum(axis=0)

    def without(self, fold: int) -> tuple[np.ndarray, np.ndarray]:
        """Of all stars but a fold's."""
        rest = [k for k in range(len(self.left)) if k != fold]
        return self.left[rest].sum(axis=0), self.right[rest].sum(axis=0)


def _normal_sums(
    target: np.ndarray, weight: np.ndarray, terms: np.ndarray, folds: np.ndarray
) -> _Sums:
    n_pixels, t = target[0].size, terms.shape[1]
    left, right = np.zeros((_FOLDS, t, t, n_pixels)), np.zeros((_FOLDS, t, n_pixels))
    flat = target.reshape(len(target), -1), weight.reshape(len(weight), -1)
    _accumulate(*flat, terms, folds, left, right)
    low, high = np.tril_indices(t, -1)
    left[:, low, high] = left[:, high, low]
    return _Sums(left.transpose(0, 3, 1, 2), right.transpose(0, 2, 1))


@njit(cache=True)
def _accumulate(
    target: np.ndarray,
    weight: np.ndarray,
    terms: np.ndarray,
    folds: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
) -> None:
    """Upper halves of the normal equations; pixels run fastest, so that they go in parallel."""
    n_pixels, n_terms_ = target.shape[1], terms.shape[1]
    weighted = np.empty(n_pixels)
    for k in range(len(target)):
        if folds[k] < 0:
            continue
        for s in range(n_terms_):
            for p in range(n_pixels):
                weighted[p] = weight[k, p] * terms[k, s]
            row = right[folds[k], s]
            for p in range(n_pixels):
                row[p] += weighted[p] * target[k, p]
            for t in range(s, n_terms_):
                row = left[folds[k], s, t]
                factor = terms[k, t]
                for p in range(n_pixels):
                    row[p] += weighted[p] * factor


def _mean_model(stars: PsfStars, state: _State) -> np.ndarray:
    """The model averaged over the stars that count, (size, size)."""
    alive = state.alive if state.alive.any() else np.ones(len(stars), bool)
    mean = _terms(stars, state, state.order)[alive].mean(axis=0)
    return np.asarray((state.coefficients * mean[:, None, None]).sum(axis=0))


def _solve(equations: tuple[np.ndarray, np.ndarray], mean: np.ndarray, terms: int) -> np.ndarray:
    """Coefficients of the first `terms` terms, (terms, size, size), with a prior.

    Terms above the constant are expected to be 0 within a tenth of the mean model, the constant
    to be the mean model within its peak (which matters only where no star has a pixel).
    """
    size = len(mean)
    left, right = equations[0][:, :terms, :terms].copy(), equations[1][:, :terms].copy()
    peak = float(mean.max())
    prior = 1 / (_RIDGE * np.maximum(mean.ravel(), 1e-7 * peak)) ** 2
    for t in range(1, terms):
        left[:, t, t] += prior
    left[:, 0, 0] += 1 / peak**2
    right[:, 0] += mean.ravel() / peak**2
    solved = np.linalg.solve(left, right[:, :, None])[:, :, 0]
    return np.ascontiguousarray(solved.T).reshape(terms, size, size)


def _best_order(
    options: PsfOptions,
    sums: _Sums,
    mean: np.ndarray,
    stars: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
) -> int:
    """The order whose model, made without a fifth of the stars, tells that fifth's shapes best.

    Judged are size and ellipticity, for whose sake the order is wanted: in the chi2 of all pixels
    the noise of those that hardly vary over the field would weigh against every further term.
    Another order than the usual has to be better by one standard error.
    """
    target, weight, terms, folds = stars
    modes = _shape_modes(mean)
    misfit = np.zeros((len(options.orders), len(target)))
    for order, row in zip(options.orders, misfit, strict=True):
        for fold in range(_FOLDS):
            left_out = np.flatnonzero(folds == fold)
            if len(left_out):
                model = _solve(sums.without(fold), mean, n_terms(order))
                _fill_misfit(target, weight, terms, left_out, model, modes, row)
    best = int(np.argmin(misfit.sum(axis=1)))
    if options.usual in options.orders:
        usual = options.orders.index(options.usual)
        gain = (misfit[usual] - misfit[best])[folds >= 0]
        if gain.sum() <= np.sqrt(len(gain)) * gain.std():
            best = usual
    return options.orders[best]


def _shape_modes(mean: np.ndarray) -> np.ndarray:
    """How the model changes with its size and its two ellipticities, (3, size, size)."""
    half = len(mean) // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
    light = np.maximum(mean, 0.0)
    size = float((light * light * (x * x + y * y)).sum() / (light * light).sum())
    return light * np.stack([x * x + y * y - size, x * x - y * y, 2 * x * y])


@njit(cache=True)
def _fill_misfit(
    target: np.ndarray,
    weight: np.ndarray,
    terms: np.ndarray,
    stars: np.ndarray,
    model: np.ndarray,
    modes: np.ndarray,
    misfit: np.ndarray,
) -> None:
    """Chi2 of each star's residual along the modes, outliers capped."""
    size = target.shape[1]
    drawn = np.empty((size, size))
    for k in stars:
        evaluate(model, terms[k, : len(model)], drawn)
        for mode in modes:
            along = square = 0.0
            for j in range(size):
                for i in range(size):
                    along += weight[k, j, i] * (target[k, j, i] - drawn[j, i]) * mode[j, i]
                    square += weight[k, j, i] * mode[j, i] ** 2
            if square > 0:
                misfit[k] += min(along * along / square, _CLIP * _CLIP)


def _tidy(stars: PsfStars, state: _State) -> None:
    """Make the outer part smooth, hold the centre, and scale the mean to 1; in place."""
    mean = _mean_model(stars, state)
    half = stars.half
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
    r = np.hypot(x, y)
    outer = np.clip((r - (_OUTER - _BLEND) * half) / (_BLEND * half), 0, 1)
    coefficients = state.coefficients * (1 - outer)
    coefficients[0] += outer * _azimuthal_mean(mean, r)
    window = circle_weights(stars.size, stars.radius)
    if state.alive.sum() < _CENTROID_FROM:
        window = np.exp(-0.5 * (r * FWHM_OF_SIGMA / stars.fwhm) ** 2)
    _recentre(coefficients, mean, np.stack([window * x, window * y]))
    total = (_mean_model(stars, _State(coefficients, state.rows, state.alive))
             * circle_weights(stars.size, stars.radius)).sum()  # fmt: skip
    state.coefficients = coefficients / total


def _azimuthal_mean(image: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Mean over rings one pixel wide, interpolated in the radius."""
    low = r.astype(np.int64).ravel()
    part = r.ravel() - low
    weight = np.bincount(low, 1 - part) + np.bincount(low + 1, part)[: low.max() + 1]
    value = image.ravel()
    total = (
        np.bincount(low, (1 - part) * value) + np.bincount(low + 1, part * value)[: low.max() + 1]
    )
    rings = total / np.maximum(weight, 1e-12)
    return np.interp(r, np.arange(len(rings)), rings)


def _recentre(coefficients: np.ndarray, mean: np.ndarray, moments: np.ndarray) -> None:
    """Move every term, along the mean model's slopes, until its windowed first moments are 0."""
    slope_y, slope_x = np.gradient(mean)
    slopes = np.stack([slope_x, slope_y])
    response = (moments[:, None] * slopes[None]).sum(axis=(2, 3))
    offsets = (moments[:, None] * coefficients[None]).sum(axis=(2, 3))
    if abs(np.linalg.det(response)) > 1e-12:
        steps = np.linalg.solve(response, offsets)
        coefficients -= (steps[:, :, None, None] * slopes[:, None]).sum(axis=0)


def _as_psf(stars: PsfStars, state: _State) -> PixelPsf:
    """The finished model, with its FWHM at the middle of the exposure."""
    ny, nx = stars.shape
    n_used = max(int(state.alive.sum()), 1)
    psf = PixelPsf(state.coefficients, float("nan"), stars.radius, stars.shape, n_used)
    ixx, iyy, ixy = psf.moments(np.array([(nx - 1) / 2]), np.array([(ny - 1) / 2]))[0]
    fwhm = FWHM_OF_SIGMA * max(ixx * iyy - ixy * ixy, 0.0) ** 0.25
    return PixelPsf(state.coefficients, float(fwhm), stars.radius, stars.shape, n_used)
