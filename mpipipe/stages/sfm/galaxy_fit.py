"""Fits of galaxy profiles, convolved with the PSF exactly, in Fourier space.

The transform of a galaxy is F P(k) G(k^T A k) exp(-i k d): the PSF with its pixel integral is a
product, and of all modes only those that the PSF passes count. White noise is white there as well.
Levenberg-Marquardt with analytic derivatives; weak priors on size and shape keep faint sources from
running away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from mpipipe.stages.sfm.galaxy_profiles import STEP, Profile

GALAXY = np.dtype(
    [(name, "f8") for name in ("flux", "sky_error", "x", "y", "radius", "eta1", "eta2", "chi2")]
    + [("converged", "?")]
)
"""Flux and its error from sky and read noise (electrons); centre, pixels from the PSF's; half-light
radius sqrt(a b), pixels; shape: of length ln(a/b), along x if eta1 > 0 and along x = y if eta2 > 0;
chi2 per mode."""

_LEAST_PSF = 0.004
"""Modes that the PSF passes less of do not count."""
_SHAPE_PRIOR, _RADIUS_PRIOR = 0.6, 1.0
_TYPICAL = 0.4
"""Middle of the prior of the half-light radius, FWHM; its width is in ln r."""
_SMALLEST, _LARGEST = 0.02, 12.0
"""Half-light radii, FWHM."""
_ROUNDS = 16
_SETTLED = 0.01
_PRECISION = 1e-5
"""Changes of the sum of squares that end a fit, of the noise's and of itself."""
_MOST_ETA = 3.0


@dataclass(frozen=True)
class Modes:
    """Transforms of stamps and PSFs, at the modes that count.

    Attributes
    ----------
    real, imaginary
        (n, m) float32: data, turned by the PSF's phases.
    psf
        (n, m) float32: modulus of the PSF's transform.
    column, line
        (m,) int64 indices into `k_x` and `k_y`; half of the plane.
    k_x, k_y
        Radians a pixel.
    weight
        (m,) 2, or 1 for modes whose opposite is in the list.
    noise
        (n,) variance of a mode from sky and read noise.
    """

    real: np.ndarray
    imaginary: np.ndarray
    psf: np.ndarray
    column: np.ndarray
    line: np.ndarray
    k_x: np.ndarray
    k_y: np.ndarray
    weight: np.ndarray
    noise: np.ndarray

    @property
    def grid(self) -> tuple[np.ndarray, ...]:
        """`column`, `line`, `k_x`, `k_y`, `weight`."""
        return self.column, self.line, self.k_x, self.k_y, self.weight


def transform(
    light: np.ndarray, variance: np.ndarray, known: np.ndarray, models: np.ndarray
) -> Modes:
    """Transform stamps; arrays as in `mpipipe.stages.sfm.source_stamps.Stamps`.

    Pixels that are not known count as empty.
    """
    from scipy.fft import rfft2

    n, size, _ = light.shape
    margin = (size - models.shape[1]) // 2
    inner = slice(margin, margin + models.shape[1])
    padded = np.zeros(light.shape, np.float32)
    if margin >= 0:
        padded[:, inner, inner] = models
    else:
        padded[:] = models[:, -margin : size - margin, -margin : size - margin]
    data, psf = rfft2(light), rfft2(padded)
    strongest = np.abs(psf).max(axis=0) if n else np.zeros(psf.shape[1:])
    j, i = np.nonzero(strongest > _LEAST_PSF)
    psf, data = psf[:, j, i], data[:, j, i]
    modulus = np.abs(psf)
    turned = data * np.conj(psf) / np.maximum(modulus, 1e-9)
    counted = known.sum(axis=(1, 2))
    mean = variance.sum(axis=(1, 2), dtype=float) / np.maximum(counted, 1)
    return Modes(
        np.ascontiguousarray(turned.real), np.ascontiguousarray(turned.imag), modulus,
        i, j, 2 * np.pi * np.fft.rfftfreq(size), 2 * np.pi * np.fft.fftfreq(size),
        np.where(i == 0, 1.0, 2.0), mean * size * size,
    )  # fmt: skip


