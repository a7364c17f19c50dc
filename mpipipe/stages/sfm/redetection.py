"""Sources in the shoulders of others: peaks of what is left when models have been taken off.

All known sources are fitted with the PSF and taken off; the map of the rest shows what they hid,
and where a model does not fit. Three things keep the second from passing for the first:

- A share of the light that was taken off counts as noise.
- A misfit of a galaxy, or of a bright star's wings, looks the same on both sides. A peak has to
  stand out against its mirror image through every extended or bright source that it lies near, with
  the noise of a difference.
- By an extended source it has to do so on the map before the subtraction as well, so that what is
  not symmetric because a neighbour was taken off does not count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from mpipipe.data.psf import Psf
from mpipipe.stages.matched_filter import find_peaks
from mpipipe.stages.psf_photometry import Pixels, blended_photometry, subtract_sources
from mpipipe.stages.sfm.detection_map import DetectionMap, map_width

_FIT_RADIUS = 2.0
"""FWHM."""
_NEIGHBOURS = 8
_REACH = 8.0
"""So many sources, as far as so many FWHM, can be what a peak is only a part of."""
_TOGETHER = 3.0
"""FWHM between a new source and known ones that are fitted with it."""
_ROUNDS = 2
"""Fits hold each position near where it starts: a peak may be farther off."""
_CROWD = 3
"""Power of the median chi2: in a crowd unknown neighbours are in all fits, and stars do not become
galaxies by that."""


@dataclass(frozen=True)
class Rules:
    """What a peak on the residuals has to fulfil.

    Attributes
    ----------
    threshold
        Least height over noise.
    share
        Share of the light taken off that counts as noise.
    misfit
        The same of extended and bright sources is at least this times their misfit: the root of
        chi2's excess over the height.
    separation
        Least distance from a known source, FWHM.
    extended
        Reduced chi2 of the PSF fit from which a source counts as extended, where the image's median
        is 1.
    bright
        Height over noise from which a star's wings are not trusted.
    crowding
        From 0 to 1: from the residual's whole width, misfits included, to its noise alone as what
        the threshold is in units of.
    """

    threshold: float
    share: float
    misfit: float
    separation: float
    extended: float
    bright: float
    crowding: float


@dataclass(frozen=True)
class Residual:
    """An image without its known sources.

    Attributes
    ----------
    image
        (ny, nx) float32, electrons; unusable pixels are 0.
    fits
        `mpipipe.stages.psf_photometry.PSF_SOURCE` rows of the known sources, in their order.
    """

    image: np.ndarray
    fits: np.ndarray


def take_off(pixels: Pixels, psf: Psf, y: np.ndarray, x: np.ndarray) -> Residual:
    """Fit the peaks (y, x) with the PSF, touching ones together, and subtract them."""
    fits = blended_photometry(
        pixels, psf, x.astype(float), y.astype(float), _FIT_RADIUS * psf.fwhm, sweeps=1
    )
    residual = subtract_sources(pixels.image, psf, fits["x"], fits["y"], fits["flux"])
    return Residual(residual, fits)


def take_off_more(
    pixels: Pixels, psf: Psf, rest: Residual, y: np.ndarray, x: np.ndarray
) -> Residual:
    """The same with further peaks: only what stands near a new one is fitted again.

    Parameters
    ----------
    rest
        Without the first of these peaks, whose fits it holds in their order.
    """
    at = np.stack([x, y], axis=1).astype(float)
    old = len(rest.fits)
    again = np.flatnonzero(_is_near(at[:old], at[old:], _TOGETHER * psf.fwhm))
    before = rest.fits[again]
    image = subtract_sources(rest.image, psf, before["x"], before["y"], -before["flux"])
    some = np.concatenate([again, np.arange(old, len(at))])
    more = take_off(Pixels(image, pixels.variance, pixels.unusable), psf, y[some], x[some])
    fits = np.concatenate([rest.fits, more.fits[len(again) :]])
    fits[again] = more.fits[: len(again)]
    return Residual(more.image, fits)


def _is_near(at: np.ndarray, others: np.ndarray, distance: float) -> np.ndarray:
    """Whether any of the others is within `distance`; both (n, 2)."""
    from scipy.spatial import KDTree

    nearest, _ = KDTree(others).query(at, distance_upper_bound=distance)
    return np.asarray(nearest < distance)


def redetect(
    before: DetectionMap,
    after: DetectionMap,
    unusable: np.ndarray,
    fits: np.ndarray,
    fwhm: float,
    rules: Rules,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float]:
    """Peaks that the known sources hid.

    Parameters
    ----------
    before, after
        Maps of the image and of the residual.
    unusable
        (ny, nx) bool.
    fits
        `Residual.fits`.
    fwhm
        Pixels.

    Returns
    -------
    y, x
        int64, pixels in reading order.
    snr
        Height over noise.
    noise, width
        What the threshold was in units of, and the width of the residual's map over its misfits.
    """
    ratio = np.empty_like(after.values)
    _over_noise(before.values, after.values, rules.share, ratio)
    width = map_width(ratio, unusable)
    noise = width + rules.crowding * (min(before.noise, width) - width)
    y, x = find_peaks(ratio, rules.threshold * noise, 1)
    y, x = y.astype(np.int64), x.astype(np.int64)
    snr = ratio[y, x].astype(float) / noise
    light = np.maximum(before.values[y, x] - after.values[y, x], 0)
    known = fits[np.isfinite(fits["flux"])]
    if not len(known) or not len(y):
        return y, x, snr, noise, width
    kept = _stands_out(before.values, after.values, (y, x), known, light, noise, fwhm, rules)
    return y[kept], x[kept], snr[kept], noise, width


@njit(cache=True, error_model="numpy")
def _over_noise(before: np.ndarray, after: np.ndarray, share: float, out: np.ndarray) -> None:
    """The map `after` over its noise and `share` of the light that was taken off."""
    ny, nx = after.shape
    one, zero, part = np.float32(1), np.float32(0), np.float32(share)
    for y in range(ny):
        for x in range(nx):
            light = part * max(before[y, x] - after[y, x], zero)
            out[y, x] = after[y, x] / np.sqrt(one + light * light)


def settle(
    pixels: Pixels,
    psf: Psf,
    rest: Residual,
    y: np.ndarray,
    x: np.ndarray,
    noise: float,
    rules: Rules,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit new peaks together with the known sources near them, which gave way to them.

    One PSF fitted to two stars lies between them: the peak that it leaves is too far out.

    Returns
    -------
    y, x
        int64, the pixels where the fits put them.
    kept
        bool: whose flux is significant, and that have not run into another source.
    """
    from scipy.spatial import KDTree

    known = rest.fits[np.isfinite(rest.fits["flux"])]
    if not len(y) or not len(known):
        return y, x, np.ones(len(y), bool)
    places = np.stack([x, y], axis=1).astype(float)
    known_at = np.stack([known["x"], known["y"]], axis=1)
    known = known[_is_near(known_at, places, _TOGETHER * psf.fwhm)]
    # Their models are put back.
    image = subtract_sources(rest.image, psf, known["x"], known["y"], -known["flux"])
    together = Pixels(image, pixels.variance, pixels.unusable)
    at = np.concatenate([np.stack([known["x"], known["y"]], axis=1), places])
    rows = known[:0]
    for _ in range(_ROUNDS):
        rows = blended_photometry(
            together, psf, at[:, 0], at[:, 1], _FIT_RADIUS * psf.fwhm, sweeps=2
        )
        at = np.stack([rows["x"], rows["y"]], axis=1)
    with np.errstate(invalid="ignore"):
        kept = rows["flux"] > rules.threshold * noise * rows["sky_error"]
    pairs = KDTree(at).query_pairs(rules.separation * psf.fwhm, output_type="ndarray")
    flux = np.nan_to_num(rows["flux"])
    first, second = pairs[:, 0], pairs[:, 1]
    kept[np.where(flux[first] < flux[second], first, second)] = False
    ny, nx = image.shape
    i, j = np.round(at[len(known) :]).astype(np.int64).T
    inside = (i >= 0) & (i < nx) & (j >= 0) & (j < ny)
    return np.where(inside, j, y), np.where(inside, i, x), kept[len(known) :] & inside


