"""Which source is which reference star, when the pointing is known only roughly.

Pairs of bright sources are compared with pairs of bright reference stars. Two pairs of like length
and direction vote for a shift and a rotation of the field; true pairs agree, chance ones do not
(the idea of Groth 1986, AJ 91, 1244, with pairs instead of triangles since the scale is known).
The cells with the most votes are followed by linear fits within a shrinking radius. A solution is
accepted only if unrelated catalogues would hardly ever agree as well, by any of all the
transformations that were open to it.

Positions are tangent-plane coordinates around the CCD's expected centre, arcsec.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numba import njit

from mpipipe.stages.ic.nearest import nearest_pairs

MIN_STARS = 6
"""Fewer matches are never believed without a header's WCS."""

_BRIGHTEST = (25, 45, 80, 150)
"""Sources tried, one after the other, until a solution is found."""
_DENSER = 1.5
"""Reference stars are taken this much denser than sources, as other bands order them otherwise."""
_FOLLOWED = 300
"""Brightest sources that the fits use."""
_SHORTEST = 0.25
"""Least length of a pair in units of the half side."""
_CELLS_PER_HALF_SIDE = 80
"""Size of a cell of votes; distortion that a linear map leaves must be smaller."""
_LEAST_CELL = 3.0
"""The same in pixels."""
_TURN = 0.25
"""Size of a cell of votes in rotation, degrees."""
_SLACK = 1.1
"""Pairs may differ by this times the limits of scale and rotation, as distortion adds to both."""
_CANDIDATES = 8
_PEAKS = 200
_RADII = (2.0, 1.0, 0.5, 0.25)
"""Of the matches in a fit, in cells."""
_ROUNDS = 5
_MOST_REFERENCES = 2000
_MOST_WORK = 2e7
"""Comparisons of pairs, with votes at `_VOTE_COST` of them, beyond which more pairs are not tried:
a wrong field must be refused in good time."""
_VOTE_COST = 10.0
_MAX_LOG_CHANCE = -6.0
_SHEAR = 0.02
"""Largest difference of scale between two directions."""
_DISPLACED = (3.0, 5.0, 8.0)
"""Displacements at which chance matches are counted, in radii."""


@dataclass(frozen=True)
class Search:
    """How far the truth may be from what was expected.

    Attributes
    ----------
    offset
        Of the CCD's centre, arcsec.
    rotation
        Degrees; 180: any.
    scale
        Relative.
    """

    offset: float = 300.0
    rotation: float = 2.0
    scale: float = 0.02

    def at(self, dec: float) -> Search:
        """The same at a declination (deg), where meridians turn north with the pointing."""
        turn = self.offset / 3600.0 * abs(np.tan(np.radians(dec)))
        return replace(self, rotation=float(min(self.rotation + turn, 180.0)))


@dataclass(frozen=True, eq=False)
class PatternMatch:
    """A linear map from expected to true positions, and the pairs it rests on.

    Attributes
    ----------
    matrix, offset
        (2, 2) and (2,): true = matrix @ expected + offset, arcsec.
    source, reference
        Indices of the matched sources and reference stars.
    radius
        Within which they are matched, arcsec.
    log_chance
        log10 of the probability that unrelated catalogues agree as well.
    """

    matrix: np.ndarray
    offset: np.ndarray
    source: np.ndarray
    reference: np.ndarray
    radius: float
    log_chance: float


@dataclass(frozen=True, eq=False)
class _Field:
    """The two lists of one match, and the scales that follow from the CCD's size (arcsec)."""

    sources: np.ndarray
    references: np.ndarray
    half_side: float
    half_diagonal: float
    cell: float
    search: Search

    @property
    def density_ratio(self) -> float:
        """Area where reference stars are wanted over that of the CCD."""
        reach = self.half_diagonal + self.search.offset
        return float(np.pi * reach**2 / (2.0 * self.half_side) ** 2)