def starts(
    moments: np.ndarray, psf_moments: np.ndarray, flux: np.ndarray, fwhm: float
) -> np.ndarray:
    """Where fits start: adaptive moments, less the PSF's.

    Parameters
    ----------
    moments, psf_moments
        (n, 3) Ixx, Iyy, Ixy.
    flux
        (n,) electrons.
    """
    rows = np.zeros(len(flux), GALAXY)
    xx, yy, xy = (moments - psf_moments).T
    square = np.sqrt(np.maximum(xx * yy - xy * xy, 0))
    round_ = np.maximum(0.5 * (xx + yy), 1e-9)
    rows["flux"] = flux
    rows["radius"] = np.clip(1.2 * np.sqrt(square), 0.15 * fwhm, 4 * fwhm)
    trust = np.where(square > 0, 0.5, 0.0)
    rows["eta1"] = trust * np.clip(0.5 * (xx - yy) / round_, -1, 1)
    rows["eta2"] = trust * np.clip(xy / round_, -1, 1)
    return rows


def fit_galaxies(modes: Modes, profile: Profile, start: np.ndarray, fwhm: float) -> np.ndarray:
    """Fit one profile to each source.

    Parameters
    ----------
    start
        (n,) `GALAXY` rows; flux, centre, radius and shape are used.
    fwhm
        Pixels.

    Returns
    -------
    numpy.ndarray
        `GALAXY` rows; NaN where there is no flux to fit.
    """
    rows = start.copy()
    _fit_all(
        modes.real, modes.imaginary, modes.psf, modes.grid, modes.noise,
        profile.value, profile.slope, fwhm, rows,
    )  # fmt: skip
    return rows


@njit(cache=True)
def _turn(k_axis: np.ndarray, shift: float, cosine: np.ndarray, sine: np.ndarray) -> None:
    """Phases along one axis."""
    for i in range(len(k_axis)):
        cosine[i], sine[i] = np.cos(k_axis[i] * shift), np.sin(k_axis[i] * shift)


