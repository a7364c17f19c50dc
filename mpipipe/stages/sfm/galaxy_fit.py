"""Fits of galaxy profiles, convolved with the PSF exactly, in Fourier space.

The transform of a galaxy is F P(k) G(k^T A k) exp(-i k d): the PSF with its pixel integral is a
product, and of all modes only those that the PSF passes count. White noise is white there as well.
Levenberg-Marquardt with analytic derivatives; weak priors on size and shape keep faint sources from
running away.

Sums over modes are of single precision, in loops of one simple step each, which run on vectors.
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

_LEAST_PSF = 0.015
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
    """Transforms of stamps and PSFs, at the modes that count: half of the plane.

    A mode whose opposite is not in the list stands for both: it is multiplied by sqrt(2).

    Attributes
    ----------
    real, imaginary
        (n, m) float32: data, turned by the PSF's phases.
    psf
        (n, m) float32: modulus of the PSF's transform.
    column, line
        (m,) int32: steps along x, at least 0, and along y.
    spacing
        Of the modes, radians a pixel.
    count
        Of all modes, opposite ones included.
    noise
        (n,) variance of a mode from sky and read noise.
    """

    real: np.ndarray
    imaginary: np.ndarray
    psf: np.ndarray
    column: np.ndarray
    line: np.ndarray
    spacing: float
    count: float
    noise: np.ndarray

    @property
    def grid(self) -> tuple[np.ndarray, ...]:
        """`column`, `line`; kx, ky; and kx^2 + ky^2, kx^2 - ky^2, 2 kx ky; these are float32."""
        kx, ky = self.spacing * self.column, self.spacing * self.line
        waves = kx, ky, kx * kx + ky * ky, kx * kx - ky * ky, 2 * kx * ky
        return self.column, self.line, *(one.astype(np.float32) for one in waves)


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
    twice = np.where(i == 0, 1, np.sqrt(2)).astype(np.float32)
    turned = data * np.conj(psf) * (twice / np.maximum(modulus, 1e-9))
    counted = known.sum(axis=(1, 2))
    mean = variance.sum(axis=(1, 2), dtype=float) / np.maximum(counted, 1)
    return Modes(
        np.ascontiguousarray(turned.real), np.ascontiguousarray(turned.imag), modulus * twice,
        i.astype(np.int32), np.where(j > size // 2, j - size, j).astype(np.int32),
        2 * np.pi / size, float((twice * twice).sum()), mean * size * size,
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
        modes.real, modes.imaginary, modes.psf, modes.grid, modes.spacing, modes.count,
        modes.noise, _table(profile), fwhm, rows,
    )  # fmt: skip
    return rows


def _table(profile: Profile) -> np.ndarray:
    """(k, 4) float32: value, its step to the next, slope, its step; 0 at the end."""
    columns = []
    for one in profile:
        ended = np.append(one[:-2], [0.0, 0.0])
        columns += [ended[:-1], np.diff(ended)]
    return np.ascontiguousarray(np.stack(columns, axis=1), np.float32)


@njit(cache=True, error_model="numpy")
def _look_up(
    table: np.ndarray, grid: Any, form: Any, u: np.ndarray, g: np.ndarray, slope: np.ndarray
) -> None:
    """The profile's transform at k^T A k = u, and its derivative; `form` are A's three numbers."""
    _, _, _, _, plus, minus, cross = grid
    f0, f1, f2 = np.float32(form[0]), np.float32(form[1]), np.float32(form[2])
    scale, last = np.float32(1 / STEP), np.int32(len(table) - 1)
    for k in range(len(u)):
        m = np.uint64(k)  # here and below unsigned, without a test for negative indices
        u[m] = f0 * plus[m] + f1 * minus[m] + f2 * cross[m]
        g[m] = np.sqrt(max(u[m], np.float32(0))) * scale
    for k in range(len(u)):
        m = np.uint64(k)
        cell = min(np.int32(g[m]), last)
        share, i = g[m] - np.float32(cell), np.uint64(cell)
        g[m] = table[i, 0] + share * table[i, 1]
        slope[m] = table[i, 2] + share * table[i, 3]


@njit(cache=True, error_model="numpy")
def _turn(
    real: np.ndarray,
    imaginary: np.ndarray,
    grid: Any,
    spacing: float,
    x: float,
    y: float,
    a: np.ndarray,
    b: np.ndarray,
) -> None:
    """Real and imaginary part of the data, turned by the phase of a centre (x, y)."""
    column, line = grid[0], grid[1]
    most = max(column.max(), line.max(), -line.min()) + 1
    waves = np.empty((4, most), np.float32)
    for axis, shift in ((0, x), (2, y)):
        step, wave = np.exp(1j * spacing * shift), 1.0 + 0.0j
        for n in range(most):
            waves[axis, n], waves[axis + 1, n] = wave.real, wave.imag
            wave *= step
    for k in range(len(a)):
        m = np.uint64(k)
        i, j = np.uint64(column[m]), np.uint64(abs(line[m]))
        cos_y, sin_y = waves[2, j], waves[3, j]
        if line[m] < 0:
            sin_y = -sin_y
        cosine = waves[0, i] * cos_y - waves[1, i] * sin_y
        sine = waves[1, i] * cos_y + waves[0, i] * sin_y
        a[m] = real[m] * cosine - imaginary[m] * sine
        b[m] = imaginary[m] * cosine + real[m] * sine


@njit(cache=True, error_model="numpy", fastmath={"reassoc", "nsz", "contract"})
def _dot(a: np.ndarray, b: np.ndarray) -> float:
    """Sum of products, in the order that vectors take."""
    total = np.float32(0)
    for k in range(len(a)):
        m = np.uint64(k)
        total += a[m] * b[m]
    return float(total)


@njit(cache=True, error_model="numpy")
def _shape_form(log_radius: float, eta1: float, eta2: float) -> tuple[float, float, float, float]:
    """Square of the radius, cosh(eta), sinh(eta) / eta, and (cosh - sinh / eta) / eta^2."""
    eta = np.sqrt(eta1 * eta1 + eta2 * eta2)
    c = np.cosh(eta)
    s = np.sinh(eta) / eta if eta > 1e-3 else 1.0 + eta * eta / 6
    t = (c - s) / (eta * eta) if eta > 1e-3 else 1.0 / 3
    return np.exp(2 * log_radius), c, s, t


@njit(cache=True, error_model="numpy")
def _normal_equations(
    real: np.ndarray,
    imaginary: np.ndarray,
    psf: np.ndarray,
    grid: Any,
    spacing: float,
    table: np.ndarray,
    at: np.ndarray,
    work: np.ndarray,
    matrix: np.ndarray,
    vector: np.ndarray,
) -> float:
    """J^T J and J^T r (not divided by the noise) for (F, ln r, eta1, eta2, x, y); sum of squares.

    In the frame turned by the model's phase, light and shape move the real part of a mode, and the
    centre moves the imaginary part. `work` is scratch, (9, m) float32.
    """
    _, _, kx, ky, plus, minus, cross = grid
    square, c, s, t = _shape_form(at[1], at[2], at[3])
    # Taken one by one: unpacked at once, they would not be known to be contiguous.
    g, d1, d2, d3, dx, dy = work[0], work[1], work[2], work[3], work[4], work[5]
    a, b, u = work[6], work[7], work[8]
    _look_up(table, grid, (square * c, square * s * at[2], square * s * at[3]), u, g, d1)
    _turn(real, imaginary, grid, spacing, at[4], at[5], a, b)
    flux, two = np.float32(at[0]), np.float32(2)
    # Derivatives of u by eta1 and eta2, as sums of plus, minus and cross.
    own, mixed = square * s, square * t
    p1, p2 = np.float32(own * at[2]), np.float32(own * at[3])
    m1 = np.float32(own + mixed * at[2] * at[2])
    both = np.float32(mixed * at[2] * at[3])
    c2 = np.float32(own + mixed * at[3] * at[3])
    for k in range(len(g)):
        m = np.uint64(k)
        g[m] *= psf[m]
        light = flux * g[m]
        a[m] -= light
        dx[m], dy[m] = light * kx[m], light * ky[m]
    for k in range(len(g)):
        m = np.uint64(k)
        lever = flux * psf[m] * d1[m]
        d1[m] = lever * two * u[m]
        d2[m] = lever * (p1 * plus[m] + m1 * minus[m] + both * cross[m])
        d3[m] = lever * (p2 * plus[m] + both * minus[m] + c2 * cross[m])
    matrix[:] = 0.0
    for i in range(4):
        vector[i] = _dot(work[i], a)
        for j in range(i + 1):
            matrix[i, j] = matrix[j, i] = _dot(work[i], work[j])
    for i in range(4, 6):
        vector[i] = -_dot(work[i], b)
        for j in range(4, i + 1):
            matrix[i, j] = matrix[j, i] = _dot(work[i], work[j])
    return _dot(a, a) + _dot(b, b)


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
    spacing: float,
    count: float,
    noise: np.ndarray,
    table: np.ndarray,
    fwhm: float,
    rows: np.ndarray,
) -> None:
    low, high, typical = np.log(_SMALLEST * fwhm), np.log(_LARGEST * fwhm), np.log(_TYPICAL * fwhm)
    at, tried = np.empty(6), np.empty(6)
    matrix, vector = np.empty((6, 6)), np.empty(6)
    best_matrix, best_vector = np.empty((6, 6)), np.empty(6)
    work = np.empty((9, real.shape[1]), np.float32)
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
                real[k], imaginary[k], psf[k], grid, spacing, table, tried, work, matrix, vector
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
        _finish(row, at, best_matrix, best < np.inf, noise[k], count)


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
    row: Any, at: np.ndarray, matrix: np.ndarray, is_sound: bool, noise: float, count: float
) -> None:
    if not is_sound:
        _lose(row)
        return
    row.flux, row.radius, row.eta1, row.eta2 = at[0], np.exp(at[1]), at[2], at[3]
    row.x, row.y = at[4], at[5]
    row.chi2 /= (count - 6) * (noise + max(at[0], 0.0))
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
        modes.real, modes.imaginary, modes.psf, modes.grid, modes.spacing,
        _table(profiles[0]), _table(profiles[1]), pair[0], pair[1], products,
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
    """(n, 5): the numbers of A that `_look_up` takes, and the centre."""
    eta = np.hypot(fit["eta1"], fit["eta2"])
    c, s = np.cosh(eta), np.sinh(eta) / np.maximum(eta, 1e-9)
    square = fit["radius"] ** 2
    return np.stack(
        [square * c, square * s * fit["eta1"], square * s * fit["eta2"], fit["x"], fit["y"]], axis=1
    )


@njit(cache=True, error_model="numpy")
def _project(
    real: np.ndarray,
    imaginary: np.ndarray,
    psf: np.ndarray,
    grid: Any,
    spacing: float,
    table_a: np.ndarray,
    table_b: np.ndarray,
    fits_a: np.ndarray,
    fits_b: np.ndarray,
    products: np.ndarray,
) -> None:
    """Products of the unit-flux models a and b with themselves, each other and the data."""
    work = np.empty((6, real.shape[1]), np.float32)
    a, b, turned, rest, u, slope = work[0], work[1], work[2], work[3], work[4], work[5]
    for k in range(len(real)):
        products[k] = np.nan
        if not (np.isfinite(fits_a[k]).all() and np.isfinite(fits_b[k]).all()):
            continue
        _look_up(table_a, grid, (fits_a[k, 0], fits_a[k, 1], fits_a[k, 2]), u, a, slope)
        _look_up(table_b, grid, (fits_b[k, 0], fits_b[k, 1], fits_b[k, 2]), u, b, slope)
        a *= psf[k]
        b *= psf[k]
        products[k, 0], products[k, 1] = _dot(a, a), _dot(b, b)
        _turn(real[k], imaginary[k], grid, spacing, fits_a[k, 3], fits_a[k, 4], turned, rest)
        products[k, 3] = _dot(a, turned)
        # The second model as the first one's frame sees it.
        x, y = fits_a[k, 3] - fits_b[k, 3], fits_a[k, 4] - fits_b[k, 4]
        rest[:] = 0.0
        _turn(b, rest, grid, spacing, x, y, turned, u)
        products[k, 2] = _dot(a, turned)
        _turn(real[k], imaginary[k], grid, spacing, fits_b[k, 3], fits_b[k, 4], turned, rest)
        products[k, 4] = _dot(b, turned)
