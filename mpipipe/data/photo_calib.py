"""The photometric calibration of one exposure: from electrons to AB magnitudes and nanojansky.

A source of `flux` electrons in the whole visit, in the calibration aperture, at (x, y), has the
magnitude ``zero_points(x, y) - 2.5 lg flux + colour_term (colour - pivot)`` in the reference
catalogue's band. Fluxes in nJy leave the last term out: they are of the exposure's own passband,
which agrees with the catalogue's for a source of the pivot colour. An AB magnitude of 31.4 is
1 nJy (Oke & Gunn 1983).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from mpipipe.data.ccd_polynomial import CcdPolynomial

NANOJANSKY_ZERO_POINT = 31.4
"""AB magnitude of 1 nJy."""

MAG_PER_RELATIVE = 2.5 / np.log(10.0)
"""Magnitudes per relative change of a flux, 1.0857."""

_DIGITS = 10
"""Significant digits that are kept: what a header card holds for certain."""


@dataclass(frozen=True)
class ColourTerm:
    """How magnitudes of an exposure depend on colour.

    Attributes
    ----------
    coefficient
        Magnitudes in the catalogue's band per magnitude of colour.
    blue, red
        Bands of the colour, blue - red.
    pivot
        Colour at which the term is nothing.
    error
        Standard error of the coefficient; NaN if unknown.
    is_fitted
        It was measured on this exposure; False: given beforehand.
    """

    coefficient: float
    blue: str
    red: str
    pivot: float
    error: float = float("nan")
    is_fitted: bool = False

    def rounded(self) -> ColourTerm:
        """With the digits that a header card keeps."""
        return replace(
            self,
            coefficient=float(_kept(self.coefficient)),
            pivot=float(_kept(self.pivot)),
            error=float(_kept(self.error)),
        )

    def of(self, colour: np.ndarray) -> np.ndarray:
        """Magnitudes to add for these colours."""
        return self.coefficient * (np.asarray(colour, float) - self.pivot)


@dataclass(frozen=True, eq=False)
class PhotoCalib:
    """Zero point of an exposure, with its errors.

    Numbers are kept to 10 significant digits, so that header cards give back the very same value.

    Attributes
    ----------
    zero_points
        AB magnitude of 1 electron in the whole visit, over the CCD: order 0, or 1 where a gradient
        is significant.
    systematic
        Magnitudes by which all fluxes of the exposure may be off together beyond `error`: it is
        not in the errors of fluxes.
    band
        Of the reference catalogue, in whose system magnitudes are.
    colour_term
        None: there is none, or no star had a colour.
    n_stars
        Stars it was made of.
    scatter
        Robust width of these stars about it, magnitudes.
    is_relative
        The catalogue was made from the run's own frames: the zero point is relative to them.
    """

    zero_points: CcdPolynomial
    systematic: float
    band: str
    colour_term: ColourTerm | None
    n_stars: int
    scatter: float
    is_relative: bool = False

    def __post_init__(self) -> None:
        # The dataclass is frozen for everybody else.
        keep = object.__setattr__
        surface = self.zero_points
        if surface.order > 1:
            raise ValueError(f"zero points of order {surface.order}: 0 or 1 is possible")
        rounded = CcdPolynomial(
            _kept(surface.coefficients), _kept(surface.covariance), surface.shape
        )
        keep(self, "zero_points", rounded)
        keep(self, "systematic", float(_kept(self.systematic)))
        keep(self, "scatter", float(_kept(self.scatter)))
        if self.colour_term is not None:
            keep(self, "colour_term", self.colour_term.rounded())

    @property
    def zero_point(self) -> float:
        """At the middle of the CCD, mag."""
        return float(self.zero_points.coefficients[0])

    @property
    def error(self) -> float:
        """Standard error of `zero_point`, mag; `systematic` comes on top."""
        return float(np.sqrt(self.zero_points.covariance[0, 0]))

    @property
    def gradient(self) -> tuple[float, float]:
        """Change of the zero point from one edge of the CCD to the other along x and y, mag."""
        if self.zero_points.order == 0:
            return 0.0, 0.0
        x, y = 2.0 * self.zero_points.coefficients[1:]
        return float(x), float(y)

    def to_nanojansky(
        self,
        flux: np.ndarray,
        error: np.ndarray,
        x: np.ndarray,
        y: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fluxes and errors in nJy of fluxes and errors in electrons at pixel positions.

        The zero point's own error is in the errors, `systematic` is not. NaN stays NaN.
        """
        zero_point, own = self.zero_points.at(x, y)
        scale = 10.0 ** (0.4 * (NANOJANSKY_ZERO_POINT - zero_point))
        relative = own / MAG_PER_RELATIVE
        return flux * scale, np.hypot(error, flux * relative) * scale

    def magnitudes(
        self,
        flux: np.ndarray,
        error: np.ndarray,
        x: np.ndarray,
        y: np.ndarray,
        colour: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """AB magnitudes and errors of fluxes in electrons; NaN where a flux is not positive.

        Parameters
        ----------
        colour
            Of each source, in the bands of `colour_term`: gives magnitudes in the catalogue's
            system. Without it, and where it is NaN, they are of the exposure's own passband.
        """
        zero_point, own = self.zero_points.at(x, y)
        positive = np.where(np.asarray(flux) > 0, flux, np.nan)
        magnitude = zero_point - 2.5 * np.log10(positive)
        if colour is not None and self.colour_term is not None:
            magnitude = magnitude + np.nan_to_num(self.colour_term.of(colour))
        return magnitude, np.hypot(MAG_PER_RELATIVE * error / positive, own)

    def cards(self) -> list[tuple[str, str | float | int | bool, str]]:
        """FITS header cards (key, value, comment); see `from_cards`."""
        mean = self.zero_points
        cards: list[tuple[str, str | float | int | bool, str]] = [
            ("MAGZERO", self.zero_point, "[mag] AB of 1 electron in the visit, mid-CCD"),
            ("MAGZERR", self.error, "[mag] its standard error"),
            ("MAGSYS", self.systematic, "[mag] systematic error, not in MAGZERR"),
            ("MAGBAND", self.band, "band of the reference catalogue"),
            ("MAGREL", self.is_relative, "zero point is relative to the run's own frames"),
            ("MAGNSTAR", self.n_stars, "stars it was made of"),
        ]
        if np.isfinite(self.scatter):
            cards.append(("MAGSCAT", self.scatter, "[mag] their robust scatter about it"))
        cards.append(("MAGORDER", mean.order, "0: one zero point; 1: with a gradient"))
        for k in range(len(mean.coefficients)):
            name = ("of the zero point", "half the change along x", "half the change along y")[k]
            if k:
                cards.append((f"MAGGRD{k}", float(mean.coefficients[k]), f"[mag] {name}"))
            for j in range(k + 1):
                value = float(mean.covariance[k, j])
                cards.append((f"MAGCOV{k}{j}", value, "[mag2] covariance of MAGZERO, MAGGRDn"))
        term = self.colour_term
        if term is not None:
            cards += [
                ("COLTERM", term.coefficient, "[mag/mag] times colour - pivot, to add"),
                ("COLPIVOT", term.pivot, "[mag] colour at which MAGZERO holds"),
                ("COLBLUE", term.blue, "colour is this band"),
                ("COLRED", term.red, "minus this band"),
                ("COLFIT", term.is_fitted, "colour term was fitted here, not given"),
            ]
            if np.isfinite(term.error):
                cards.append(("COLTERR", term.error, "[mag/mag] error of COLTERM"))
        return cards

    @classmethod
    def from_cards(cls, cards: Mapping[str, object], shape: tuple[int, int]) -> PhotoCalib | None:
        """The calibration that gave these header cards; None if they hold none.

        Parameters
        ----------
        cards
            A header, or any mapping from key to value.
        shape
            (ny, nx) of the CCD.

        Raises
        ------
        ValueError
            If cards are missing or make no sense.
        """
        if "MAGZERO" not in cards:
            return None
        try:
            n = {0: 1, 1: 3}[int(_number(cards, "MAGORDER"))]
            names = ["MAGZERO", *(f"MAGGRD{k}" for k in range(1, n))]
            covariance = np.empty((n, n))
            for k in range(n):
                for j in range(k + 1):
                    covariance[k, j] = covariance[j, k] = _number(cards, f"MAGCOV{k}{j}")
            surface = CcdPolynomial(np.array([_number(cards, n) for n in names]), covariance, shape)
            return cls(
                surface,
                _number(cards, "MAGSYS"),
                str(cards["MAGBAND"]),
                _colour_term(cards),
                int(_number(cards, "MAGNSTAR")),
                _number(cards, "MAGSCAT") if "MAGSCAT" in cards else float("nan"),
                bool(cards["MAGREL"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"no photometric calibration: card {error}") from error


def _colour_term(cards: Mapping[str, object]) -> ColourTerm | None:
    if "COLTERM" not in cards:
        return None
    return ColourTerm(
        _number(cards, "COLTERM"),
        str(cards["COLBLUE"]),
        str(cards["COLRED"]),
        _number(cards, "COLPIVOT"),
        _number(cards, "COLTERR") if "COLTERR" in cards else float("nan"),
        bool(cards["COLFIT"]),
    )


def _number(cards: Mapping[str, object], key: str) -> float:
    value = cards[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{key} = {value!r} is no number")
    return float(value)


def _kept(values: np.ndarray | float) -> np.ndarray:
    """Values rounded to the digits that are kept."""
    flat = [float(f"{value:.{_DIGITS}g}") for value in np.ravel(values)]
    return np.array(flat, float).reshape(np.shape(values))
