"""What image characterization has found, as header cards of an exposure.

The WCS itself stands in the headers of the image planes, as usual. Its quality (WCS...), refraction
by colour (RFR...) and the zero point (MAG...) stand in the primary header.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mpipipe.data.exposure import Exposure
from mpipipe.data.refraction import Refraction
from mpipipe.data.tan_sip import TanSip
from mpipipe.data.wcs_solution import WcsSolution

if TYPE_CHECKING:
    from astropy.io import fits

_WCS_CARD = re.compile(
    r"(?:WCSAXES|RADESYS|(?:CTYPE|CUNIT|CRVAL|CRPIX)[12]|CD[12]_[12]|[AB]P?_(?:ORDER|\d_\d))\Z"
)
"""Cards that `TanSip.cards` writes."""

_ZERO_POINT_CARD = re.compile(r"(?:MAG|COL)[A-Z]+\d*\Z")
"""Cards that `PhotoCalib.cards` writes."""

_QUALITY: tuple[tuple[str, str, str], ...] = (
    ("WCSKIND", "kind", "sip, affine, shift; header: of the raw frame"),
    ("WCSORDER", "order", "degree of the fitted polynomials"),
    ("WCSREF", "reference", "reference catalogue"),
    ("WCSREL", "is_relative", "positions are relative to other frames"),
    ("WCSNMAT", "n_matched", "sources matched with reference stars"),
    ("WCSNUSE", "n_used", "of those in the fit"),
    ("WCSRMSX", "rms_x", "[pixel] residuals along x"),
    ("WCSRMSY", "rms_y", "[pixel] residuals along y"),
    ("WCSRMSA", "rms_ra", "[mas] residuals along ra, cos(dec) included"),
    ("WCSRMSD", "rms_dec", "[mas] residuals along dec"),
    ("WCSRMSE", "expected_rms", "[mas] residuals that the errors explain"),
    ("WCSSCAT", "scatter", "[mas] what they do not"),
    ("WCSERR", "error", "[mas] error of a position by this WCS"),
    ("WCSERRM", "max_error", "[mas] its largest on the CCD"),
    ("WCSCVRMS", "cv_rms", "[mas] residuals of stars held out"),
    ("WCSOFF", "header_offset", "[arcsec] by which the raw header was off"),
    ("WCSCHNC", "log_chance", "log10 of the probability of a chance match"),
)
"""Card, attribute of `WcsSolution`, comment."""

_REFRACTION: tuple[tuple[str, str, str], ...] = (
    ("RFRX", "x", "[pixel/mag] displacement of sources by colour"),
    ("RFRY", "y", "[pixel/mag] along y"),
    ("RFRERR", "error", "[pixel/mag] standard error of each"),
    ("RFRBLUE", "blue", "colour is this band"),
    ("RFRRED", "red", "minus this band"),
    ("RFRPIVOT", "pivot", "[mag] colour that the WCS holds for"),
)
"""Card, attribute of `Refraction`, comment."""


def replace_solution(header: fits.Header, exposure: Exposure) -> None:
    """Write quality of the WCS and zero point into a primary header, in place of earlier ones."""
    earlier = {card for card in header if _ZERO_POINT_CARD.match(card)}
    _remove(header, earlier | {card for card, _, _ in (*_QUALITY, *_REFRACTION)})
    found = exposure.astrometry
    if found is None:
        header["WCSKIND"] = ("none" if exposure.wcs is None else "header", _QUALITY[0][2])
    else:
        for card, name, comment in _QUALITY:
            value = getattr(found, name)
            # FITS has no NaN: what is not known is not there.
            if not (isinstance(value, float) and not np.isfinite(value)):
                header[card] = (value, comment)
        if found.refraction is not None:
            for card, name, comment in _REFRACTION:
                header[card] = (getattr(found.refraction, name), comment)
    if exposure.photo_calib is not None:
        for card, value, comment in exposure.photo_calib.cards():
            header[card] = (value, comment)


def replace_wcs(header: fits.Header, initial: fits.Header, wcs: fits.Header) -> None:
    """Put the cards of a WCS into a header, in place of the initial one or one found on stars."""
    _remove(header, set(initial) | {card for card in header if _WCS_CARD.match(card)})
    header.extend(wcs, update=True)


def _remove(header: fits.Header, cards: set[str]) -> None:
    for card in sorted(cards):
        header.remove(card, ignore_missing=True)


def read_astrometry(primary: Mapping[str, Any], image: Mapping[str, Any]) -> WcsSolution | None:
    """The WCS found on reference stars; None if it is the raw header's, or there is none."""
    if primary.get("WCSKIND", "none") in ("none", "header"):
        return None
    found = {name: primary.get(card, np.nan) for card, name, _ in _QUALITY}
    return WcsSolution(sip=_tan_sip(image), refraction=_refraction(primary), **found)


def _refraction(primary: Mapping[str, Any]) -> Refraction | None:
    if "RFRX" not in primary:
        return None
    return Refraction(**{name: primary[card] for card, name, _ in _REFRACTION})


def _tan_sip(cards: Mapping[str, Any]) -> TanSip:
    """The WCS that gave these cards."""
    sky = float(cards["CRVAL1"]), float(cards["CRVAL2"])
    pixel = float(cards["CRPIX1"]) - 1.0, float(cards["CRPIX2"]) - 1.0
    cd = np.array([[float(cards[f"CD{i}_{j}"]) for j in (1, 2)] for i in (1, 2)])
    return TanSip(
        *sky, *pixel, cd, *(_coefficients(cards, name) for name in ("A", "B", "AP", "BP"))
    )


def _coefficients(cards: Mapping[str, Any], name: str) -> np.ndarray:
    """One polynomial of SIP, (order + 1, order + 1)."""
    order = int(cards.get(f"{name}_ORDER", 1))
    table = np.zeros((order + 1, order + 1))
    for p in range(order + 1):
        for q in range(order + 1 - p):
            table[p, q] = float(cards.get(f"{name}_{p}_{q}", 0.0))
    return table
