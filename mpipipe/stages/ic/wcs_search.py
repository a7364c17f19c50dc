"""From sources and reference stars to a WCS: expectations, matching and fit in their order.

The header's WCS is the first expectation, wrong in pointing, rotation, scale and parity by as much
as is allowed. If it leads nowhere, or there is none, the pointing and the pixel scale are the next,
at any rotation. Three to five stars can only move a header's WCS.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mpipipe.data.tan_sip import TanSip, gnomonic, middle
from mpipipe.data.wcs_solution import Kind
from mpipipe.stages.ic.pattern_match import PatternMatch, Search, match_pattern, match_shift
from mpipipe.stages.ic.wcs_fit import (
    FitOptions,
    Stars,
    WcsFit,
    fit_shift,
    linear_wcs,
    match_radius,
    solve_wcs,
)

SHIFT_REACH = 30.0
"""How far a header's WCS may be off for few stars to move it, arcsec."""
_SHIFT_RADIUS = (1.0, 3.0)
"""How well they must agree: arcsec and pixels; the larger counts."""
_ENOUGH_ORDER = 3
"""A fit of this degree is good enough to start the next one from."""
_MAX_CHANCE = 0.2
"""Chance matches of a source within the first radius: only so many reference stars are used."""


@dataclass(frozen=True, eq=False)
class Expectation:
    """Where the CCD should be.

    Attributes
    ----------
    sky
        Of the CCD's centre, degrees.
    matrix
        (2, 2) arcsec per pixel at the centre.
    search
        How wrong it may be.
    header
        The WCS it comes from; None if it is but a pointing.
    """

    sky: tuple[float, float]
    matrix: np.ndarray
    search: Search
    header: TanSip | None = None


@dataclass(frozen=True, eq=False)
class Found:
    """A solution, and how it was found."""

    fit: WcsFit
    kind: Kind
    match: PatternMatch
    expectation: Expectation


def expectations(
    header: TanSip | None,
    pointing: tuple[float, float],
    pixel_scale: float,
    search: Search,
    shape: tuple[int, int],
) -> list[Expectation]:
    """What is to be tried, the likeliest first.

    Parameters
    ----------
    header
        The header's WCS, if any.
    pointing
        Rough position of the CCD's centre, degrees; NaN if unknown.
    pixel_scale
        Arcsec.
    search
        How wrong the header's WCS may be.
    shape
        (ny, nx).
    """
    found = []
    centre, _ = middle(shape)
    if header is not None:
        ra, dec = header.pixel_to_sky(*np.array(centre).reshape(2, 1))
        sky = float(ra[0]), float(dec[0])
        found.append(Expectation(sky, header.jacobian(*centre), search.at(sky[1]), header))
        pointing = pointing if np.isfinite(pointing).all() else sky
    if np.isfinite(pointing).all():
        blind = replace(search, rotation=180.0)
        found.append(Expectation(pointing, pixel_scale * np.eye(2), blind))
    return found


def find_wcs(
    stars: Stars,
    tiers: list[np.ndarray],
    tried: list[Expectation],
    shape: tuple[int, int],
    options: FitOptions,
    enough: int,
) -> Found | None:
    """The first solution beyond chance.

    Parameters
    ----------
    stars
        All sources and reference stars, brightest first.
    tiers
        Indices of sources for the fit, brightest first: the best ones, then more, as long as the
        fit uses fewer than `enough`.
    tried
        Expectations in their order.
    shape
        (ny, nx).
    options
        Of the fit.
    """
    for expectation in tried:
        match = _matched(stars, expectation, shape)
        if match is None:
            continue
        linear = match.matrix, match.offset
        start = linear_wcs(expectation.sky, expectation.matrix, linear, shape)
        radius = 2.0 * match.radius
        share = _MAX_CHANCE / (np.pi * radius**2)
        n_references = _brightest_of_density(stars, expectation, shape, share)
        fit = _fitted(stars, tiers, n_references, start, radius, shape, options, enough)
        if fit is not None:
            return Found(fit, "sip" if fit.order > 1 else "affine", match, expectation)
    for expectation in tried:
        if expectation.header is not None:
            return _moved(stars, tiers[-1], expectation, shape, options)
    return None


def _fitted(
    stars: Stars,
    tiers: list[np.ndarray],
    n_references: int,
    start: TanSip,
    radius: float,
    shape: tuple[int, int],
    options: FitOptions,
    enough: int,
) -> WcsFit | None:
    """The most accurate of the fits to ever more sources, until one has enough."""
    best, last = None, None
    for fitted in tiers:
        chosen = stars.among(fitted, slice(n_references))
        if last is None or last.order < _ENOUGH_ORDER:
            fit = solve_wcs(chosen, start, shape, radius / start.pixel_scale, options)
        else:
            near = match_radius(last)
            fit = solve_wcs(
                chosen, last.wcs, shape, near, options, is_coarse=False, refraction=last.refraction
            )
        if fit is None:
            continue
        last = fit
        if best is None or fit.error < best.error:
            best = replace(fit, source=fitted[fit.source])
        if best.used.sum() >= enough:
            break
    return best


def _plane(stars: Stars, expectation: Expectation) -> np.ndarray:
    """Reference stars around the expected centre, (m, 2) arcsec."""
    return np.stack(gnomonic(stars.ra, stars.dec, *expectation.sky), axis=1) * 3600.0


def _size(expectation: Expectation, shape: tuple[int, int]) -> tuple[float, float]:
    scale = float(np.sqrt(abs(np.linalg.det(expectation.matrix))))
    return shape[1] * scale, shape[0] * scale


def _matched(stars: Stars, expectation: Expectation, shape: tuple[int, int]) -> PatternMatch | None:
    (xc, yc), _ = middle(shape)
    expected = np.stack([stars.x - xc, stars.y - yc], axis=1) @ expectation.matrix.T
    size = _size(expectation, shape)
    plane = _plane(stars, expectation)
    return match_pattern(expected, plane, size, size[0] / shape[1], expectation.search)


def _brightest_of_density(
    stars: Stars, expectation: Expectation, shape: tuple[int, int], density: float
) -> int:
    """How many of the brightest reference stars have at most this density per arcsec^2."""
    size = np.array(_size(expectation, shape))
    reach = float(np.hypot(*size)) / 2.0
    inside = np.cumsum(np.hypot(*_plane(stars, expectation).T) <= reach)
    return int(np.searchsorted(inside, density * np.pi * reach**2, side="right"))


def _moved(
    stars: Stars,
    fitted: np.ndarray,
    expectation: Expectation,
    shape: tuple[int, int],
    options: FitOptions,
) -> Found | None:
    """The header's WCS moved to few stars."""
    header = expectation.header
    if header is None:
        return None
    scale = header.pixel_scale
    radius = max(_SHIFT_RADIUS[0], _SHIFT_RADIUS[1] * scale)
    chosen = stars.among(fitted, slice(None))
    placed = np.stack(header.sky_to_pixel(chosen.ra, chosen.dec), axis=1) * scale
    (xc, yc), _ = middle(shape)
    origin = np.array([xc, yc]) * scale
    expected = np.stack([chosen.x, chosen.y], axis=1) * scale
    reach = min(SHIFT_REACH, expectation.search.offset)
    match = match_shift(
        expected - origin, placed - origin, _size(expectation, shape), reach, radius
    )
    if match is None:
        return None
    fit = fit_shift(chosen, (match.source, match.reference), header, shape, options)
    if np.hypot(fit.dx, fit.dy).max() > radius / scale:
        return None
    fit = replace(fit, source=fitted[fit.source])
    return Found(fit, "shift", match, expectation)