@njit(cache=True, error_model="numpy")
def _normal_equations(
    real: np.ndarray,
    imaginary: np.ndarray,
    psf: np.ndarray,
    grid: Any,
    value: np.ndarray,
    slope: np.ndarray,
    at: np.ndarray,
    matrix: np.ndarray,
    vector: np.ndarray,
) -> float:
    """J^T J and J^T r (not divided by the noise) for (F, ln r, eta1, eta2, x, y); sum of squares.

    In the frame turned by the model's phase, light and shape move the real part of a mode, and the
    centre moves the imaginary part.
    """
    column, line, k_x, k_y, weight = grid
    flux, log_radius, eta1, eta2, x, y = at
    eta = np.sqrt(eta1 * eta1 + eta2 * eta2)
    c = np.cosh(eta)
    s = np.sinh(eta) / eta if eta > 1e-3 else 1.0 + eta * eta / 6
    t = (c - s) / (eta * eta) if eta > 1e-3 else 1.0 / 3
    square = np.exp(2 * log_radius)
    cos_x, sin_x = np.empty(len(k_x)), np.empty(len(k_x))
    cos_y, sin_y = np.empty(len(k_y)), np.empty(len(k_y))
    _turn(k_x, x, cos_x, sin_x)
    _turn(k_y, y, cos_y, sin_y)
    last = len(value) - 2
    total = 0.0
    m00 = m10 = m11 = m20 = m21 = m22 = m30 = m31 = m32 = m33 = 0.0
    v0 = v1 = v2 = v3 = v4 = v5 = m44 = m54 = m55 = 0.0
    for m in range(len(column)):
        i, j = column[m], line[m]
        kx, ky, p, w = k_x[i], k_y[j], psf[m], weight[m]
        plus, minus, cross = kx * kx + ky * ky, kx * kx - ky * ky, 2 * kx * ky
        tilt = eta1 * minus + eta2 * cross
        u = square * (c * plus + s * tilt)
        place = np.sqrt(max(u, 0.0)) / STEP
        cell = int(place)
        g = dg = 0.0
        if cell < last:
            share = place - cell
            g = p * (value[cell] + share * (value[cell + 1] - value[cell]))
            dg = slope[cell] + share * (slope[cell + 1] - slope[cell])
        cosine = cos_x[i] * cos_y[j] - sin_x[i] * sin_y[j]
        sine = sin_x[i] * cos_y[j] + cos_x[i] * sin_y[j]
        a = real[m] * cosine - imaginary[m] * sine - flux * g
        b = imaginary[m] * cosine + real[m] * sine
        total += w * (a * a + b * b)
        lever = flux * p * dg
        d1 = lever * 2 * u
        d2 = lever * square * (s * (eta1 * plus + minus) + t * eta1 * tilt)
        d3 = lever * square * (s * (eta2 * plus + cross) + t * eta2 * tilt)
        wa, w0, w1, w2, w3 = w * a, w * g, w * d1, w * d2, w * d3
        v0 += g * wa
        v1 += d1 * wa
        v2 += d2 * wa
        v3 += d3 * wa
        m00 += w0 * g
        m10 += w0 * d1
        m20 += w0 * d2
        m30 += w0 * d3
        m11 += w1 * d1
        m21 += w1 * d2
        m31 += w1 * d3
        m22 += w2 * d2
        m32 += w2 * d3
        m33 += w3 * d3
        dx, dy = -flux * g * kx, -flux * g * ky
        v4 += w * dx * b
        v5 += w * dy * b
        m44 += w * dx * dx
        m54 += w * dx * dy
        m55 += w * dy * dy
    matrix[:] = 0.0
    matrix[0, 0], matrix[1, 1], matrix[2, 2], matrix[3, 3] = m00, m11, m22, m33
    matrix[1, 0], matrix[2, 0], matrix[3, 0] = m10, m20, m30
    matrix[2, 1], matrix[3, 1], matrix[3, 2] = m21, m31, m32
    matrix[4, 4], matrix[5, 4], matrix[5, 5] = m44, m54, m55
    for i in range(6):
        for j in range(i):
            matrix[j, i] = matrix[i, j]
    vector[0], vector[1], vector[2], vector[3], vector[4], vector[5] = v0, v1, v2, v3, v4, v5
    return total


@njit(cache=True, error_model="numpy")
def _add_priors(
    at: np.ndarray, noise: float, typical: float, matrix: np.ndarray, vector: np.ndarray
) -> float:
    """Add the priors; what they add to the sum of squares."""
    total = 0.0
    for i in range(1, 4):
        width = _RADIUS_PRIOR if i == 1 else _SHAPE_PRIOR
        off = at[i] - (typical if i == 1 else 0.0)
        w = noise / (width * width)
        matrix[i, i] += w
        vector[i] -= w * off
        total += w * off * off
    return total


@njit(cache=True, error_model="numpy")
def _fit_all(
    real: np.ndarray,
    imaginary: np.ndarray,
    psf: np.ndarray,
    grid: Any,
    noise: np.ndarray,
    value: np.ndarray,
    slope: np.ndarray,
    fwhm: float,
    rows: np.ndarray,
) -> None:
    low, high, typical = np.log(_SMALLEST * fwhm), np.log(_LARGEST * fwhm), np.log(_TYPICAL * fwhm)
    at, tried = np.empty(6), np.empty(6)
    matrix, vector = np.empty((6, 6)), np.empty(6)
    best_matrix, best_vector = np.empty((6, 6)), np.empty(6)
    for k in range(len(rows)):
        row = rows[k]
        row.converged = False
        variance = noise[k] + max(row.flux, 0.0)
        if not (row.flux > 0 and variance > 0 and row.radius > 0):
            _lose(row)
            continue
        tried[0], tried[1], tried[2], tried[3] = row.flux, np.log(row.radius), row.eta1, row.eta2
        tried[4], tried[5] = row.x, row.y
        damping, best = 1e-3, np.inf
        for _ in range(_ROUNDS):
            squares = _normal_equations(
                real[k], imaginary[k], psf[k], grid, value, slope, tried, matrix, vector
            )  # fmt: skip
            cost = squares + _add_priors(tried, variance, typical, matrix, vector)
            gain = best - cost
            if gain > 0:
                best = cost
                at[:], best_matrix[:], best_vector[:] = tried, matrix, vector
                row.chi2 = squares
                damping *= 0.1
            else:
                damping = max(10 * damping, 1e-2)
            # Less than what changes a parameter by a small part of its error, or of itself.
            if abs(gain) < _SETTLED * variance + _PRECISION * best:
                row.converged = True
                break
            if not best < np.inf:
                break
            _step(at, best_matrix, best_vector, damping, low, high, fwhm, tried)
        _finish(row, at, best_matrix, best < np.inf, noise[k], grid[4])


