"""Size and shape of stars on an image, found on the image itself before any PSF model exists.

Compact, unsaturated peaks are measured by adaptive moments (Bernstein & Jarvis 2002, section 3:
the Gaussian that matches its own weighted moments). Stars are where the sizes pile up: cosmic
rays are smaller and have dark neighbours, galaxies are larger and spread.

`Seeing.ratios` serves the search for cosmic rays: per direction, the smallest value that the mean
of two opposite neighbours of a star's brightest pixel takes relative to that pixel. A star that
is centred on its pixel has the smallest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numba import njit

FWHM_OF_SIGMA = 2.354820045
DIRECTIONS: tuple[tuple[int, int], ...] = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Steps (dy, dx) to one neighbour of each opposite pair; the other is the step reversed."""

_PEAK_LEVELS = (40.0, 20.0, 8.0)
"""Significance of the peak pixel: lower levels only where higher ones give too few stars."""
_MARGIN = 8
_LEAST_NEIGHBOUR = 0.08
_MOST_CANDIDATES = 500
_FEW = 10
_SAFETY = 0.95
_STATE_OK = 0


@dataclass(frozen=True)
class Seeing:
    """What the stars of an image look like.

    Attributes
    ----------
    fwhm
        Pixels, of the Gaussian with the stars' adaptive moments.
    ixx, iyy, ixy
        Median adaptive moments of the stars, pixel^2.
    ratios
        For each of `DIRECTIONS`: smallest (mean of pair) / centre of a star.
    x, y, peak
        The stars it comes from: positions, and the value of the brightest pixel in electrons.
    measured
        False when there were too few stars and values are the defaults.
    """

    fwhm: float
    ixx: float
    iyy: float
    ixy: float
    ratios: tuple[float, float, float, float]
    x: np.ndarray = field(default_factory=lambda: np.empty(0))
    y: np.ndarray = field(default_factory=lambda: np.empty(0))
    peak: np.ndarray = field(default_factory=lambda: np.empty(0))
    measured: bool = True

    @property
    def n_stars(self) -> int:
        """How many stars it was measured on."""
        return len(self.x)

    @property
    def ellipticity(self) -> float:
        """Modulus of ((ixx - iyy), 2 ixy) / (ixx + iyy)."""
        return math.hypot(self.ixx - self.iyy, 2 * self.ixy) / (self.ixx + self.iyy)


def default_seeing(fwhm: float) -> Seeing:
    """A round Gaussian of this FWHM (pixels), for images without stars."""
    moment = (fwhm / FWHM_OF_SIGMA) ** 2
    ratios = _gaussian_ratios(moment, moment, 0.0, _SAFETY)
    return Seeing(fwhm, moment, moment, 0.0, ratios, measured=False)


def measure_seeing(
    image: np.ndarray, variance: np.ndarray, exclude: np.ndarray, default: Seeing
) -> Seeing:
    """Measure the seeing on an image.

    Parameters
    ----------
    image, variance
        (ny, nx) float32, electrons (background subtracted), electrons^2.
    exclude
        (ny, nx) bool: saturated, bad, hit pixels.
    default
        What to return when no star is found.
    """
    y, x = candidates(image, variance, exclude, _PEAK_LEVELS[-1])
    peak_snr = image[y, x] / np.sqrt(variance[y, x])
    stars: np.ndarray = np.empty(0)
    for level in _PEAK_LEVELS:
        stars = _choose_stars(image, exclude, y[peak_snr > level], x[peak_snr > level])
        if len(stars) >= _FEW:
            break
    if not len(stars):
        return default
    ixx, iyy, ixy = (float(np.median(stars[name])) for name in ("ixx", "iyy", "ixy"))
    fwhm = FWHM_OF_SIGMA * (ixx * iyy - ixy * ixy) ** 0.25
    y, x = stars["peak_y"], stars["peak_x"]
    peak = image[y, x].astype(float)
    ratios = _gaussian_ratios(ixx, iyy, ixy, _SAFETY)
    if len(stars) >= _FEW:
        ratios = _measured_ratios(image, stars, (ixx, iyy, ixy), ratios)
    return Seeing(fwhm, ixx, iyy, ixy, ratios, stars["x"], stars["y"], peak)


def _gaussian_ratios(
    ixx: float, iyy: float, ixy: float, factor: float
) -> tuple[float, float, float, float]:
    """exp(-d M^-1 d / 2) for each direction d, times `factor`."""
    determinant = ixx * iyy - ixy * ixy
    values = [
        factor * math.exp(-0.5 * (iyy * dx * dx - 2 * ixy * dx * dy + ixx * dy * dy) / determinant)
        for dy, dx in DIRECTIONS
    ]
    return values[0], values[1], values[2], values[3]