def _stands_out(
    before: np.ndarray,
    after: np.ndarray,
    peaks: tuple[np.ndarray, np.ndarray],
    known: np.ndarray,
    light: np.ndarray,
    noise: float,
    fwhm: float,
    rules: Rules,
) -> np.ndarray:
    """Which peaks are far enough from known sources and higher than their mirror images."""
    from scipy.spatial import KDTree

    y, x = peaks
    k = min(_NEIGHBOURS, len(known))
    tree = KDTree(np.stack([known["x"], known["y"]], axis=1))
    distance, index = tree.query(np.stack([x, y], axis=1), k=[*range(1, k + 1)])
    near = distance < _REACH * fwhm
    source = known[index]
    height = _sampled(before, source["y"], source["x"])
    typical = max(1.0, float(np.nanmedian(known["chi2"])))
    is_extended = source["chi2"] > rules.extended * typical**_CROWD
    outshines = near & (height > before[y, x][:, None])
    suspect = outshines & (is_extended | (height > rules.bright * noise))
    mirror = 2 * source["y"] - y[:, None], 2 * source["x"] - x[:, None]
    # A fit's misfit over its height: what a model is wrong by.
    excess = np.maximum(source["chi2"] - 1, 0) * np.maximum(source["n_pixels"], 1)
    share = np.maximum(rules.misfit * np.sqrt(excess) / np.maximum(height, 1), rules.share)
    least = rules.threshold * noise * np.sqrt(2 + np.square(share * light[:, None]))
    stands = after[y, x][:, None] - _sampled(after, *mirror) > least
    stood = before[y, x][:, None] - _sampled(before, *mirror) > least
    sound = np.where(suspect, stands & (stood | ~is_extended), True).all(axis=1)
    return np.asarray(sound & (distance[:, 0] > rules.separation * fwhm))


def _sampled(map_: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Values between pixels, bilinear; 0 outside."""
    ny, nx = map_.shape
    j, i = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    fy, fx = y - j, x - i
    total = np.zeros(y.shape)
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        jj, ii = j + dy, i + dx
        inside = (jj >= 0) & (jj < ny) & (ii >= 0) & (ii < nx)
        value = map_[np.clip(jj, 0, ny - 1), np.clip(ii, 0, nx - 1)]
        weight = (fy if dy else 1 - fy) * (fx if dx else 1 - fx)
        total += np.where(inside, weight * value, 0.0)
    return total