def match_pattern(
    sources: np.ndarray,
    references: np.ndarray,
    size: tuple[float, float],
    pixel_scale: float,
    search: Search | None = None,
) -> PatternMatch | None:
    """Match sources with reference stars.

    Parameters
    ----------
    sources
        (n, 2) expected positions, brightest first. Their origin is the CCD's centre.
    references
        (m, 2) true positions, brightest first, about the expected centre.
    size
        Width and height of the CCD, arcsec.
    pixel_scale
        Arcsec.
    search
        Limits; the mirror image is always tried too.

    Returns
    -------
    PatternMatch or None
        None if no solution is beyond chance.
    """
    search = search or Search()
    half_side = 0.5 * float(np.sqrt(size[0] * size[1]))
    half_diagonal = 0.5 * float(np.hypot(*size))
    cell = max(half_side / _CELLS_PER_HALF_SIDE, _LEAST_CELL * pixel_scale)
    reach = half_diagonal * (1.0 + search.scale) + search.offset
    index = np.flatnonzero(np.hypot(*references.T) <= reach)
    field = _Field(sources, references[index], half_side, half_diagonal, cell, search)
    before = 0
    for n in _BRIGHTEST:
        if before >= len(sources):
            break
        before = n
        for matrix, offset in _candidates(field, n):
            found = _follow(field, matrix, offset)
            if found is not None:
                source, reference = found.source, index[found.reference]
                return PatternMatch(
                    found.matrix, found.offset, source, reference, found.radius, found.log_chance
                )
    return None


def match_shift(
    sources: np.ndarray,
    references: np.ndarray,
    size: tuple[float, float],
    reach: float,
    radius: float,
) -> PatternMatch | None:
    """Match few sources whose expected positions are right but for a shift.

    Parameters
    ----------
    sources, references, size
        See `match_pattern`.
    reach
        Largest shift, arcsec.
    radius
        Within which matches must agree, arcsec.

    Returns
    -------
    PatternMatch or None
        The shift with the most matches, at least 3; None if it is not beyond chance.
    """
    sources = sources[:_FOLLOWED]
    margin = 0.5 * np.array(size) + reach + radius
    index = np.flatnonzero((np.abs(references) <= margin).all(axis=1))
    index = index[: max(int(_DENSER * len(sources) * 2), 100)]
    near = references[index]
    shifts = (near[None, :, :] - sources[:, None, :]).reshape(-1, 2)
    shifts = shifts[np.hypot(*shifts.T) <= reach]
    if not len(shifts):
        return None
    neighbours = (np.hypot(*(shifts[:, None, :] - shifts[None, :, :]).T) <= radius).sum(axis=0)
    offset = shifts[np.argmax(neighbours)]
    for _ in range(_ROUNDS):
        pairs = nearest_pairs(sources + offset, near, radius)
        offset = (near[pairs[1]] - sources[pairs[0]]).mean(axis=0) if len(pairs[0]) else offset
    trials = np.log10(max((reach / radius) ** 2, 1.0))
    chance = trials + log_agreement(sources + offset, near, pairs[0], radius, size)
    if len(pairs[0]) < 3 or chance > _MAX_LOG_CHANCE / 2.0:
        return None
    return PatternMatch(np.eye(2), offset, pairs[0], index[pairs[1]], radius, float(chance))