@njit(cache=True, error_model="numpy")
def _solve(matrix: np.ndarray, vector: np.ndarray, damping: float, out: np.ndarray) -> None:
    """Cholesky's solution with the diagonal raised by `damping` of itself."""
    n = len(vector)
    root = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1):
            rest = matrix[i, j] * (1 + damping if i == j else 1.0)
            for m in range(j):
                rest -= root[i, m] * root[j, m]
            root[i, j] = np.sqrt(max(rest, 1e-30)) if i == j else rest / root[j, j]
    for i in range(n):
        rest = vector[i]
        for m in range(i):
            rest -= root[i, m] * out[m]
        out[i] = rest / root[i, i]
    for i in range(n - 1, -1, -1):
        for m in range(i + 1, n):
            out[i] -= root[m, i] * out[m]
        out[i] /= root[i, i]


@njit(cache=True)
def _lose(row: Any) -> None:
    row.flux = row.sky_error = row.x = row.y = row.radius = row.eta1 = row.eta2 = np.nan
    row.chi2 = np.nan


@njit(cache=True, error_model="numpy")
def _step(
    at: np.ndarray,
    matrix: np.ndarray,
    vector: np.ndarray,
    damping: float,
    low: float,
    high: float,
    fwhm: float,
    tried: np.ndarray,
) -> None:
    """The next trial."""
    step = np.empty(6)
    _solve(matrix, vector, damping, step)
    tried[:] = at
    tried[0] = min(max(at[0] + step[0], 0.2 * at[0]), 5 * at[0])
    tried[1] = min(max(at[1] + min(max(step[1], -1.0), 1.0), low), high)
    tried[2] = min(max(at[2] + min(max(step[2], -0.7), 0.7), -_MOST_ETA), _MOST_ETA)
    tried[3] = min(max(at[3] + min(max(step[3], -0.7), 0.7), -_MOST_ETA), _MOST_ETA)
    tried[4] = min(max(at[4] + step[4], -fwhm), fwhm)
    tried[5] = min(max(at[5] + step[5], -fwhm), fwhm)


@njit(cache=True, error_model="numpy")
def _finish(
    row: Any, at: np.ndarray, matrix: np.ndarray, is_sound: bool, noise: float, weight: np.ndarray
) -> None:
    if not is_sound:
        _lose(row)
        return
    row.flux, row.radius, row.eta1, row.eta2 = at[0], np.exp(at[1]), at[2], at[3]
    row.x, row.y = at[4], at[5]
    row.chi2 /= (weight.sum() - 6) * (noise + max(at[0], 0.0))
    # Only light and shape are correlated; the centre is not, with them.
    unit = np.zeros(4)
    unit[0] = 1.0
    column = np.empty(4)
    _solve(matrix[:4, :4], unit, 1e-10, column)
    row.sky_error = np.sqrt(max(column[0], 0.0) * noise)


COMBINED = np.dtype([(name, "f8") for name in ("flux", "sky_error", "bulge_share")])
"""Flux of the combination (electrons), its error from the sky, and the share of the
de Vaucouleurs profile."""


