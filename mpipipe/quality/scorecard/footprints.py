"""Where on the sky exposures lie, by their own sources: places to pixels by a fit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mpipipe.quality.scorecard.run_data import RunData

MOST_SOURCES = 300
"""Of an exposure, that the fit is made of."""
LEAST_SOURCES = 12
MOST_PIXELS, MOST_DEGREES = 1e6, 5.0
"""Farther from the first pixel, or the middle of the exposure, a source is no source."""


class Footprint(NamedTuple):
    """From the sky to the pixels of one exposure: polynomials of degree 2 in the tangent plane.

    Attributes
    ----------
    ra, dec
        The tangent point, degrees.
    terms
        (6, 2).
    shape
        (ny, nx).
    """

    ra: float
    dec: float
    terms: np.ndarray
    shape: tuple[int, int]

    def pixels(self, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
        """(n, 2) x and y, zero-based."""
        return np.asarray(_powers(*_plane(ra, dec, self.ra, self.dec)) @ self.terms)

    def holds(self, ra: np.ndarray, dec: np.ndarray, margin: float) -> np.ndarray:
        """Which positions are on the CCD, not nearer to an edge than this, pixels."""
        x, y = self.pixels(ra, dec).T
        ny, nx = self.shape
        inside = (x > margin) & (x < nx - 1 - margin) & (y > margin) & (y < ny - 1 - margin)
        return np.asarray(inside & (np.abs(dec - self.dec) < 5.0))


def footprints(data: RunData) -> dict[int, Footprint]:
    """Footprints of exposures by their place in `exposures`; those with few sources lack.

    Raises
    ------
    NotMeasurable
        If the run has no sources.
    """
    return data.remember(("footprints",), lambda: _footprints(data))


def _footprints(data: RunData) -> dict[int, Footprint]:
    rows = data.table("src", ("visit", "ccdNumber", "x", "y", "ra", "dec"))
    place = data.at_exposures(rows["visit"], rows["ccdNumber"])
    known = (place >= 0) & (np.abs(rows["ra"]) <= 360.0) & (np.abs(rows["dec"]) <= 90.0)
    known &= (np.abs(rows["x"]) < MOST_PIXELS) & (np.abs(rows["y"]) < MOST_PIXELS)
    chosen = np.flatnonzero(known)
    chosen = chosen[np.argsort(place[chosen], kind="stable")]
    found: dict[int, Footprint] = {}
    starts = np.flatnonzero(np.diff(place[chosen], prepend=-1))
    for start, end in zip(
        starts.tolist(), [*starts[1:].tolist(), len(chosen)][: len(starts)], strict=True
    ):
        part = chosen[start:end]
        exposure = data.exposures[place[part[0]]]
        if len(part) < LEAST_SOURCES or exposure["nx"] == 0:
            continue
        if len(part) > MOST_SOURCES:
            part = part[np.linspace(0, len(part) - 1, MOST_SOURCES).astype(int)]
        ra, dec = rows["ra"][part], rows["dec"][part]
        at = float(np.sort(ra)[len(ra) // 2]), float(np.median(dec))
        near = _separation_is_small(ra, dec, *at)
        if near.sum() < LEAST_SOURCES:
            continue
        part, ra, dec = part[near], ra[near], dec[near]
        pixels = np.stack([rows["x"][part], rows["y"][part]], axis=1)
        terms = np.linalg.lstsq(_powers(*_plane(ra, dec, *at)), pixels, rcond=None)[0]
        shape = int(exposure["ny"]), int(exposure["nx"])
        found[int(place[part[0]])] = Footprint(*at, terms, shape)
    return found


def _separation_is_small(
    ra: np.ndarray, dec: np.ndarray, at_ra: float, at_dec: float
) -> np.ndarray:
    step = np.abs((ra - at_ra + 180.0) % 360.0 - 180.0) * np.cos(np.radians(at_dec))
    return np.asarray((step < MOST_DEGREES) & (np.abs(dec - at_dec) < MOST_DEGREES))


def _plane(
    ra: np.ndarray, dec: np.ndarray, at_ra: float, at_dec: float
) -> tuple[np.ndarray, np.ndarray]:
    """Gnomonic projection, degrees (Calabretta & Greisen 2002)."""
    a, d, d0 = np.radians(ra - at_ra), np.radians(dec), np.radians(at_dec)
    depth = np.sin(d) * np.sin(d0) + np.cos(d) * np.cos(d0) * np.cos(a)
    depth = np.where(depth > 0.1, depth, np.nan)
    xi = np.cos(d) * np.sin(a) / depth
    eta = (np.sin(d) * np.cos(d0) - np.cos(d) * np.sin(d0) * np.cos(a)) / depth
    return np.degrees(xi), np.degrees(eta)


def _powers(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=1)