def _candidates(field: _Field, n: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Similarity maps with the most votes of the pairs of the `n` brightest, best first."""
    search = field.search
    m = min(int(_DENSER * n * field.density_ratio) + 1, _MOST_REFERENCES)
    window = np.radians(min(search.rotation * _SLACK, 180.0))
    stretch = search.scale * _SLACK
    sources, references = field.sources[:n], field.references[:m]
    first, second, length = _pairs(sources, _SHORTEST * field.half_side, np.inf)
    if not len(first):
        return []
    limits = (length[0] * (1.0 - stretch), length[-1] * (1.0 + stretch))
    r_first, r_second, r_length = _pairs(references, *limits)
    if len(first) * len(r_first) * stretch * (1.0 + _VOTE_COST * window / np.pi) > _MOST_WORK:
        return []
    found = []
    for parity in (1.0, -1.0):
        turned = sources * [parity, 1.0]
        votes = _votes(
            turned, first, second, length,
            references, r_first, r_second, r_length,
            stretch, window, search.offset,
        )  # fmt: skip
        found += [(count, parity, vote) for count, vote in _peaks(votes, field.cell, search)]
    found.sort(key=lambda peak: -peak[0])
    maps = []
    for _, parity, (dx, dy, turn, scale) in found[:_CANDIDATES]:
        c, s = scale * np.cos(turn), scale * np.sin(turn)
        maps.append((np.array([[c * parity, -s], [s * parity, c]]), np.array([dx, dy])))
    return maps


def _pairs(
    points: np.ndarray, shortest: float, longest: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of points with a length within limits, as two indices and length, sorted by it."""
    i, j = np.triu_indices(len(points), 1)
    length = np.hypot(*(points[j] - points[i]).T)
    keep = np.flatnonzero((length >= shortest) & (length <= longest))
    keep = keep[np.argsort(length[keep], kind="stable")]
    return i[keep], j[keep], length[keep]


@njit(cache=True)
def _votes(
    points: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    length: np.ndarray,
    references: np.ndarray,
    r_first: np.ndarray,
    r_second: np.ndarray,
    r_length: np.ndarray,
    stretch: float,
    window: float,
    reach: float,
) -> np.ndarray:
    """Shift x, y (arcsec), rotation (radian) and scale of every two pairs that may be the same."""
    angle = np.empty(len(first))
    for k in range(len(first)):
        d = points[second[k]] - points[first[k]]
        angle[k] = np.arctan2(d[1], d[0])
    r_angle = np.empty(len(r_first))
    for k in range(len(r_first)):
        d = references[r_second[k]] - references[r_first[k]]
        r_angle[k] = np.arctan2(d[1], d[0])
    out = np.empty((4096, 4))
    n = 0
    low = 0
    for k in range(len(first)):
        while low < len(r_first) and r_length[low] < length[k] * (1.0 - stretch):
            low += 1
        middle_x = 0.5 * (points[first[k], 0] + points[second[k], 0])
        middle_y = 0.5 * (points[first[k], 1] + points[second[k], 1])
        for m in range(low, len(r_first)):
            if r_length[m] > length[k] * (1.0 + stretch):
                break
            # Which end is which is not known: both ways round.
            for half in range(2):
                turn = r_angle[m] - angle[k] + half * np.pi
                turn -= 2.0 * np.pi * np.round(turn / (2.0 * np.pi))
                if abs(turn) > window:
                    continue
                scale = r_length[m] / length[k]
                c, s = scale * np.cos(turn), scale * np.sin(turn)
                at_x = 0.5 * (references[r_first[m], 0] + references[r_second[m], 0])
                at_y = 0.5 * (references[r_first[m], 1] + references[r_second[m], 1])
                dx = at_x - (c * middle_x - s * middle_y)
                dy = at_y - (s * middle_x + c * middle_y)
                if dx * dx + dy * dy > reach * reach:
                    continue
                if n == len(out):
                    larger = np.empty((2 * n, 4))
                    larger[:n] = out
                    out = larger
                out[n, 0], out[n, 1], out[n, 2], out[n, 3] = dx, dy, turn, scale
                n += 1
    return out[:n]


def _peaks(
    votes: np.ndarray, cell: float, search: Search
) -> list[tuple[int, tuple[float, float, float, float]]]:
    """Blocks of 2 x 2 x 2 cells with the most votes: how many, and their mean vote."""
    if not len(votes):
        return []
    step = np.array([cell, cell, np.radians(_TURN)])
    cells = np.floor(votes[:, :3] / step).astype(np.int64)
    cells -= cells.min(axis=0) - 1
    sides = cells.max(axis=0) + 2
    keys = (cells[:, 0] * sides[1] + cells[:, 1]) * sides[2] + cells[:, 2]
    order = np.argsort(keys, kind="stable")
    values, starts, counts = np.unique(keys[order], return_index=True, return_counts=True)
    top = np.argsort(-counts, kind="stable")[:_PEAKS]
    steps = np.array(
        [(i * sides[1] + j) * sides[2] + k for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    )
    blocks = np.unique(values[top][:, None] - steps)
    members = blocks[:, None] + steps
    at = np.minimum(np.searchsorted(values, members), len(values) - 1)
    held = np.where(values[at] == members, counts[at], 0)
    total = held.sum(axis=1)
    peaks = []
    for block in np.argsort(-total, kind="stable")[:_CANDIDATES]:
        rows = np.concatenate(
            [
                order[starts[k] : starts[k] + count]
                for k, count in zip(at[block], held[block], strict=True)
            ]
        )
        dx, dy, turn, scale = np.median(votes[rows], axis=0)
        peaks.append((int(total[block]), (float(dx), float(dy), float(turn), float(scale))))
    return peaks


def _follow(field: _Field, matrix: np.ndarray, offset: np.ndarray) -> PatternMatch | None:
    """Fit a candidate within a shrinking radius; None if it is not beyond chance.

    A fit may be caught on a part of the CCD: the radius shrinks anew from the widest as long as
    that makes matches grow.
    """
    sources = field.sources[:_FOLLOWED]
    m = max(int(_DENSER * len(sources) * field.density_ratio), 100)
    references = field.references[:m]
    parity = np.sign(np.linalg.det(matrix))
    best: tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]] | None = None
    for _ in range(_ROUNDS):
        for k, radius in enumerate(_RADII):
            pairs = nearest_pairs(sources @ matrix.T + offset, references, radius * field.cell)
            if len(pairs[0]) < MIN_STARS:
                break
            linear = best is not None or k > 1
            matrix, offset = _fit(sources[pairs[0]], references[pairs[1]], parity, linear)
        pairs = nearest_pairs(sources @ matrix.T + offset, references, _RADII[-1] * field.cell)
        if best is not None and len(pairs[0]) <= len(best[2][0]):
            break
        best = matrix, offset, pairs
        if len(pairs[0]) < MIN_STARS:
            return None
    if best is None or not _is_sane(best[0], parity, field.search.scale):
        return None
    matrix, offset, pairs = best
    radius = _RADII[-1] * field.cell
    size = (2.0 * field.half_side,) * 2
    chance = _log_trials(field, radius) + log_agreement(
        sources @ matrix.T + offset, references, pairs[0], radius, size
    )
    if chance > _MAX_LOG_CHANCE:
        return None
    return PatternMatch(matrix, offset, *pairs, radius, float(chance))