def combine(
    modes: Modes,
    profiles: tuple[Profile, Profile],
    fits: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """The best sum of two fits, their shapes held, neither negative (Abazajian et al. 2004).

    Parameters
    ----------
    fits
        `GALAXY` rows of an exponential and a de Vaucouleurs profile.
    """
    rows = np.zeros(len(fits[0]), COMBINED)
    products = np.empty((len(rows), 5))
    pair = tuple(_parameters(fit) for fit in fits)
    _project(
        modes.real, modes.imaginary, modes.psf, modes.grid, profiles[0].value, profiles[1].value,
        pair[0], pair[1], products,
    )  # fmt: skip
    own, other, mixed, first, second = products.T
    with np.errstate(invalid="ignore", divide="ignore"):
        determinant = own * other - mixed**2
        distinct = determinant > 1e-9 * own * other
        disc = np.where(distinct, (other * first - mixed * second) / determinant, first / own)
        bulge = np.where(distinct, (own * second - mixed * first) / determinant, 0.0)
        disc, bulge = np.where(bulge < 0, first / own, disc), np.maximum(bulge, 0)
        bulge = np.where(disc < 0, second / other, bulge)
        disc = np.maximum(disc, 0)
        rows["flux"] = disc + bulge
        rows["bulge_share"] = bulge / rows["flux"]
        share = rows["bulge_share"]
        rows["sky_error"] = (1 - share) * fits[0]["sky_error"] + share * fits[1]["sky_error"]
    return rows


def _parameters(fit: np.ndarray) -> np.ndarray:
    """(n, 5) elements of A (xx, yy, xy) and the centre."""
    eta = np.hypot(fit["eta1"], fit["eta2"])
    c, s = np.cosh(eta), np.sinh(eta) / np.maximum(eta, 1e-9)
    square = fit["radius"] ** 2
    return np.stack(
        [square * (c + s * fit["eta1"]), square * (c - s * fit["eta1"]), square * s * fit["eta2"],
         fit["x"], fit["y"]],
        axis=1,
    )  # fmt: skip


@njit(cache=True, error_model="numpy")
def _project(
    real: np.ndarray,
    imaginary: np.ndarray,
    psf: np.ndarray,
    grid: Any,
    value_a: np.ndarray,
    value_b: np.ndarray,
    fits_a: np.ndarray,
    fits_b: np.ndarray,
    products: np.ndarray,
) -> None:
    """Products of the unit-flux models a and b with themselves, each other and the data."""
    column, line, k_x, k_y, weight = grid
    for k in range(len(real)):
        products[k] = np.nan
        if not (np.isfinite(fits_a[k]).all() and np.isfinite(fits_b[k]).all()):
            continue
        aa = bb = ab = da = db = 0.0
        for m in range(len(column)):
            kx, ky, w = k_x[column[m]], k_y[line[m]], weight[m]
            a = psf[k, m] * _transform_at(value_a, fits_a[k], kx, ky)
            b = psf[k, m] * _transform_at(value_b, fits_b[k], kx, ky)
            phase_a = kx * fits_a[k, 3] + ky * fits_a[k, 4]
            phase_b = kx * fits_b[k, 3] + ky * fits_b[k, 4]
            aa += w * a * a
            bb += w * b * b
            ab += w * a * b * np.cos(phase_a - phase_b)
            da += w * a * (real[k, m] * np.cos(phase_a) - imaginary[k, m] * np.sin(phase_a))
            db += w * b * (real[k, m] * np.cos(phase_b) - imaginary[k, m] * np.sin(phase_b))
        products[k, 0], products[k, 1], products[k, 2] = aa, bb, ab
        products[k, 3], products[k, 4] = da, db


@njit(cache=True)
def _transform_at(value: np.ndarray, fit: np.ndarray, kx: float, ky: float) -> float:
    u = fit[0] * kx * kx + 2 * fit[2] * kx * ky + fit[1] * ky * ky
    place = np.sqrt(max(u, 0.0)) / STEP
    cell = int(place)
    if cell >= len(value) - 2:
        return 0.0
    return float(value[cell] + (place - cell) * (value[cell + 1] - value[cell]))
