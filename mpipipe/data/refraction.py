"""How refraction in the atmosphere moves the sources of an exposure by their colours.

Blue light is lifted more towards the zenith than red light, so within a band a blue star stands
elsewhere than a red one. A source of a colour is found at ``(x, y) * (colour - pivot)`` pixels from
where the exposure's WCS has a source of the pivot colour (Bernstein et al. 2017, PASP 129, 074503).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

COLOURS: tuple[tuple[str, str], ...] = (
    ("g", "i"),
    ("g", "r"),
    ("r", "i"),
    ("B", "V"),
    ("V", "I"),
)
"""Blue and red band of colours that refraction may go by, the best first: such as the objects of
surveys have themselves. (Gaia's bands are nobody else's, so objects would lack their colour.)"""

_PIVOTS = {
    ("g", "i"): 1.0,
    ("g", "r"): 0.7,
    ("r", "i"): 0.3,
    ("B", "V"): 0.8,
    ("V", "I"): 1.0,
    ("gaia_bp", "gaia_rp"): 0.5,
}
_USUAL_PIVOT = 0.7
_MOST_OFF_PIVOT = 4.0
"""Magnitudes: no star is so far from the pivot, its magnitudes are wrong."""

_DIGITS = 10
"""Significant digits that are kept: what a header card holds for certain."""

NAME_LENGTH = 16
"""Bytes that the name of a colour has in tables."""


_SLOPE_STEP = 0.05
"""Magnitudes about a colour over which the slope of a route is taken."""


@dataclass(frozen=True, eq=False)
class Route:
    """How a colour follows from another one along the main sequence.

    Attributes
    ----------
    blue, red
        Bands of the other colour.
    of, to, scatter
        Knots: the other colour, this one, and how far stars are off, mag.
    """

    blue: str
    red: str
    of: np.ndarray
    to: np.ndarray
    scatter: np.ndarray

    def lead(self, colour: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The colour and its error, mag, of the other one and its error."""
        low, high = (
            np.interp(colour + sign * _SLOPE_STEP, self.of, self.to) for sign in (-1.0, 1.0)
        )
        slope = (high - low) / (2.0 * _SLOPE_STEP)
        scatter = np.interp(colour, self.of, self.scatter)
        return np.interp(colour, self.of, self.to), np.hypot(slope * error, scatter)


# Knots of Juric et al. (2008, ApJ 673, 864), eq. 4, to r - i = 0.6. Dwarfs redder than that have
# all but one g - r, which says little of their r - i.
_GR = np.array([-0.40, 0.07, 0.30, 0.57, 0.83, 1.06, 1.22, 1.32, 1.38, 1.45, 1.60])
_RI = np.array([-0.30, 0.00, 0.10, 0.20, 0.30, 0.40, 0.50, 0.60, 0.90, 1.20, 1.40])
_RI_SCATTER = np.array([0.10, 0.05, 0.04, 0.04, 0.04, 0.05, 0.08, 0.12, 0.25, 0.35, 0.40])
_GR_SCATTER = np.array([0.10, 0.08, 0.07, 0.07, 0.07, 0.08, 0.08, 0.07, 0.07, 0.08, 0.10])
_ROUTES: dict[tuple[str, str], tuple[Route, ...]] = {
    ("g", "i"): (
        Route("g", "r", _GR, _GR + _RI, _RI_SCATTER),
        Route("r", "i", _RI, _GR + _RI, _GR_SCATTER),
    )
}


@dataclass(frozen=True)
class Colour:
    """A colour: magnitude in a blue band minus that in a red one.

    Attributes
    ----------
    blue, red
        Names of the bands.
    """

    blue: str
    red: str

    @property
    def name(self) -> str:
        """As tables have it, e.g. ``g-i``."""
        return f"{self.blue}-{self.red}"

    @property
    def pivot(self) -> float:
        """What typical stars have, mag: where refraction counts as nothing."""
        return _PIVOTS.get((self.blue, self.red), _USUAL_PIVOT)

    @property
    def routes(self) -> tuple[Route, ...]:
        """Other colours that it follows from where a band is lacking, the best first."""
        return _ROUTES.get((self.blue, self.red), ())

    @classmethod
    def named(cls, name: str, bands: Sequence[str] = ()) -> Colour | None:
        """The colour of this name; None if that is no name of one.

        Parameters
        ----------
        bands
            That are known: names of bands may have dashes themselves.
        """
        usual = [cls(*pair) for pair in COLOURS]
        among = [cls(blue, red) for blue in bands for red in bands]
        return next((colour for colour in (*usual, *among) if colour.name == name), None)

    def off_pivot(self, colour: np.ndarray) -> np.ndarray:
        """(n,) float64 colours less the pivot; NaN where one is unknown or no star's."""
        off = np.asarray(colour, float) - self.pivot
        with np.errstate(invalid="ignore"):
            return np.where(np.abs(off) <= _MOST_OFF_PIVOT, off, np.nan)


@dataclass(frozen=True)
class Refraction:
    """Displacement of the sources of an exposure by colour.

    Numbers are kept to 10 significant digits, so that header cards give back the very same value.

    Attributes
    ----------
    x, y
        Pixels per magnitude: where a source is found, less where one of the pivot colour would be.
    error
        Standard error of each.
    blue, red
        Bands of the colour, blue - red.
    pivot
        Colour at which there is none.
    """

    x: float
    y: float
    error: float
    blue: str
    red: str
    pivot: float

    def __post_init__(self) -> None:
        # The dataclass is frozen for everybody else.
        for name in ("x", "y", "error", "pivot"):
            object.__setattr__(self, name, float(f"{getattr(self, name):.{_DIGITS}g}"))

    @property
    def colour(self) -> Colour:
        """What it goes by."""
        return Colour(self.blue, self.red)

    @property
    def step(self) -> np.ndarray:
        """(2,) `x` and `y`."""
        return np.array([self.x, self.y])


def colour_among(bands: Sequence[str], wanted: Sequence[str] = ()) -> Colour | None:
    """The colour that refraction goes by where these bands are known; None if there is none.

    Parameters
    ----------
    wanted
        Blue and red band; empty: the first of `COLOURS`.
    """
    for blue, red in (tuple(wanted),) if wanted else COLOURS:
        if blue in bands and red in bands:
            return Colour(blue, red)
    return None
