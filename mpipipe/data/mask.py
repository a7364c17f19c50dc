"""Mask planes: the names of bits in an int32 image, Rubin's names where Rubin has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

PLANES: Mapping[str, str] = {
    "BAD": "defect: hot, dead or otherwise unusable pixel",
    "SAT": "saturated, or reached by the bleed of a saturated pixel",
    "INTRP": "value interpolated from neighbours or taken from another snap",
    "CR": "hit by a cosmic ray in at least one snap",
    "EDGE": "too close to the edge of the CCD for the filter or the stamp",
    "DETECTED": "part of a detected source",
    "DETECTED_NEGATIVE": "part of a negative detection",
    "SUSPECT": "value is doubtful (near the full well, large non-linearity)",
    "NO_DATA": "no data at all",
    "CROSSTALK": "large crosstalk correction",
    "STREAK": "satellite or aircraft trail in one of the snaps",
    "VIGNETTED": "low response: strongly vignetted or shadowed",
    "SNAP_DIFF": "snaps differ significantly, and not by a cosmic ray",
    "DETECTED_STREAK": "part of a detected source that is a trail",
}
"""Plane name to meaning; the position in this table is the number of the bit."""

BIT: Mapping[str, int] = {name: bit for bit, name in enumerate(PLANES)}
VALUE: Mapping[str, int] = {name: 1 << bit for name, bit in BIT.items()}
DETECTIONS = ("DETECTED", "DETECTED_NEGATIVE", "DETECTED_STREAK")
"""Planes that a detection sets anew: they belong to its catalogue, not to the pixels."""
DTYPE = np.int32


def bits(*names: str) -> int:
    """The mask value that has exactly the planes `names` set."""
    value = 0
    for name in names:
        value |= VALUE[name]
    return value


def is_set(mask: np.ndarray, names: str | Iterable[str]) -> np.ndarray:
    """Boolean image: any of the planes `names` is set."""
    wanted = bits(names) if isinstance(names, str) else bits(*names)
    result: np.ndarray = (mask & DTYPE(wanted)) != 0
    return result


def header_cards() -> dict[str, int]:
    """FITS cards that carry the plane names, as Rubin writes them: ``MP_SAT`` = bit number."""
    return {f"MP_{name}": bit for name, bit in BIT.items()}
