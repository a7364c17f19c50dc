"""Relative photometry: zero points of frames and magnitudes of stars that explain each other.

Every detection says: instrumental magnitude = magnitude of the star - zero point of the frame. All
of them together are a sparse linear system, solved by least squares with weights that outliers
(variable stars, blends) lose. Frames that share stars, directly or through others, are one part;
the zero of a part is free, and fixed by its clearest frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ZERO = 25.0
"""Magnitude of a star that gives one electron a second in the clearest frame of a part."""

FLOOR = 0.003
"""Least error of a detection beyond its photons, mag."""

_ROUNDS = 6
_OUTLIER = 2.5
"""Residuals beyond this many standard deviations lose weight."""
_MAD_TO_SIGMA = 1.4826
_DAMPING = 1e-12
"""Weight of a zero point's start value, of that of its stars."""


@dataclass(frozen=True, eq=False)
class Photometry:
    """Magnitudes of stars and zero points of frames in one band; NaN where there is none.

    Attributes
    ----------
    magnitude, magnitude_error
        (n_stars,).
    zero_point, zero_point_error
        (n_frames,): magnitude of a source of one electron in the whole visit.
    n_used
        (n_frames,): detections that a zero point rests on.
    part
        (n_frames,): frames of one part share a zero; -1 for those without a zero point.
    """

    magnitude: np.ndarray
    magnitude_error: np.ndarray
    zero_point: np.ndarray
    zero_point_error: np.ndarray
    n_used: np.ndarray
    part: np.ndarray


def relative_photometry(
    star: np.ndarray,
    frame: np.ndarray,
    magnitude: np.ndarray,
    error: np.ndarray,
    seconds: np.ndarray,
    n_stars: int,
) -> Photometry:
    """Solve for magnitudes and zero points.

    Parameters
    ----------
    star, frame
        (n,) numbers: whose detection it is, and where.
    magnitude, error
        (n,) instrumental magnitudes with errors, finite.
    seconds
        (n_frames,) exposure times; NaN counts as one second.
    n_stars
        Number of stars.
    """
    n_frames = len(seconds)
    part_of_star, part = _parts(star, frame, n_stars, n_frames)
    sigma = np.hypot(error, FLOOR)
    weight = 1.0 / sigma**2
    stars, zeros = np.zeros(n_stars), np.zeros(n_frames)
    rest = magnitude
    for _ in range(_ROUNDS):
        stars, zeros = _solve(star, frame, magnitude, weight, (stars, zeros))
        rest = magnitude - stars[star] + zeros[frame]
        scatter = _scatter(rest, sigma)
        pull = np.abs(rest) / np.hypot(sigma, scatter)
        with np.errstate(divide="ignore"):
            weight = np.minimum(1.0, _OUTLIER / pull) / (sigma**2 + scatter**2)
    seen, zeros_known = part_of_star >= 0, part >= 0
    zero = _zeros_of_parts(part, zeros, seconds)
    star_sum = np.bincount(star, weight, n_stars)
    n_of_star = np.bincount(star, minlength=n_stars)
    chi2 = np.bincount(star, weight * rest**2, n_stars)
    with np.errstate(all="ignore"):
        # What a star's own detections say about their scatter counts, if it is more.
        excess = np.sqrt(np.maximum(chi2 / np.maximum(n_of_star - 1, 1), 1.0))
        star_error = np.hypot(np.where(n_of_star > 1, excess, 1.0) / np.sqrt(star_sum), FLOOR)
        frame_error = 1.0 / np.sqrt(np.bincount(frame, weight, n_frames))
    return Photometry(
        np.where(seen, stars - zero[part_of_star], np.nan),
        np.where(seen, star_error, np.nan),
        np.where(zeros_known, zeros - zero[part], np.nan),
        np.where(zeros_known, frame_error, np.nan),
        np.bincount(frame, minlength=n_frames),
        part,
    )


def _parts(
    star: np.ndarray, frame: np.ndarray, n_stars: int, n_frames: int
) -> tuple[np.ndarray, np.ndarray]:
    """Connected parts of stars and of frames, -1 for what has no detection."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = n_stars + n_frames
    links = coo_array((np.ones(len(star)), (star, n_stars + frame)), shape=(n, n))
    labels = connected_components(links.tocsr(), directed=False)[1]
    # By the first frame of each part, so that numbers follow from the frames' order.
    is_seen = np.bincount(frame, minlength=n_frames) > 0
    first: dict[int, int] = {}
    for label in labels[n_stars:][is_seen].tolist():
        first.setdefault(label, len(first))
    number = np.array([first.get(label, -1) for label in labels.tolist()], dtype=np.int64)
    return number[:n_stars], np.where(is_seen, number[n_stars:], -1)


def _solve(
    star: np.ndarray,
    frame: np.ndarray,
    magnitude: np.ndarray,
    weight: np.ndarray,
    start: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted least squares; stars are eliminated, conjugate gradients find the zero points."""
    from scipy.sparse import coo_array, diags_array
    from scipy.sparse.linalg import LinearOperator, cg

    n_stars, n_frames = len(start[0]), len(start[1])
    shape = (n_stars, n_frames)
    links = coo_array((weight, (star, frame)), shape=shape).tocsr()
    of_star = np.bincount(star, weight, n_stars)
    of_frame = np.bincount(frame, weight, n_frames)
    # The zeros of the parts are free: nearly nothing keeps them near where they are.
    damped = (1.0 + _DAMPING) * of_frame
    inverse = np.divide(1.0, of_star, out=np.zeros(n_stars), where=of_star > 0.0)
    means = inverse * np.bincount(star, weight * magnitude, n_stars)

    def normal(zeros: np.ndarray) -> np.ndarray:
        zeros = zeros.ravel()
        return np.asarray(damped * zeros - links.T @ (inverse * (links @ zeros)))

    right = links.T @ means - np.bincount(frame, weight * magnitude, n_frames)
    right += _DAMPING * of_frame * start[1]
    scale = np.divide(1.0, of_frame, out=np.ones(n_frames), where=of_frame > 0.0)
    operator = LinearOperator((n_frames, n_frames), matvec=normal, dtype=float)
    zeros, _ = cg(operator, right, x0=start[1], rtol=1e-10, maxiter=2000, M=diags_array(scale))
    return means + inverse * (links @ zeros), zeros


def _scatter(rest: np.ndarray, sigma: np.ndarray) -> float:
    """What must be added to `sigma` in quadrature for the typical residual to be as expected."""
    if not len(rest):
        return 0.0
    square = (_MAD_TO_SIGMA * rest) ** 2 - sigma**2
    return float(np.sqrt(max(float(np.median(square)), 0.0)))


def _zeros_of_parts(part: np.ndarray, zeros: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """What to subtract in each part; the last value, which -1 finds, is that of none."""
    duration = np.where(np.isfinite(seconds) & (seconds > 0.0), seconds, 1.0)
    a_second = zeros - 2.5 * np.log10(duration)
    n_parts = int(part.max(initial=-1)) + 1
    found = np.zeros(n_parts + 1)
    for number in range(n_parts):
        found[number] = a_second[part == number].max() - ZERO
    return found
