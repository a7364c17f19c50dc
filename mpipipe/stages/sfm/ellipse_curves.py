"""Curves of growth in ellipses, and what is read off them: Kron and Petrosian radii, fluxes.

One pass over a stamp sums its pixels in elliptical annuli of one shape. Everything else is
interpolation of the cumulative sums, linear in r^2: brightness is constant within an annulus.
A radius r is that of the circle of the ellipse's area, sqrt(a b).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

_CELL = 0.25
"""Edges of annuli are multiples of this, pixels, so that a table finds the annulus of a pixel."""
_FINE, _RATIO = 6.0, 1.06
"""Annuli are 0.5 pixels wide up to this radius, then grow by this ratio."""
_NEAR, _FAR = 2.5, 10.0
"""Pixels: nearer ones are split into 5 x 5; up to the other radius, into three along their own."""
_SPLIT = 5
_THIRD = 0.3536
"""Three points this far apart along any direction scatter as a pixel does: by sqrt(1 / 12)."""
_LEAST_KNOWN = 0.3
"""Share of an annulus that has to be known."""

PETROSIAN_RATIO = 0.2
_RING = (0.8, 1.25)
_PETROSIAN_STEP = 1.04
_PETROSIAN_APERTURE = 2.0
_KRON_APERTURE = 2.5
KRON_REACH = 6.0

OK, NO_CROSSING, CUT, NOT_POSITIVE = 0, 1, 2, 3
"""States of a radius: sound; no crossing where the curve is known, or below the least radius;
its aperture is larger than what is known; the light inside is not positive."""


@dataclass(frozen=True)
class Curves:
    """Cumulative sums inside ellipses.

    Attributes
    ----------
    edges
        (m + 1,) radii, pixels, from 0.
    flux, sky_variance, first_moment
        (n, m + 1): sums of I, of variance and of r I inside the edges.
    last
        (n,) index of the last edge up to which the curve is known.
    """

    edges: np.ndarray
    flux: np.ndarray
    sky_variance: np.ndarray
    first_moment: np.ndarray
    last: np.ndarray

    def inside(self, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Flux and sky variance inside these radii (n,); NaN beyond what is known."""
        out = np.empty((2, len(self.last)))
        _inside_all(self.edges, self.flux, self.sky_variance, self.last, radius, out)
        return out[0], out[1]


def annulus_edges(most: float) -> np.ndarray:
    """Edges of the annuli, from 0 to at least `most` pixels."""
    edges = list(np.arange(0.0, _FINE + 0.25, 0.5))
    while edges[-1] < most:
        grown = edges[-1] * _RATIO
        edges.append(max(_CELL * round(grown / _CELL), edges[-1] + 2 * _CELL))
    return np.array(edges)


def ellipse_curves(
    light: np.ndarray,
    variance: np.ndarray,
    known: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    moments: np.ndarray,
) -> Curves:
    """Sum stamps in elliptical annuli.

    An annulus that is known in part is scaled up to its whole area; where less than 30 % is known
    the curve ends.

    Parameters
    ----------
    light, variance, known, x, y
        As in `mpipipe.stages.sfm.source_stamps.Stamps`.
    moments
        (n, 3) Ixx, Iyy, Ixy that give the ellipses' shape.
    """
    n, size, _ = light.shape
    edges = annulus_edges(size / 2)
    cells = np.searchsorted(edges, _CELL * (np.arange(round(edges[-1] / _CELL)) + 0.5)) - 1
    shape = (n, len(edges))
    flux, sky, first = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    last = np.zeros(n, np.int64)
    # Mean radius of an annulus of even brightness.
    middle = 2 / 3 * np.diff(edges**3) / np.diff(edges**2)
    _sum_annuli(light, variance, known, x, y, moments, edges, cells, middle, flux, sky, first, last)
    return Curves(edges, flux, sky, first, last)