def _measured_ratios(
    image: np.ndarray,
    stars: np.ndarray,
    moments: tuple[float, float, float],
    gaussian: tuple[float, float, float, float],
) -> tuple[float, float, float, float]:
    """Lowest quarter of the stars' own ratios, each corrected for where in the pixel it is centred.

    Off-centre stars have larger ratios, by cosh(d M^-1 offset) for a Gaussian. The result stays
    within 15 % below and 5 % above the Gaussian's.
    """
    ixx, iyy, ixy = moments
    determinant = ixx * iyy - ixy * ixy
    y, x = stars["peak_y"], stars["peak_x"]
    off_y, off_x = stars["y"] - y, stars["x"] - x
    result = []
    for (dy, dx), expected in zip(DIRECTIONS, gaussian, strict=True):
        pair = 0.5 * (image[y + dy, x + dx].astype(float) + image[y - dy, x - dx])
        tilt = (dx * (iyy * off_x - ixy * off_y) + dy * (ixx * off_y - ixy * off_x)) / determinant
        centred = pair / image[y, x] / np.cosh(tilt)
        low = float(np.percentile(centred, 25))
        result.append(min(max(low, 0.85 * expected / _SAFETY), 1.05 * expected / _SAFETY))
    return result[0], result[1], result[2], result[3]


def _choose_stars(
    image: np.ndarray, exclude: np.ndarray, y: np.ndarray, x: np.ndarray
) -> np.ndarray:
    """Of candidate peaks those whose size is the common one, with their moments; may be none."""
    if len(y) > _MOST_CANDIDATES:
        brightest = np.argsort(-image[y, x], kind="stable")[:_MOST_CANDIDATES]
        y, x = y[brightest], x[brightest]
    found = adaptive_moments(image, exclude, y.astype(float), x.astype(float), 1.7)
    size = found["ixx"] * found["iyy"] - found["ixy"] ** 2
    trace = found["ixx"] + found["iyy"]
    # A quarter of the stars may be elongated by the optics, but hardly more than 2 to 1.
    round_enough = np.hypot(found["ixx"] - found["iyy"], 2 * found["ixy"]) < 0.6 * trace
    drift = np.hypot(found["x"] - x, found["y"] - y)
    good = (found["state"] == _STATE_OK) & (size > 0.06) & round_enough & (drift < 1.2)
    if not good.any():
        return np.empty(0)
    found, y, x = found[good], y[good], x[good]
    logs = 0.25 * np.log(size[good])
    chosen = _pile(logs)
    stars = np.zeros(
        int(chosen.sum()), dtype=[*found.dtype.descr, ("peak_y", "i8"), ("peak_x", "i8")]
    )
    for name in found.dtype.names or ():
        stars[name] = found[name][chosen]
    stars["peak_y"], stars["peak_x"] = y[chosen], x[chosen]
    return stars


def _pile(logs: np.ndarray) -> np.ndarray:
    """Which of the log sizes belong to the densest pile (half-sample mode, then 3 sigma)."""
    ordered = np.sort(logs)
    while len(ordered) > 3:
        half = (len(ordered) + 1) // 2
        spans = ordered[half - 1 :] - ordered[: len(ordered) - half + 1]
        start = int(np.argmin(spans))
        ordered = ordered[start : start + half]
    centre = float(ordered.mean()) if len(ordered) != 3 else float(np.median(ordered))
    chosen = np.abs(logs - centre) < 0.12
    for _ in range(5):
        if not chosen.any():
            return np.abs(logs - centre) <= np.abs(logs - centre).min()
        centre = float(np.median(logs[chosen]))
        width = max(1.4826 * float(np.median(np.abs(logs[chosen] - centre))), 0.01)
        chosen = np.abs(logs - centre) < min(3 * width, 0.12)
    return chosen


@njit(cache=True)
def _scan_candidates(
    image: np.ndarray,
    variance: np.ndarray,
    exclude: np.ndarray,
    n_sigma: float,
    ys: np.ndarray,
    xs: np.ndarray,
) -> int:
    """Local maxima above `n_sigma` with eight bright neighbours and a clean box about them."""
    ny, nx = image.shape
    squared = np.float32(n_sigma * n_sigma)
    n = 0
    for y in range(_MARGIN, ny - _MARGIN):
        for x in range(_MARGIN, nx - _MARGIN):
            p = image[y, x]
            if not p * abs(p) > squared * variance[y, x]:
                continue
            lowest, highest = p, -p
            for j in range(y - 1, y + 2):
                for i in range(x - 1, x + 2):
                    if j != y or i != x:
                        lowest = min(lowest, image[j, i])
                        highest = max(highest, image[j, i])
            floor = max(_LEAST_NEIGHBOUR * p, 3 * np.sqrt(variance[y, x] * 0.3))
            if highest >= p or lowest < floor:
                continue
            clean = True
            for j in range(y - 5, y + 6):
                for i in range(x - 5, x + 6):
                    if exclude[j, i] or image[j, i] > p:
                        clean = False
            if clean and n < len(ys):
                ys[n], xs[n] = y, x
                n += 1
    return n


