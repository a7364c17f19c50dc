"""All detections of placed frames as columns, and the means of those of each star."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpipipe.stages.selfref.mosaic import Mosaic
from mpipipe.stages.selfref.sky_stars import MAS

_OUTLIER = 2.5
"""Detections farther off than this many standard deviations lose weight."""
_ROUNDS = 4
_FLOOR_MAS = 1.0
"""Least error of a star's coordinate, mas."""
_BRIGHT_SNR = 50.0


@dataclass(frozen=True, eq=False)
class Detections:
    """All detections of placed frames, as columns."""

    star: np.ndarray
    frame: np.ndarray
    vectors: np.ndarray
    error: np.ndarray
    magnitude: np.ndarray
    magnitude_error: np.ndarray
    mjd: np.ndarray
    scale: np.ndarray
    is_clean: np.ndarray
    is_bright: np.ndarray

    @classmethod
    def of(cls, mosaic: Mosaic) -> Detections:
        """Those of all placed frames, in the order of the frames."""
        numbers = sorted(mosaic.places)
        places = [mosaic.places[number] for number in numbers]
        frames = [mosaic.frames[number] for number in numbers]
        lengths = [len(frame) for frame in frames]

        def joined(parts: list[np.ndarray], *shape: int) -> np.ndarray:
            return np.concatenate([np.zeros((0, *shape)), *parts])

        def spread(values: list[float]) -> np.ndarray:
            return np.repeat(np.array(values, dtype=float), lengths)

        is_clean = joined([frame.is_clean for frame in frames]).astype(bool)
        return cls(
            joined([place.star for place in places]).astype(np.int64),
            np.repeat(np.array(numbers, dtype=np.int64), lengths),
            joined([place.vectors for place in places], 3),
            joined([place.error for place in places]),
            joined([frame.magnitude for frame in frames]),
            joined([frame.magnitude_error for frame in frames]),
            spread([frame.mjd for frame in frames]),
            spread([place.wcs.pixel_scale * 1e3 for place in places]),
            is_clean,
            is_clean & (joined([frame.snr for frame in frames]) > _BRIGHT_SNR),
        )


@dataclass(frozen=True, eq=False)
class Means:
    """Robust weighted means of the detections of each star.

    Attributes
    ----------
    n
        (n_stars,) detections.
    vectors
        (n_stars, 3) unit vectors; NaN without detections.
    error
        (n_stars, 2) standard errors to the east and north, mas.
    epoch
        (n_stars,) mean MJD.
    off
        (n, 2) pixels by which each detection is off to the east and north of the others' mean.
    """

    n: np.ndarray
    vectors: np.ndarray
    error: np.ndarray
    epoch: np.ndarray
    off: np.ndarray

    @classmethod
    def of(cls, found: Detections, n_stars: int) -> Means:
        """Means of so many stars."""
        star = found.star
        n = np.bincount(star, minlength=n_stars)
        weight = 1.0 / found.error**2
        for _ in range(_ROUNDS):
            sums = np.stack(
                [np.bincount(star, weight * axis, n_stars) for axis in found.vectors.T], axis=1
            )
            with np.errstate(invalid="ignore"):
                means = sums / np.linalg.norm(sums, axis=1, keepdims=True)
            off = _offsets(found.vectors, means[star])
            pull = np.hypot(*off.T) / found.error
            with np.errstate(divide="ignore"):
                weight = np.minimum(1.0, _OUTLIER / pull) / found.error**2
        total = np.bincount(star, weight, n_stars)
        with np.errstate(all="ignore"):
            chi2 = (
                np.stack([np.bincount(star, weight * axis**2, n_stars) for axis in off.T], axis=1)
                / np.maximum(n - 1, 1)[:, None]
            )
            error = np.sqrt(np.maximum(chi2, 1.0) / total[:, None])
            own = weight / total[star]
            others = off / (1.0 - np.where(n[star] > 1, own, 0.0))[:, None]
            epoch = np.bincount(star, weight * np.nan_to_num(found.mjd), n_stars) / total
        error = np.hypot(error, _FLOOR_MAS)
        return cls(n, means, error, epoch, others / found.scale[:, None])


def _offsets(vectors: np.ndarray, origins: np.ndarray) -> np.ndarray:
    """(n, 2) mas to the east and north of the origins."""
    difference = vectors - origins
    x, y, z = origins.T
    level = np.maximum(np.hypot(x, y), 1e-300)
    east = (difference[:, 1] * x - difference[:, 0] * y) / level
    radial = (difference[:, 0] * x + difference[:, 1] * y) / level
    north = difference[:, 2] * level - radial * z
    return np.stack([east, north], axis=1) / MAS
