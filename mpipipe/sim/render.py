"""Sources onto pixels: the expected number of electrons, exact pixel integrals.

Only expectations are drawn; one Poisson draw per pixel then gives the same statistics as
photons drawn one by one, as independent Poisson numbers add up to a Poisson number.

Stars are integrated over each pixel by Gauss-Legendre quadrature. Galaxies are multiplied with
PSF and pixel in Fourier space, with the frequencies that alias onto the grid summed in, so that
the samples are right even where seeing is sharper than the pixels can follow.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mpipipe.sim.optics import DX, DY, M11, M12, M22, N_COMPONENTS, WEIGHT, Psf
from mpipipe.sim.profiles import (
    BULGE_MAX,
    BULGE_STEPS,
    EXPONENTIAL_RADIUS,
    MOFFAT_MAX,
    MOFFAT_STEPS,
    bulge_radius_at,
    bulge_slope,
    bulge_table,
    exponential_radius_at,
    moffat_table,
)

_FAST = {"contract", "reassoc", "arcp", "nsz"}
_SIZES = (32, 64, 128, 256, 512)
_BATCH_PIXELS = 1 << 21
"""Stamps are transformed in batches of about this many pixels, which bounds memory."""

_NODES = np.zeros((5, 4))
_WEIGHTS = np.zeros((5, 4))
for _n in range(1, 5):
    _x, _w = np.polynomial.legendre.leggauss(_n)
    _NODES[_n, :_n], _WEIGHTS[_n, :_n] = _x / 2.0, _w / 2.0


@njit(cache=True, fastmath=_FAST)
def _power(t: float, twice_beta: int) -> float:  # pragma: no cover - compiled
    """t^(-twice_beta / 2) without pow."""
    inverse = 1.0 / t
    result = np.sqrt(inverse) if twice_beta % 2 else 1.0
    for _ in range(twice_beta // 2):
        result *= inverse
    return result


@njit(cache=True, fastmath=_FAST)
def _add_stars(  # type: ignore[no-untyped-def]
    image, x, y, flux, table, twice_beta, radius, core, nodes, weights
):  # pragma: no cover - compiled
    """Add pixel-integrated stars to `image` (ny, nx) in place; see `add_stars`."""
    ny, nx = image.shape
    sharp = core < 3.5
    amplitude = np.empty(table.shape[1])
    for k in range(x.size):
        for c in range(table.shape[1]):
            p = table[k, c]
            beta = 0.5 * twice_beta[c]
            area = p[M11] * p[M22] - p[M12] * p[M12]
            amplitude[c] = flux[k] * p[WEIGHT] * (beta - 1.0) / np.pi * area
        r2 = radius[k] * radius[k]
        near2, far2 = (1.5 * core) ** 2, (3.5 * core) ** 2
        for iy in range(max(0, int(y[k] - radius[k])), min(ny, int(y[k] + radius[k]) + 2)):
            for ix in range(max(0, int(x[k] - radius[k])), min(nx, int(x[k] + radius[k]) + 2)):
                px, py = ix - x[k], iy - y[k]
                d2 = px * px + py * py
                if d2 > r2:
                    continue
                # The orders keep the error of the integral below 1e-6 of the peak.
                if d2 < near2:
                    n = 4 if sharp else 3
                elif sharp and d2 < 3.0 * near2:
                    n = 3
                elif d2 < far2:
                    n = 2
                else:
                    n = 1
                total = 0.0
                for j in range(n):
                    for i in range(n):
                        value = 0.0
                        for c in range(table.shape[1]):
                            p = table[k, c]
                            qx = px + nodes[n, i] - p[DX]
                            qy = py + nodes[n, j] - p[DY]
                            sx = p[M11] * qx + p[M12] * qy
                            sy = p[M12] * qx + p[M22] * qy
                            value += amplitude[c] * _power(1.0 + sx * sx + sy * sy, twice_beta[c])
                        total += weights[n, i] * weights[n, j] * value
                image[iy, ix] += total


def add_stars(image: np.ndarray, psf: Psf, x: np.ndarray, y: np.ndarray, flux: np.ndarray) -> None:
    """Add stars to an image.

    Parameters
    ----------
    image
        (ny, nx) float32 electrons, changed in place.
    x, y
        (n,) centroids, zero-based pixels; may lie outside the image.
    flux
        (n,) electrons.
    """
    if not len(x):
        return
    floor = psf.survey.render_floor
    _add_stars(
        image,
        np.ascontiguousarray(x, dtype=np.float64),
        np.ascontiguousarray(y, dtype=np.float64),
        np.ascontiguousarray(flux, dtype=np.float64),
        psf.components(x, y),
        psf.twice_beta,
        star_radius(psf, flux, floor),
        psf.alpha,
        _NODES,
        _WEIGHTS,
    )


def star_radius(psf: Psf, flux: np.ndarray, floor: float) -> np.ndarray:
    """Radius at which stars of some flux fall to `floor` electrons per pixel; pixels."""
    survey = psf.survey
    radius = np.full(len(flux), 3.0 * psf.fwhm)
    parts = (
        (1.0 - survey.wing_fraction, psf.alpha, survey.core_beta),
        (survey.wing_fraction, survey.wing_scale * psf.fwhm, survey.wing_beta),
    )
    for weight, scale, beta in parts:
        peak = np.asarray(flux) * weight * (beta - 1.0) / (np.pi * scale * scale)
        reach = scale * np.sqrt(np.maximum((peak / floor) ** (1.0 / beta) - 1.0, 0.0))
        radius = np.maximum(radius, reach)
    return radius


@njit(cache=True, fastmath=_FAST)
def _look_up(table, position):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    index = int(position)
    fraction = position - index
    return table[index] * (1.0 - fraction) + table[index + 1] * fraction


@njit(cache=True, fastmath=_FAST)
def _galaxy_spectra(  # type: ignore[no-untyped-def]
    spectra, n, x, y, flux, bulge, disk, spheroid, shape, table, moffats, dev, dev_slope
):  # pragma: no cover - compiled
    """Fill (m, n, n/2 + 1) spectra of galaxies whose stamp begins at (0, 0); see `add_galaxies`.

    x, y: centroid within the stamp; disk, spheroid: scale length and half-light radius, pixels;
    shape: (m, 3) c11, c12, c22 of the squared frequency k.C.k.
    """
    two_pi = 2.0 * np.pi
    half = n // 2
    # Per axis and alias: frequency, pixel response, phase.
    kk = np.empty((2, 2, n))
    pixel = np.empty((2, 2, n))
    phase = np.empty((2, 2, n), dtype=np.complex128)
    shapes = np.empty((N_COMPONENTS, 3))
    for g in range(x.size):
        sharpest = 1e30
        for c in range(N_COMPONENTS):
            p = table[g, c]
            det = p[M11] * p[M22] - p[M12] * p[M12]
            s11, s12, s22 = p[M22] / det, -p[M12] / det, p[M11] / det
            shapes[c, 0] = s11 * s11 + s12 * s12
            shapes[c, 1] = s12 * (s11 + s22)
            shapes[c, 2] = s22 * s22 + s12 * s12
            if c < 2:
                sharpest = min(sharpest, min(shapes[c, 0], shapes[c, 2]))
        k_max2 = MOFFAT_MAX * MOFFAT_MAX / sharpest
        for axis in range(2):
            position = x[g] if axis == 0 else y[g]
            for i in range(n):
                k0 = two_pi * (i if i < half or axis == 0 else i - n) / n
                for alias in range(2):
                    k = k0
                    if alias:
                        k = k0 - two_pi if k0 >= 0 else k0 + two_pi
                    kk[axis, alias, i] = k
                    pixel[axis, alias, i] = np.sin(0.5 * k) / (0.5 * k) if k != 0.0 else 1.0
                    phase[axis, alias, i] = complex(np.cos(k * position), -np.sin(k * position))
        for j in range(n):
            for i in range(half + 1):
                total = 0.0j
                for alias_y in range(2):
                    ky = kk[1, alias_y, j]
                    for alias_x in range(2):
                        kx = kk[0, alias_x, i]
                        k2 = kx * kx + ky * ky
                        if k2 > k_max2:
                            continue
                        psf = 0.0j
                        for c in range(N_COMPONENTS):
                            arg = np.sqrt(
                                shapes[c, 0] * kx * kx
                                + 2.0 * shapes[c, 1] * kx * ky
                                + shapes[c, 2] * ky * ky
                            ) * (MOFFAT_STEPS / MOFFAT_MAX)
                            if arg >= MOFFAT_STEPS:
                                continue
                            p = table[g, c]
                            turn = kx * p[DX] + ky * p[DY]
                            value = p[WEIGHT] * _look_up(moffats[c], arg)
                            psf += value * complex(np.cos(turn), -np.sin(turn))
                        q2 = (
                            shape[g, 0] * kx * kx
                            + 2.0 * shape[g, 1] * kx * ky
                            + shape[g, 2] * ky * ky
                        )
                        t = 1.0 + q2 * disk[g] * disk[g]
                        light = (1.0 - bulge[g]) / (t * np.sqrt(t))
                        if bulge[g] > 0.0:
                            q = np.sqrt(q2) * spheroid[g]
                            if q < BULGE_MAX:
                                part = _look_up(dev, q * (BULGE_STEPS / BULGE_MAX))
                            else:
                                part = dev[BULGE_STEPS] * (q / BULGE_MAX) ** dev_slope
                            light += bulge[g] * part
                        response = pixel[0, alias_x, i] * pixel[1, alias_y, j]
                        total += (
                            psf * (light * response) * phase[0, alias_x, i] * phase[1, alias_y, j]
                        )
                spectra[g, j, i] = flux[g] * total


@njit(cache=True)
def _add_stamps(image, stamps, x0, y0):  # type: ignore[no-untyped-def] # pragma: no cover
    ny, nx = image.shape
    n = stamps.shape[1]
    for g in range(x0.size):
        for j in range(max(0, -y0[g]), min(n, ny - y0[g])):
            for i in range(max(0, -x0[g]), min(n, nx - x0[g])):
                image[y0[g] + j, x0[g] + i] += stamps[g, j, i]


def add_galaxies(
    image: np.ndarray,
    psf: Psf,
    x: np.ndarray,
    y: np.ndarray,
    flux: np.ndarray,
    *,
    bulge: np.ndarray,
    disk_radius: np.ndarray,
    bulge_radius: np.ndarray,
    shape: np.ndarray,
) -> None:
    """Add galaxies, convolved with the PSF, to an image.

    Parameters
    ----------
    image
        (ny, nx) float32 electrons, changed in place.
    x, y, flux
        (n,) centroids in zero-based pixels, electrons.
    bulge
        (n,) fraction of the flux in the de Vaucouleurs part.
    disk_radius, bulge_radius
        (n,) half-light radii along the major axis, pixels.
    shape
        (n, 2, 2) map of the unit circle to the outline of unit major axis, along pixel axes.
    """
    from scipy.fft import irfft2

    if not len(x):
        return
    squared = shape @ np.swapaxes(shape, 1, 2)
    forms = np.stack([squared[:, 0, 0], squared[:, 0, 1], squared[:, 1, 1]], axis=1)
    size = _stamp_sizes(psf, flux, bulge, disk_radius, bulge_radius)
    table = psf.components(x, y)
    moffats = np.stack([moffat_table(int(twice)) for twice in psf.twice_beta])
    ny, nx = image.shape
    for n in _SIZES:
        x0 = np.floor(x + 0.5).astype(np.int64) - n // 2
        y0 = np.floor(y + 0.5).astype(np.int64) - n // 2
        on_image = (x0 < nx) & (y0 < ny) & (x0 + n > 0) & (y0 + n > 0)
        chosen = np.flatnonzero((size == n) & on_image)
        batch = max(1, _BATCH_PIXELS // (n * n))
        for start in range(0, len(chosen), batch):
            k = chosen[start : start + batch]
            spectra = np.empty((len(k), n, n // 2 + 1), dtype=np.complex64)
            _galaxy_spectra(
                spectra,
                n,
                x[k] - x0[k],
                y[k] - y0[k],
                np.asarray(flux[k], dtype=np.float64),
                np.asarray(bulge[k], dtype=np.float64),
                np.asarray(disk_radius[k], dtype=np.float64) / EXPONENTIAL_RADIUS,
                np.asarray(bulge_radius[k], dtype=np.float64),
                forms[k],
                table[k],
                moffats,
                bulge_table(),
                bulge_slope(),
            )
            _add_stamps(image, irfft2(spectra, s=(n, n)), x0[k], y0[k])


def _stamp_sizes(
    psf: Psf,
    flux: np.ndarray,
    bulge: np.ndarray,
    disk_radius: np.ndarray,
    bulge_radius: np.ndarray,
) -> np.ndarray:
    """The stamp of each galaxy: the smallest that holds what is above the floor."""
    floor = 3.0 * psf.survey.render_floor
    need = star_radius(psf, flux, floor)
    tiny = 1e-9
    disk = exponential_radius_at(floor / np.maximum(flux * (1.0 - bulge), tiny), disk_radius)
    spheroid = bulge_radius_at(floor / np.maximum(flux * bulge, tiny), bulge_radius)
    # The two add roughly in quadrature.
    need = np.hypot(need, np.maximum(disk, spheroid))
    place = np.searchsorted(np.array(_SIZES[:-1]) / 2.0, need)
    return np.asarray(np.array(_SIZES)[place])


@njit(cache=True, fastmath=_FAST)
def _add_streak(image, x, y, cosine, sine, flux, alpha, beta):  # type: ignore[no-untyped-def]
    # pragma: no cover - compiled
    ny, nx = image.shape
    for iy in range(ny):
        for ix in range(nx):
            d = -(ix - x) * sine + (iy - y) * cosine
            image[iy, ix] += flux * (1.0 + (d / alpha) ** 2) ** (0.5 - beta)


def add_streak(image: np.ndarray, psf: Psf, x: float, y: float, angle: float, flux: float) -> None:
    """Add the trail of a satellite: a straight line of light through (x, y).

    Parameters
    ----------
    angle
        Radians from the x axis.
    flux
        Electrons per pixel of length.
    """
    from math import gamma, pi, sqrt

    # A Moffat profile integrated along a line is one of exponent beta - 1/2.
    beta = psf.survey.core_beta
    peak = (beta - 1.0) / (sqrt(pi) * psf.alpha) * gamma(beta - 0.5) / gamma(beta)
    _add_streak(image, x, y, np.cos(angle), np.sin(angle), flux * peak, psf.alpha, beta)