def _fit(
    sources: np.ndarray, references: np.ndarray, parity: float, linear: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares map between pairs: any linear one, or a similarity of the given parity."""
    origin, aim = sources.mean(axis=0), references.mean(axis=0)
    s, r = sources - origin, references - aim
    if linear:
        matrix = np.linalg.lstsq(s, r, rcond=None)[0].T
    else:
        s = s * [parity, 1.0]
        square = (s**2).sum()
        c = (s * r).sum() / square
        d = (s[:, 0] * r[:, 1] - s[:, 1] * r[:, 0]).sum() / square
        matrix = np.array([[c * parity, -d], [d * parity, c]])
    return matrix, aim - matrix @ origin


def _is_sane(matrix: np.ndarray, parity: float, scale: float) -> bool:
    """Whether a map keeps its parity, is no shear, and has a scale within 1.5 times the limit."""
    largest, least = np.linalg.svd(matrix, compute_uv=False)
    return bool(
        np.sign(np.linalg.det(matrix)) == parity
        and largest - least <= _SHEAR
        and abs(np.sqrt(largest * least) - 1.0) <= 1.5 * scale
    )


def _log_trials(field: _Field, radius: float) -> float:
    """log10 of how many maps the search told apart: each a chance for an accident."""
    search = field.search
    lever = field.half_diagonal / radius
    shifts = np.pi * search.offset**2 / (np.pi * radius**2)
    turns = 2.0 * np.radians(search.rotation) * lever
    scales, shears = 2.0 * search.scale * lever, (_SHEAR * lever) ** 2
    parities = 2.0
    return float(sum(np.log10(max(k, 1.0)) for k in (parities, shifts, turns, scales, shears)))


def log_agreement(
    placed: np.ndarray,
    references: np.ndarray,
    matched: np.ndarray,
    radius: float,
    size: tuple[float, float],
) -> float:
    """log10 of the probability that one given map matches as many of unrelated stars.

    Chernoff's bound of the binomial distribution. The chance of one match is counted with the
    sources displaced, which holds in clusters too, and is at least that of an even density.
    """
    n, hits = len(placed), len(matched)
    if not hits:
        return 0.0
    low, high = placed.min(axis=0) - radius, placed.max(axis=0) + radius
    around = int(((references >= low) & (references <= high)).all(axis=1).sum())
    area = max(float(np.prod(high - low)), 0.25 * size[0] * size[1])
    counted = [
        len(nearest_pairs(placed + far * radius * np.array(way), references, radius)[0])
        for far in _DISPLACED
        for way in ((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0))
    ]
    even = around * np.pi * radius**2 / area
    p = min(max(even, float(np.mean(counted)) / n, 1e-12), 0.999)
    share = hits / n
    if share <= p:
        return 0.0
    information = share * np.log(share / p)
    if share < 1.0:
        information += (1.0 - share) * np.log((1.0 - share) / (1.0 - p))
    return float(-n * information / np.log(10.0))
