"""Which sources of icSrc are stars good enough to make a PSF of.

Stars of one exposure share the PSF's size and shape, which change smoothly over the field: their
adaptive moments lie on a locus, a polynomial of position. Galaxies and blends are larger, what is
left of cosmic rays is smaller.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpipipe.data import ccd_polynomial
from mpipipe.data.ccd_polynomial import n_terms
from mpipipe.stages.seeing import Seeing

_NEVER = ("edge", "saturated", "bad", "streak", "suspect", "centroid", "shape", "aperture")
_REPLACED = ("cr", "interpolated")
_CELLS = 8
_ROUNDS = 8
_SIZE_FLOOR = 0.01
"""Smallest width of the locus in log size or ellipticity: optics are not smoother than that."""
_WINDOW = 0.3
_PILE = 8
"""Candidates from which on the densest pile of sizes can be told."""


@dataclass(frozen=True)
class Level:
    """How strict a choice is: the first level that gives `enough` stars is taken."""

    snr_share: float
    crowded: bool
    replaced: bool
    enough: int


_LEVELS = (
    Level(1.0, crowded=False, replaced=False, enough=40),
    Level(0.5, crowded=False, replaced=False, enough=10),
    Level(0.5, crowded=False, replaced=True, enough=5),
    Level(0.5, crowded=True, replaced=True, enough=3),
    Level(0.25, crowded=True, replaced=True, enough=1),
)


@dataclass(frozen=True)
class StarChoice:
    """The choice.

    Attributes
    ----------
    candidates
        (n,) bool, of all rows: looked at for the locus.
    stars
        Rows to make the PSF of, indices in order of falling SNR.
    reserved
        Rows held out to validate it, likewise; none where stars are few.
    level
        Number of the level that was taken, 0 the strictest.
    """

    candidates: np.ndarray
    stars: np.ndarray
    reserved: np.ndarray
    level: int


def choose_stars(
    icsrc: np.ndarray,
    seeing: Seeing,
    shape: tuple[int, int],
    *,
    snr: float = 40.0,
    most: int = 1000,
    held_out: float = 0.2,
    few: int = 25,
) -> StarChoice:
    """Choose stars for the PSF.

    Parameters
    ----------
    icsrc
        Rows of `ICSRC`.
    shape
        (ny, nx) of the exposure.
    snr
        Wanted SNR; half or a quarter of it where stars are few.
    most
        Stars at most, reserved ones included: the best, evenly over the field.
    held_out
        Share that is reserved, unless there are fewer than `few` stars.
    """
    number = 0
    candidates, chosen = _choose(icsrc, seeing, shape, _LEVELS[0], snr)
    while len(chosen) < _LEVELS[number].enough and number + 1 < len(_LEVELS):
        number += 1
        candidates, chosen = _choose(icsrc, seeing, shape, _LEVELS[number], snr)
    chosen = _spread(icsrc, chosen, shape, most)
    chosen = chosen[np.argsort(-icsrc["snr"][chosen], kind="stable")]
    reserved = np.zeros(len(chosen), bool)
    if len(chosen) >= few and held_out > 0:
        step = max(2, round(1 / held_out))
        reserved[step // 2 :: step] = True
    return StarChoice(candidates, chosen[~reserved], chosen[reserved], number)


def _choose(
    icsrc: np.ndarray, seeing: Seeing, shape: tuple[int, int], level: Level, snr: float
) -> tuple[np.ndarray, np.ndarray]:
    """Candidates of a level, bool, and those of them that are stars, indices."""
    candidates = _candidates(icsrc, level, snr)
    rows = np.flatnonzero(candidates)
    return candidates, rows[_on_locus(icsrc[rows], seeing, shape)]


def _candidates(icsrc: np.ndarray, level: Level, snr: float) -> np.ndarray:
    """Rows bright and clean enough for a level."""
    good = icsrc["snr"] >= level.snr_share * snr
    good &= icsrc["apInstFlux"] > 0
    good &= (icsrc["ixx"] > 0) & (icsrc["iyy"] > 0)
    flags = _NEVER + (() if level.replaced else _REPLACED) + (() if level.crowded else ("crowded",))
    for name in flags:
        good &= ~icsrc[f"flag_{name}"]
    return np.asarray(good)


def _on_locus(rows: np.ndarray, seeing: Seeing, shape: tuple[int, int]) -> np.ndarray:
    """Which rows have the size and the ellipticity that stars have where they are."""
    if not len(rows):
        return np.zeros(0, bool)
    ixx, iyy, ixy = (rows[name].astype(float) for name in ("ixx", "iyy", "ixy"))
    trace = ixx + iyy
    quantities = (0.5 * np.log(trace), (ixx - iyy) / trace, 2 * ixy / trace)
    # Errors of these moments for a Gaussian source (Bernstein & Jarvis 2002, appendix).
    error = np.hypot(_SIZE_FLOOR, 1.5 / np.maximum(rows["snr"].astype(float), 1.0))
    chosen = np.abs(quantities[0] - _typical_size(quantities[0], seeing)) < _WINDOW / 2
    for _ in range(_ROUNDS):
        last, good = chosen, np.ones(len(rows), bool)
        for quantity in quantities:
            good &= _near_surface(quantity, error, last, rows, shape)
        chosen = good
        if not chosen.any() or (chosen == last).all():
            break
    return chosen


def _typical_size(logs: np.ndarray, seeing: Seeing) -> float:
    """Log size of stars: the half-sample mode (Bickel & Fruehwirth 2006), or the seeing's."""
    expected = 0.5 * float(np.log(seeing.ixx + seeing.iyy))
    near = np.sort(logs[np.abs(logs - expected) < _WINDOW]) if seeing.measured else np.sort(logs)
    if len(near) < _PILE:
        return expected if seeing.measured else float(np.median(logs))
    while len(near) > 3:
        half = (len(near) + 1) // 2
        first = int(np.argmin(near[half - 1 :] - near[: len(near) - half + 1]))
        near = near[first : first + half]
    return float(np.median(near))


