"""What a CCD truly saw in one visit, for truth metrics: handed in, nothing here reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class CcdTruth:
    """The truth of one CCD-visit.

    Attributes
    ----------
    sources
        Structured: ``id``, ``kind`` (0 star, 1 galaxy), ``x``, ``y`` (zero-based pixels), ``ra``,
        ``dec`` (degrees), ``mag`` (AB), ``snr``, ``psf_ixx``, ``psf_iyy``, ``psf_ixy`` (pixels).
    zero_point
        AB magnitude of 1 electron in the visit, middle of the field.
    """

    sources: np.ndarray
    zero_point: float


TruthOf = Callable[[int, str], CcdTruth | None]
"""Of a visit and a CCD; None where there is none."""