def candidates(
    image: np.ndarray, variance: np.ndarray, exclude: np.ndarray, n_sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Peaks that may be stars, (y, x) int32 in reading order; at most 50,000."""
    ys, xs = np.empty(50_000, np.int32), np.empty(50_000, np.int32)
    n = _scan_candidates(image, variance, exclude, n_sigma, ys, xs)
    return ys[:n], xs[:n]


MOMENTS = np.dtype(
    [(name, "f8") for name in ("x", "y", "ixx", "iyy", "ixy", "flux")] + [("state", "i4")]
)
"""Result of `adaptive_moments`; `state` 0: converged, 1: diverged, 2: touches the edge."""


def adaptive_moments(
    image: np.ndarray, exclude: np.ndarray, y: np.ndarray, x: np.ndarray, sigma: float
) -> np.ndarray:
    """Adaptive moments of sources, starting from a round Gaussian.

    Iterates M <- 2 x weighted second moments, centre <- centre + 2 x first, with the weight a
    Gaussian of M, at most 60 times; excluded pixels count as what the weight expects (they are
    left out of all sums).

    Parameters
    ----------
    y, x
        Starting positions, float64.
    sigma
        Of the first weight, pixels.

    Returns
    -------
    numpy.ndarray
        One `MOMENTS` row a source; `flux` is twice the weighted sum, the Gaussian's flux.
    """
    rows = np.zeros(len(y), MOMENTS)
    out = np.zeros((len(y), 7))
    _moments(image, exclude, np.asarray(y, float), np.asarray(x, float), sigma, out)
    for column, name in enumerate(MOMENTS.names or ()):
        rows[name] = out[:, column]
    return rows


@njit(cache=True)
def _weighted_sums(
    image: np.ndarray,
    exclude: np.ndarray,
    state: np.ndarray,
    sums: np.ndarray,
) -> bool:
    """Weighted moments about (x, y, mxx, myy, mxy); False if the window leaves the image."""
    ny, nx = image.shape
    cx, cy, mxx, myy, mxy = state[0], state[1], state[2], state[3], state[4]
    determinant = mxx * myy - mxy * mxy
    reach_x = min(4 * np.sqrt(mxx), 24.0) + 0.5
    reach_y = min(4 * np.sqrt(myy), 24.0) + 0.5
    x0, x1 = int(np.ceil(cx - reach_x)), int(np.floor(cx + reach_x))
    y0, y1 = int(np.ceil(cy - reach_y)), int(np.floor(cy + reach_y))
    if x0 < 0 or y0 < 0 or x1 >= nx or y1 >= ny:
        return False
    sums[:] = 0
    for j in range(y0, y1 + 1):
        dy = j - cy
        for i in range(x0, x1 + 1):
            dx = i - cx
            form = (myy * dx * dx - 2 * mxy * dx * dy + mxx * dy * dy) / determinant
            if form > 16 or exclude[j, i]:
                continue
            w = np.exp(-0.5 * form) * image[j, i]
            sums[0] += w
            sums[1] += w * dx
            sums[2] += w * dy
            sums[3] += w * dx * dx
            sums[4] += w * dy * dy
            sums[5] += w * dx * dy
    return True


@njit(cache=True)
def _moments(
    image: np.ndarray,
    exclude: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    sigma: float,
    out: np.ndarray,
) -> None:
    """The iteration of `adaptive_moments`; rows of `out` are x, y, moments, flux, state."""
    state, sums = np.empty(5), np.empty(6)
    for k in range(len(y)):
        state[0], state[1] = x[k], y[k]
        state[2], state[3], state[4] = sigma * sigma, sigma * sigma, 0.0
        outcome = 1
        for _ in range(60):
            if not _weighted_sums(image, exclude, state, sums):
                outcome = 2
                break
            total = sums[0]
            if not total > 0:
                break
            mx, my = sums[1] / total, sums[2] / total
            new_xx = 2 * (sums[3] / total - mx * mx)
            new_yy = 2 * (sums[4] / total - my * my)
            new_xy = 2 * (sums[5] / total - mx * my)
            moved = 2 * np.hypot(mx, my)
            change = abs(new_xx - state[2]) + abs(new_yy - state[3]) + abs(new_xy - state[4])
            state[0] += 2 * mx
            state[1] += 2 * my
            state[2], state[3], state[4] = new_xx, new_yy, new_xy
            determinant = new_xx * new_yy - new_xy * new_xy
            if not (new_xx > 0 and determinant > 0.02 and new_xx + new_yy < 800):
                break
            if np.hypot(state[0] - x[k], state[1] - y[k]) > 6:
                break
            if change < 1e-3 * (new_xx + new_yy) and moved < 1e-3:
                outcome = 0
                break
        for c in range(5):
            out[k, c] = state[c]
        out[k, 5] = 2 * sums[0]
        out[k, 6] = outcome
