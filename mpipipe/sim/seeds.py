"""Random generators that depend on what is drawn, never on when or by whom."""

from __future__ import annotations

import zlib

import numpy as np


def generator(seed: int, *key: object) -> np.random.Generator:
    """A generator for one purpose.

    Parameters
    ----------
    seed
        Seed of the whole simulation.
    key
        What the numbers are for, e.g. ``"photons", visit, ccd, snap``. Equal keys give equal
        numbers in any process, at any time; different keys give independent streams.
    """
    words = "/".join(str(part) for part in key).encode()
    # Two different hashes: one CRC alone would collide after some 10^5 keys.
    entropy = [seed & 0xFFFFFFFF, seed >> 32, zlib.crc32(words), zlib.adler32(words)]
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(entropy)))