def _near_surface(
    values: np.ndarray,
    error: np.ndarray,
    chosen: np.ndarray,
    rows: np.ndarray,
    shape: tuple[int, int],
) -> np.ndarray:
    """Which values lie within 3.5 widths of a polynomial of position through the chosen ones."""
    n = int(chosen.sum())
    if n == 0:
        return chosen
    order = 2 if n >= 30 else 1 if n >= 12 else 0
    terms = ccd_polynomial.terms(rows["x"], rows["y"], shape, order)
    if order == 0:
        surface = np.full(len(values), np.median(values[chosen]))
    else:
        w = 1 / error[chosen]
        ridge = 1e-3 * np.eye(n_terms(order)) * np.sqrt((w * w).sum())
        system = np.concatenate([terms[chosen] * w[:, None], ridge])
        right = np.concatenate([values[chosen] * w, np.zeros(len(ridge))])
        right[n] = ridge[0, 0] * float(np.median(values[chosen]))
        surface = terms @ np.linalg.lstsq(system, right, rcond=None)[0]
    z = np.abs(values - surface) / error
    width = max(1.4826 * float(np.median(z[chosen])), 1.0)
    return np.asarray(z < 3.5 * width)


def _spread(icsrc: np.ndarray, chosen: np.ndarray, shape: tuple[int, int], most: int) -> np.ndarray:
    """At most so many: the best of each cell of a grid, then the second best of each, and so on."""
    if len(chosen) <= most:
        return chosen
    ny, nx = shape
    x, y, snr = (icsrc[name][chosen].astype(float) for name in ("x", "y", "snr"))
    column = np.clip((x * _CELLS / nx).astype(np.int64), 0, _CELLS - 1)
    row = np.clip((y * _CELLS / ny).astype(np.int64), 0, _CELLS - 1)
    cell = row * _CELLS + column
    order = np.lexsort((-snr, cell))
    first = np.searchsorted(cell[order], np.arange(_CELLS * _CELLS))
    rank = np.empty(len(chosen), np.int64)
    rank[order] = np.arange(len(chosen)) - first[cell[order]]
    return chosen[np.lexsort((-snr, rank))[:most]]
