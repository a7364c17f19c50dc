"""Thumbnails of the CCDs that are worst."""

from __future__ import annotations

import base64
import struct
import zlib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from mpipipe.data.errors import MpipipeError
from mpipipe.quality.scorecard.measured import MISSED, Measured
from mpipipe.quality.scorecard.scoring import Scorecard
from mpipipe.store.fitsfile import FitsFile

SIDE = 220
"""Pixels of the longer side of a thumbnail, about."""
MOST = 6
_READERS = 2


class Worst(NamedTuple):
    """A CCD-visit, why it is shown, and its picture as a data URI (empty: there is none)."""

    visit: int
    ccd: str
    why: str
    picture: str


def worst_ccds(card: Scorecard) -> list[Worst]:
    """The CCD-visits that are farthest from the others, those that failed first; of a small run a
    sixth at most, as a thumbnail costs more than all numbers of a CCD-visit."""
    most = min(MOST, max(2, len(card.data.exposures) // 6))
    told: dict[tuple[int, str], list[tuple[float, str]]] = defaultdict(list)
    e = card.data.exposures
    for row in e[~np.isin(e["outcome"], ("done", "unknown"))]:
        key = int(row["visit"]), str(row["ccd"])
        reason = card.data.reasons.get(key, "")
        told[key].append((100.0, f"{row['outcome']}{f': {reason}' if reason else ''}"))
    for one in card.measured:
        for key, distance, value in _far(one):
            unit = f" {one.unit}" if one.unit else ""
            told[key].append((distance, f"{one.title}: {value:.3g}{unit}"))
    ranked = sorted(told.items(), key=lambda item: (-sum(d for d, _ in item[1]), item[0]))[:most]
    with ThreadPoolExecutor(_READERS) as pool:
        pictures = list(pool.map(lambda item: thumbnail(card, *item[0]), ranked))
    return [
        Worst(visit, ccd, "; ".join(text for _, text in sorted(why, reverse=True)[:3]), picture)
        for ((visit, ccd), why), picture in zip(ranked, pictures, strict=True)
    ]


def _far(one: Measured) -> list[tuple[tuple[int, str], float, float]]:
    """CCD-visits that stand out of a number: how many widths of the others they are off."""
    values = one.ccds["value"]
    if len(values) < 4:
        return []
    low, middle, high = np.percentile(values, (25, 50, 75))
    scale = max((high - low) / 1.349, 1e-3 * abs(middle), 1e-12)
    distance = np.minimum(np.abs(values - middle) / scale, 20.0)
    if one.verdict == MISSED:
        distance = 1.5 * distance
    return [
        ((int(one.ccds["visit"][k]), str(one.ccds["ccd"][k])), float(distance[k]), float(values[k]))
        for k in np.flatnonzero(distance > 4.0)
    ]


def thumbnail(card: Scorecard, visit: int, ccd: str) -> str:
    """The calexp as a small PNG, a data URI; empty where it can not be read."""
    path = card.data.layout.image("calexp", visit, ccd)
    try:
        with FitsFile(path) as file:
            hdu = file.find("IMAGE")
            if hdu is None or len(hdu.shape) != 2:
                return ""
            image = file.data(hdu)
    except (MpipipeError, OSError, ValueError):
        return ""
    return "data:image/png;base64," + base64.b64encode(grey_png(stretched(image))).decode("ascii")


def stretched(image: np.ndarray) -> np.ndarray:
    """An image made small, its sky dark grey and stars white, top row first; uint8."""
    step = max(1, -(-max(image.shape) // SIDE))
    ny, nx = (n // step * step for n in image.shape)
    blocks = image[:ny, :nx].reshape(ny // step, step, nx // step, step)
    # The brightest pixel of a block is seen as well as its mean: stars stay.
    with np.errstate(invalid="ignore"):
        small = 0.5 * (blocks.mean(axis=(1, 3)) + blocks.max(axis=(1, 3)))
    known = small[np.isfinite(small)]
    if not len(known):
        return np.zeros(small.shape, np.uint8)
    low, middle, high = np.percentile(known, (1, 50, 99.5))
    softening = max(middle - low, 1e-6)
    scaled = np.arcsinh((np.nan_to_num(small, nan=low) - low) / softening)
    top = np.arcsinh((high - low) / softening)
    return np.asarray(np.clip(255 * scaled / max(top, 1e-6), 0, 255).astype(np.uint8)[::-1])


def grey_png(pixels: np.ndarray) -> bytes:
    """Grey values of 8 bits as PNG (ISO/IEC 15948)."""
    ny, nx = pixels.shape
    lines = np.zeros((ny, nx + 1), np.uint8)
    lines[:, 1:] = pixels

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    head = struct.pack(">IIBBBBB", nx, ny, 8, 0, 0, 0, 0)
    body = zlib.compress(lines.tobytes(), 9)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", body), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
