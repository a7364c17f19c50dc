"""The WCS of a raw channel, carried over to the assembled image.

Pixel x of a channel becomes ``s (x - d) + c`` on the image, with s = -1 where the read-out runs
the other way. CRPIX follows, the CD (or PC) matrix changes sign by columns, and so do the SIP
polynomials (Shupe et al. 2005, ASP Conf. 347, 491), which are functions of pixel offsets.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from mpipipe.data.sections import Section

_LINEAR = re.compile(r"(?:CD|PC)([12])_([12])\Z")
_SIP = re.compile(r"([AB]P?)_(\d)_(\d)\Z")
_KEPT = re.compile(
    r"(?:WCSAXES|RADESYS|RADECSYS|EQUINOX|LONPOLE|LATPOLE|(?:CTYPE|CRVAL|CUNIT|CDELT|CROTA)[12]"
    r"|PV[12]_\d+|[AB]P?_(?:ORDER|DMAX))\Z"
)


def wcs_on_image(
    header: Mapping[str, Any],
    datasec: Section,
    placed: Section,
    flipped_height: int | None = None,
) -> dict[str, object]:
    """WCS cards for the assembled image from those of one channel's raw image.

    Parameters
    ----------
    header
        The channel's header.
    datasec
        The channel's data in its raw image.
    placed
        Where they lie on the assembled image.
    flipped_height
        Height of the image if it is flipped in y after assembly.

    Returns
    -------
    dict
        Empty if the header has no celestial WCS that makes sense.
    """
    if not is_usable(header):
        return {}
    sign_x, offset_x = _axis(
        datasec.x0, datasec.x1, datasec.flip_x, placed.x0, placed.x1, placed.flip_x
    )
    sign_y, offset_y = _axis(
        datasec.y0, datasec.y1, datasec.flip_y, placed.y0, placed.y1, placed.flip_y
    )
    if flipped_height is not None:
        sign_y, offset_y = -sign_y, flipped_height - 1 - offset_y
    return transformed(header, (sign_x, sign_y), (offset_x, offset_y))


def transformed(
    header: Mapping[str, Any], signs: tuple[int, int], offsets: tuple[int, int]
) -> dict[str, object]:
    """WCS cards after zero-based pixels x become ``sign * x + offset`` along each axis."""
    cards: dict[str, object] = {}
    for key, value in header.items():
        if _KEPT.match(key):
            cards[key] = value
        elif key in ("CRPIX1", "CRPIX2"):
            axis = int(key[-1]) - 1
            cards[key] = signs[axis] * (float(value) - 1.0) + offsets[axis] + 1.0
        elif (match := _LINEAR.match(key)) is not None:
            cards[key] = float(value) * signs[int(match[2]) - 1]
        elif (match := _SIP.match(key)) is not None:
            name, p, q = match[1], int(match[2]), int(match[3])
            own = signs[0] if name.startswith("A") else signs[1]
            cards[key] = float(value) * own * signs[0] ** p * signs[1] ** q
    if any(key.startswith("CD") and "_" in key for key in cards):
        # With a CD matrix these are leftovers of older software.
        for key in ("CDELT1", "CDELT2", "CROTA1", "CROTA2"):
            cards.pop(key, None)
    else:
        _complete_linear(cards, signs)
    return cards


def is_usable(header: Mapping[str, Any]) -> bool:
    """Whether a header has a celestial WCS with finite, non-singular numbers."""
    types = [str(header.get(f"CTYPE{axis}", "")) for axis in (1, 2)]
    if not (types[0][:4] in ("RA--", "DEC-") and types[1][:4] in ("RA--", "DEC-")):
        return False
    needed = [header.get(key) for key in ("CRPIX1", "CRPIX2", "CRVAL1", "CRVAL2")]
    if not all(_is_number(value) for value in needed):
        return False
    linear = [header[key] for key in header if _LINEAR.match(key) or key in ("CDELT1", "CDELT2")]
    if not linear or not all(_is_number(value) for value in linear):
        return False
    return _determinant(header) != 0.0


def _determinant(header: Mapping[str, Any]) -> float:
    def element(i: int, j: int) -> float:
        if any(f"CD{a}_{b}" in header for a in (1, 2) for b in (1, 2)):
            return float(header.get(f"CD{i}_{j}", 0.0))
        scale = float(header.get(f"CDELT{i}", 1.0))
        return scale * float(header.get(f"PC{i}_{j}", 1.0 if i == j else 0.0))

    return element(1, 1) * element(2, 2) - element(1, 2) * element(2, 1)


def _complete_linear(cards: dict[str, object], signs: tuple[int, int]) -> None:
    """Where PC elements are left to their defaults (or CROTA is used), the flip must be written."""
    if signs == (1, 1):
        return
    for i in (1, 2):
        key = f"PC{i}_{i}"
        if key not in cards:
            cards[key] = float(signs[i - 1])
    if "CROTA2" in cards:
        # CROTA and PC exclude each other: CD = diag(CDELT) rotated (Calabretta & Greisen 2002).
        angle = math.radians(float(str(cards.pop("CROTA2"))))
        cards.pop("CROTA1", None)
        d1 = float(str(cards.pop("CDELT1", 1.0)))
        d2 = float(str(cards.pop("CDELT2", 1.0)))
        for key in [key for key in cards if _LINEAR.match(key)]:
            del cards[key]
        cards["CD1_1"] = d1 * math.cos(angle) * signs[0]
        cards["CD1_2"] = -d2 * math.sin(angle) * signs[1]
        cards["CD2_1"] = d1 * math.sin(angle) * signs[0]
        cards["CD2_2"] = d2 * math.cos(angle) * signs[1]


def _axis(d0: int, d1: int, d_flip: bool, p0: int, p1: int, p_flip: bool) -> tuple[int, int]:
    """(sign, offset) of the map from raw pixel to image pixel along one axis, zero based."""
    if d_flip == p_flip:
        return 1, p0 - d0
    return -1, p1 - 1 + d0


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
