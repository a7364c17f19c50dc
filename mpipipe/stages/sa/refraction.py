"""What refraction in the atmosphere adds to the positions of an object's sources, by its colour.

Every exposure tells how far it displaces a source per magnitude of colour; the colour follows from
the object's own mean fluxes, where one of its bands is lacking from those of other bands along the
main sequence. It is drawn towards the pivot as its error demands, by a prior as wide as the colours
of objects: an object of unknown colour is taken to have the pivot's, with an error of that width.
The error of the colour displaces all sources of an object together; that of the slopes is each
exposure's own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mpipipe.data.refraction import Colour

_POGSON = 2.5 / np.log(10.0)
_COLOUR_FLOOR = 0.01
"""Error of a colour by the zero points of its bands, mag."""


class Refracted(NamedTuple):
    """Displacements of n sources, sorted by object.

    Attributes
    ----------
    offset
        (n, 2) east and north, mas: measured position less the true one.
    shared
        (n, 2) standard error that the colour's error gives it, mas, with its sign: fully correlated
        between the sources of an object.
    own
        (n,) error an axis that the slope's error gives it, mas: independent.
    is_unknown
        (n,) bool: the source is displaced, and the colour of its object is unknown.
    """

    offset: np.ndarray
    shared: np.ndarray
    own: np.ndarray
    is_unknown: np.ndarray

    def at(self, members: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """`offset` (n, 2) and `is_unknown` (n,) in the order of a table of n rows, whose `members`
        these are; 0 for the others."""
        offset, is_unknown = np.zeros((n, 2)), np.zeros(n, bool)
        offset[members], is_unknown[members] = self.offset, self.is_unknown
        return offset, is_unknown


def refraction(
    rows: np.ndarray,
    starts: np.ndarray,
    bands: tuple[str, ...],
    means: tuple[np.ndarray, np.ndarray],
    spread: float,
) -> Refracted:
    """Displacements of sources.

    Parameters
    ----------
    rows, starts
        Sources sorted by object, and where every object begins.
    bands
        Of the fluxes.
    means
        (n_objects, n_bands) mean fluxes of the objects, and their errors, nJy.
    spread
        Width of the distribution of colours, mag.
    """
    n = len(rows)
    slope = np.stack([rows["raRefractionSlope"], rows["decRefractionSlope"]], axis=1).astype(float)
    off_pivot, error = np.zeros(n), np.zeros(n)
    is_unknown = np.zeros(n, bool)
    displaced = (slope != 0.0).any(axis=1)
    owner = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    for name in np.unique(rows["refractionColor"][displaced]).tolist():
        those = displaced & (rows["refractionColor"] == name)
        found, found_error = _colours(Colour.named(name.decode(), bands), bands, means, spread)
        off_pivot[those], error[those] = found[owner[those]], found_error[owner[those]]
        is_unknown[those] = found_error[owner[those]] >= spread
    own = rows["refractionSlopeErr"].astype(float) * np.abs(off_pivot)
    return Refracted(off_pivot[:, None] * slope, error[:, None] * slope, own, is_unknown)


def _colours(
    colour: Colour | None,
    bands: tuple[str, ...],
    means: tuple[np.ndarray, np.ndarray],
    spread: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Colour less pivot of every object, and its error: 0 and the spread if it is unknown."""
    n = len(means[0])
    off, error = np.full(n, np.nan), np.full(n, np.nan)
    if colour is not None:
        off, error = _measured(colour.blue, colour.red, bands, means)
        off = colour.off_pivot(off)
        for route in colour.routes:
            other, other_error = _measured(route.blue, route.red, bands, means)
            found, found_error = route.lead(other, other_error)
            lacking = ~np.isfinite(off + error)
            off = np.where(lacking, colour.off_pivot(found), off)
            error = np.where(lacking, found_error, error)
    known = np.isfinite(off + error)
    variance = np.where(known, error, 0.0) ** 2 + _COLOUR_FLOOR**2
    share = np.where(known, spread**2 / (spread**2 + variance), 0.0)
    return np.where(known, off, 0.0) * share, spread * np.sqrt(1.0 - share)


def _measured(
    blue: str, red: str, bands: tuple[str, ...], means: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Colour of every object, and its error; NaN where a band or a positive flux is lacking."""
    if blue not in bands or red not in bands:
        nothing = np.full(len(means[0]), np.nan)
        return nothing, nothing
    flux, error = (values[:, [bands.index(blue), bands.index(red)]] for values in means)
    with np.errstate(invalid="ignore", divide="ignore"):
        flux = np.where(flux > 0.0, flux, np.nan)
        magnitude = -2.5 * np.log10(flux)
        relative = error / flux
        return magnitude[:, 0] - magnitude[:, 1], _POGSON * np.hypot(*relative.T)