@njit(cache=True, error_model="numpy")
def _sum_annuli(
    light: np.ndarray,
    variance: np.ndarray,
    known: np.ndarray,
    xs: np.ndarray,
    ys: np.ndarray,
    moments: np.ndarray,
    edges: np.ndarray,
    cells: np.ndarray,
    middle: np.ndarray,
    flux: np.ndarray,
    sky: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
) -> None:
    m = len(edges) - 1
    sums = np.empty((m, 4))
    for k in range(len(light)):
        ixx, iyy, ixy = moments[k]
        determinant = ixx * iyy - ixy * ixy
        if not (determinant > 0 and ixx > 0):
            continue
        root = np.sqrt(determinant)
        sums[:] = 0.0
        form = iyy / root, -ixy / root, ixx / root
        _add_pixels(light[k], variance[k], known[k], xs[k], ys[k], form, cells, sums)
        # Beyond this the ellipse leaves the stamp.
        longest = np.sqrt(max(ixx, iyy) / root)
        whole = (light.shape[1] // 2 - 1) / longest
        for a in range(m):
            area, good = sums[a, 2], sums[a, 3]
            if edges[a + 1] > whole:
                area = max(area, np.pi * (edges[a + 1] ** 2 - edges[a] ** 2))
            if not good > _LEAST_KNOWN * area:
                break
            scale = area / good
            flux[k, a + 1] = flux[k, a] + scale * sums[a, 0]
            sky[k, a + 1] = sky[k, a] + scale * scale * sums[a, 1]
            first[k, a + 1] = first[k, a] + scale * sums[a, 0] * middle[a]
            last[k] = a + 1


@njit(cache=True, error_model="numpy")
def _add_pixels(
    light: np.ndarray,
    variance: np.ndarray,
    known: np.ndarray,
    x: float,
    y: float,
    form: tuple[float, float, float],
    cells: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Add pixels to annuli: light, variance, area and known area. `form` is Pxx, Pxy, Pyy."""
    size = light.shape[0]
    radius, step = np.empty(size), np.empty(size)
    for j in range(size):
        dy = j - size // 2 - y
        row = light[j], variance[j], known[j]
        low = high = size
        rest = _FAR * _FAR - dy * dy
        if rest > 0:
            reach, middle = np.sqrt(rest), size // 2 + x
            low = max(0, int(np.ceil(middle - reach)))
            high = min(size, int(np.floor(middle + reach)) + 1)
            _radii(size // 2 + x, dy, form, radius, step)
        _add_far(row, 0, low, size // 2 + x, dy, form, cells, sums)
        _add_far(row, high, size, size // 2 + x, dy, form, cells, sums)
        _add_thirds(row, low, high, size // 2 + x, dy, radius, step, cells, sums)
        for i in range(low, high):
            dx = i - size // 2 - x
            if dx * dx + dy * dy <= _NEAR * _NEAR:
                _add_split(row, i, dx, dy, form, cells, sums)


@njit(cache=True, error_model="numpy")
def _radii(
    middle: float, dy: float, form: tuple[float, float, float], radius: np.ndarray, step: np.ndarray
) -> None:
    """Mean elliptical radius of a row's pixels, and between its three points, both in cells."""
    pxx, pxy, pyy = form
    for k in range(len(radius)):
        i = np.uint64(k)  # here and below unsigned, without a test for negative indices
        dx = k - middle
        # Half the slope of r^2, and r^2, of the ellipse's radius r.
        gx, gy = pxx * dx + pxy * dy, pxy * dx + pyy * dy
        square = gx * dx + gy * dy
        slope = (gx * gx + gy * gy) / square
        r = np.sqrt(square)
        # The mean radius is more than that of the centre where lines of it are bent.
        radius[i] = (r + (pxx + pyy - slope) / (24 * r)) * (1 / _CELL)
        step[i] = np.sqrt(slope) * (_THIRD / _CELL)


@njit(cache=True, error_model="numpy")
def _add_far(
    row: tuple[np.ndarray, np.ndarray, np.ndarray],
    first: int,
    last: int,
    middle: float,
    dy: float,
    form: tuple[float, float, float],
    cells: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Add pixels of a row whole."""
    light, variance, known = row
    pxx, pxy, pyy = form
    mixed, across = 2 * pxy * dy, pyy * dy * dy
    for k in range(first, last):
        i, dx = np.uint64(k), k - middle
        place = np.uint64(np.int64(np.sqrt(across + mixed * dx + pxx * dx * dx) * (1 / _CELL)))
        if place < np.uint64(len(cells)):
            a = np.uint64(cells[place])
            if known[i]:
                sums[a, 0] += light[i]
                sums[a, 1] += variance[i]
                sums[a, 3] += 1.0
            sums[a, 2] += 1.0


@njit(cache=True, error_model="numpy")
def _add_thirds(
    row: tuple[np.ndarray, np.ndarray, np.ndarray],
    first: int,
    last: int,
    middle: float,
    dy: float,
    radius: np.ndarray,
    step: np.ndarray,
    cells: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Add pixels of a row, other than those nearest to the middle, in three parts each."""
    light, variance, known = row
    near, third = _NEAR * _NEAR - dy * dy, 1 / 3
    for k in range(first, last):
        i, dx = np.uint64(k), k - middle
        if dx * dx <= near:
            continue
        for m in range(-1, 2):
            place = np.uint64(np.int64(radius[i] + m * step[i]))
            if place < np.uint64(len(cells)):
                a = np.uint64(cells[place])
                if known[i]:
                    sums[a, 0] += third * light[i]
                    sums[a, 1] += third * variance[i]
                    sums[a, 3] += third
                sums[a, 2] += third


@njit(cache=True, error_model="numpy")
def _add_split(
    row: tuple[np.ndarray, np.ndarray, np.ndarray],
    i: int,
    dx: float,
    dy: float,
    form: tuple[float, float, float],
    cells: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Add a pixel in 5 x 5 parts."""
    share = 1 / (_SPLIT * _SPLIT)
    good = share if row[2][i] else 0.0
    value, v = good * row[0][i], good * row[1][i]
    pxx, pxy, pyy = form
    for m in range(_SPLIT):
        sy = dy + (m - _SPLIT // 2) * (1 / _SPLIT)
        for n in range(_SPLIT):
            sx = dx + (n - _SPLIT // 2) * (1 / _SPLIT)
            r = np.sqrt(pxx * sx * sx + 2 * pxy * sx * sy + pyy * sy * sy)
            place = np.uint64(np.int64(r * (1 / _CELL)))
            if place < np.uint64(len(cells)):
                a = np.uint64(cells[place])
                sums[a, 0] += value
                sums[a, 1] += v
                sums[a, 2] += share
                sums[a, 3] += good


@njit(cache=True)
def _at(edges: np.ndarray, curve: np.ndarray, last: int, radius: float) -> float:
    """The cumulative curve at a radius within what is known; its value there beyond."""
    if radius >= edges[last]:
        return float(curve[last])
    a = np.searchsorted(edges, radius, side="right") - 1
    inner, outer = edges[a] * edges[a], edges[a + 1] * edges[a + 1]
    share = (radius * radius - inner) / (outer - inner)
    return float(curve[a] + share * (curve[a + 1] - curve[a]))


@njit(cache=True)
def _inside_all(
    edges: np.ndarray,
    flux: np.ndarray,
    sky: np.ndarray,
    last: np.ndarray,
    radius: np.ndarray,
    out: np.ndarray,
) -> None:
    for k in range(len(last)):
        out[:, k] = np.nan
        if 0 <= radius[k] <= edges[last[k]]:
            out[0, k] = _at(edges, flux[k], last[k], radius[k])
            out[1, k] = _at(edges, sky[k], last[k], radius[k])


KRON = np.dtype([("radius", "f8"), ("aperture", "f8"), ("state", "i4")])
"""First moment radius r_K, radius of the aperture (2.5 r_K or the least), and state."""


def kron_radii(curves: Curves, size: np.ndarray, least: float) -> np.ndarray:
    """First-moment radii sum(r I) / sum(I) inside 6 sigma, and apertures of 2.5 of them.

    Kron (1980, ApJS 43, 305), in ellipses as Bertin & Arnouts (1996, A&AS 117, 393).

    Parameters
    ----------
    size
        (n,) sigma of the adaptive moments, pixels.
    least
        Smallest radius of an aperture, pixels.

    Returns
    -------
    numpy.ndarray
        `KRON` rows; the aperture is `least` where the radius is not OK.
    """
    rows = np.zeros(len(size), KRON)
    _kron(curves.edges, curves.flux, curves.first_moment, curves.last, size, least, rows)
    return rows


@njit(cache=True)
def _kron(
    edges: np.ndarray,
    flux: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    size: np.ndarray,
    least: float,
    rows: np.ndarray,
) -> None:
    for k in range(len(last)):
        row = rows[k]
        row.radius, row.aperture, row.state = np.nan, least, NOT_POSITIVE
        known = edges[last[k]]
        reach = min(KRON_REACH * size[k], known)
        light = _at(edges, flux[k], last[k], reach)
        moment = _at(edges, first[k], last[k], reach)
        if not (light > 0 and moment > 0):
            continue
        row.radius = moment / light
        if row.radius > reach:
            row.radius = np.nan
        elif _KRON_APERTURE * row.radius < least:
            row.state = NO_CROSSING
        elif _KRON_APERTURE * row.radius > known:
            row.state = CUT
        else:
            row.aperture, row.state = _KRON_APERTURE * row.radius, OK


PETROSIAN = np.dtype(
    [(name, "f8") for name in ("radius", "radius_error", "r50", "r90")] + [("state", "i4")]
)
"""Petrosian radius and its error, radii of 50 and 90 % of the flux in two of it, pixels; state."""


def petrosian_radii(curves: Curves, least: float, variance_factor: float) -> np.ndarray:
    """Petrosian radii, and radii that hold half and 90 % of the Petrosian flux.

    The first radius where the mean brightness from 0.8 to 1.25 r is 0.2 of that inside r (Blanton
    et al. 2001, AJ 121, 2358).

    Parameters
    ----------
    least
        The smallest radius given, pixels; also where there is no crossing.
    variance_factor
        By what the sky's variance of sums is more than that of white noise.
    """
    rows = np.zeros(len(curves.last), PETROSIAN)
    _petrosian(
        curves.edges, curves.flux, curves.sky_variance, curves.last, least, variance_factor, rows
    )
    return rows


@njit(cache=True)
def _ratio(edges: np.ndarray, flux: np.ndarray, last: int, r: float) -> float:
    """Mean brightness in the ring over that inside."""
    inside = _at(edges, flux, last, r)
    if not inside > 0:
        return np.nan
    low, high = _RING[0] * r, _RING[1] * r
    ring = _at(edges, flux, last, high) - _at(edges, flux, last, low)
    return ring / inside / (_RING[1] ** 2 - _RING[0] ** 2)


@njit(cache=True)
def _petrosian(
    edges: np.ndarray,
    flux: np.ndarray,
    sky: np.ndarray,
    last: np.ndarray,
    least: float,
    variance_factor: float,
    rows: np.ndarray,
) -> None:
    for k in range(len(last)):
        row = rows[k]
        row.radius = row.radius_error = row.r50 = row.r90 = np.nan
        known = edges[last[k]]
        row.state = NO_CROSSING
        r, before, found = 0.5 * least, np.nan, np.nan
        while r * _RING[1] <= known:
            ratio = _ratio(edges, flux[k], last[k], r)
            if ratio <= PETROSIAN_RATIO:
                found = r
                if before > PETROSIAN_RATIO:
                    step = (before - PETROSIAN_RATIO) / (before - ratio)
                    found = r / _PETROSIAN_STEP * _PETROSIAN_STEP**step
                break
            before = ratio
            r *= _PETROSIAN_STEP
        if not _at(edges, flux[k], last[k], min(2 * least, known)) > 0:
            row.state = NOT_POSITIVE
        if found >= least:
            row.state = OK if _PETROSIAN_APERTURE * found <= known else CUT
        elif found > 0 and row.state == NO_CROSSING:
            found, row.state = least, OK
        if row.state in (OK, CUT):
            row.radius = found
            row.radius_error = _radius_error(
                edges, flux[k], sky[k], last[k], found, variance_factor
            )
        aperture = min(_PETROSIAN_APERTURE * (found if row.state in (OK, CUT) else least), known)
        total = _at(edges, flux[k], last[k], aperture)
        if total > 0:
            row.r50 = _radius_of(edges, flux[k], last[k], 0.5 * total, aperture)
            row.r90 = _radius_of(edges, flux[k], last[k], 0.9 * total, aperture)


@njit(cache=True)
def _radius_error(
    edges: np.ndarray, flux: np.ndarray, sky: np.ndarray, last: int, r: float, factor: float
) -> float:
    """Noise of the ratio over its slope."""
    inside = _at(edges, flux, last, r)
    low, high = _RING[0] * r, _RING[1] * r
    ring = _at(edges, flux, last, high) - _at(edges, flux, last, low)
    noise = factor * (_at(edges, sky, last, high) - _at(edges, sky, last, low)) + max(ring, 0.0)
    slope = (_ratio(edges, flux, last, high) - _ratio(edges, flux, last, low)) / (high - low)
    if not (inside > 0 and slope < 0):
        return np.nan
    return -np.sqrt(noise) / (inside * (_RING[1] ** 2 - _RING[0] ** 2)) / slope


@njit(cache=True)
def _radius_of(edges: np.ndarray, flux: np.ndarray, last: int, light: float, most: float) -> float:
    """First radius that holds this much light, at most `most`."""
    for a in range(last):
        if flux[a + 1] >= light:
            share = (light - flux[a]) / (flux[a + 1] - flux[a])
            square = edges[a] ** 2 + share * (edges[a + 1] ** 2 - edges[a] ** 2)
            return min(np.sqrt(square), most)
    return most
