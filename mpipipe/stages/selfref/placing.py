"""Frames find their places one after another, each against the stars of those before it.

A group begins with a frame whose header has a WCS, the one with the most good stars. The next one
is always a frame that is expected where the most of it is covered already. A frame that finds no
place waits until more is known around it. When nothing is left to try, the next group begins.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from mpipipe.data.sky_vectors import unit_vectors
from mpipipe.data.tan_sip import TanSip, inverse_gnomonic
from mpipipe.stages.ic.pattern_match import Search
from mpipipe.stages.ic.wcs_search import Expectation, Found, expectations, find_wcs
from mpipipe.stages.selfref.fixed import stay_in_place
from mpipipe.stages.selfref.frame import Frame
from mpipipe.stages.selfref.mosaic import Mosaic

Key = tuple[int, int, int]

_POINTS = 5
"""A side, of the points of a frame that are looked up."""
_CELLS = 4
"""Cells along half the diagonal of the smallest frame."""
_DENSE = 0.5
"""Spacing of the points by which a placed frame covers cells, in cells."""
_LEVELS = 10
"""In which the covered part of a frame is counted."""
_OWN_GROUP = 0.5
"""A frame that is covered more than this begins no group: it should have found its place."""
_STAYS = 0.5
"""Share of a CCD's frames in which a source that stays in place is set aside at first."""
_FEWEST = 6
"""Sources of a frame that may begin a group."""
_LEAST = 3
"""Sources of a frame that is tried at all."""
_MAX_RMS = 0.5
"""Of a solution that is believed, pixels an axis, unless the errors explain it."""
_BLIND = 180.0


def place_all(mosaic: Mosaic, search: Search) -> dict[int, str]:
    """Give all frames a place that can get one.

    Parameters
    ----------
    mosaic
        Has no places yet.
    search
        How wrong headers and pointings may be.

    Returns
    -------
    dict
        Number of a frame without a place to the reason, in words.
    """
    work = _Placing(mosaic, search)
    group = 0
    while (first := work.first_frame()) is not None:
        work.begin(first, group)
        work.extend(group)
        group += 1
    work.try_lost(group)
    return work.reasons


class _Placing:
    """Which frames still wait, and how much of each is covered."""

    def __init__(self, mosaic: Mosaic, search: Search) -> None:
        self.mosaic = mosaic
        self.search = search
        self.reasons: dict[int, str] = {}
        frames = mosaic.frames
        side = min((frame.half_diagonal for frame in frames), default=1.0)
        self._cell = np.radians(side) / _CELLS
        self._stays = _staying(frames)
        self._waiting = set(range(len(frames)))
        self._n_tried_with: dict[int, int] = {}  # covered points at the last attempt
        self._covered: set[Key] = set()
        self._n_covered = [0] * len(frames)
        self._by_key: dict[Key, list[tuple[int, int]]] = defaultdict(list)
        self._heap: list[tuple[int, bool, int, int]] = []
        self._in_time: dict[str, list[tuple[float, int]]] = defaultdict(list)  # placed, by CCD
        for number, frame in enumerate(frames):
            for key, count in Counter(self._area(frame, frame.header, _POINTS)).items():
                self._by_key[key].append((number, count))

    # -- the order --------------------------------------------------------------------------------

    def first_frame(self) -> int | None:
        """The frame that begins a group; None if none can."""
        best = None
        for number in sorted(self._waiting):
            frame = self.mosaic.frames[number]
            if frame.header is None or self._part(number) > _OWN_GROUP:
                continue
            n_good = len(frame.tiers[0])
            if len(frame) >= _FEWEST and (best is None or n_good > best[0]):
                best = n_good, number
        return None if best is None else best[1]

    def begin(self, number: int, group: int) -> None:
        """A group's first frame takes the place that its header says."""
        header = self.mosaic.frames[number].header
        assert header is not None
        self.mosaic.put(number, header, None, group)
        self._settle(number)

    def extend(self, group: int) -> None:
        """Place what is expected near the frames of this group, until no more finds a place."""
        while self._heap:
            number = heapq.heappop(self._heap)[-1]
            # Stale entries of a frame that is placed, or was tried since with as much around it.
            if number not in self._waiting:
                continue
            if self._n_tried_with.get(number, 0) >= self._n_covered[number]:
                continue
            self._n_tried_with[number] = self._n_covered[number]
            self._try(number, group)

    def try_lost(self, group: int) -> None:
        """Last, frames that are not expected near others: they may be wrong about their place."""
        for number in sorted(self._waiting):
            if number in self.reasons:
                continue
            if not self.mosaic.places:
                self.reasons[number] = (
                    "no frame has a WCS in its header, and enough sources, to begin with"
                )
            else:
                self._try(number, group)

    def _part(self, number: int) -> float:
        """Which part of a frame others cover, where it is expected."""
        return self._n_covered[number] / _POINTS**2

    def _settle(self, number: int) -> None:
        """Count what a frame covers that has got its place."""
        mosaic = self.mosaic
        self._waiting.discard(number)
        self.reasons.pop(number, None)
        frame = mosaic.frames[number]
        insort(self._in_time[frame.ccd], (float(np.nan_to_num(frame.mjd)), number))
        # Dense enough that no cell inside is missed.
        n_points = int(np.ceil(2.0 * np.radians(frame.half_diagonal) / (_DENSE * self._cell)))
        area = self._area(frame, mosaic.places[number].wcs, n_points)
        touched = set()
        for key in set(area) - self._covered:
            self._covered.add(key)
            for other, count in self._by_key.get(key, ()):
                self._n_covered[other] += count
                touched.add(other)
        for other in sorted(touched & self._waiting):
            waits = mosaic.frames[other]
            level = int(_LEVELS * self._part(other))
            entry = (-level, waits.header is None, -len(waits.tiers[0]), other)
            heapq.heappush(self._heap, entry)

    def _area(self, frame: Frame, wcs: TanSip | None, n_points: int) -> list[Key]:
        """Cells of space that so many points a side of a frame lie in."""
        ny, nx = frame.shape
        x, y = np.meshgrid(np.linspace(0, nx - 1, n_points), np.linspace(0, ny - 1, n_points))
        if wcs is not None:
            vectors = unit_vectors(*wcs.pixel_to_sky(x.ravel(), y.ravel()))
        elif np.isfinite(frame.pointing).all():
            degrees = frame.pixel_scale / 3600.0
            xi, eta = (x.ravel() - nx / 2) * degrees, (y.ravel() - ny / 2) * degrees
            vectors = unit_vectors(*inverse_gnomonic(xi, eta, *frame.pointing))
        else:
            return []
        return [(a, b, c) for a, b, c in np.floor(vectors / self._cell).astype(int).tolist()]

    # -- one frame --------------------------------------------------------------------------------

    def _try(self, number: int, group: int) -> None:
        mosaic, frame = self.mosaic, self.mosaic.frames[number]
        tried = self._expectations(number)
        stays = self._stays[number]
        found = self._find(number, tried, ~stays)
        if found is None and stays.any():
            found = self._find(number, tried, np.ones(len(frame), dtype=bool))
        if found is None:
            self.reasons[number] = (
                f"its {len(frame)} sources do not match the stars of other frames beyond chance"
                if len(frame) >= _LEAST
                else f"only {len(frame)} sources"
            )
            return
        fit = found.fit
        rms = float(np.sqrt(0.5 * np.mean(fit.dx[fit.used] ** 2 + fit.dy[fit.used] ** 2)))
        expected = float(np.sqrt(np.mean(fit.sigma[fit.used] ** 2))) / fit.wcs.pixel_scale / 1e3
        if rms > max(_MAX_RMS, 3.0 * expected):
            self.reasons[number] = f"its stars agree with those of other frames to {rms:.1f} pixels"
            return
        mosaic.put(number, fit.wcs, fit, self._group_of(fit.wcs, frame, group))
        self._settle(number)

    def _group_of(self, wcs: TanSip, frame: Frame, group: int) -> int:
        """The group of the frame that is nearest."""
        if group in {place.group for place in self.mosaic.places.values()}:
            return group
        (vector,) = unit_vectors(*wcs.pixel_to_sky(*np.array(frame.centre).reshape(2, 1)))
        places = list(self.mosaic.places.values())
        nearest = max(places, key=lambda place: float((place.vectors.mean(axis=0) * vector).sum()))
        return nearest.group

    def _find(self, number: int, tried: list[Expectation], kept: np.ndarray) -> Found | None:
        frame = self.mosaic.frames[number]
        if not tried or kept.sum() < _LEAST:
            return None
        vectors = unit_vectors(*np.array([expectation.sky for expectation in tried]).T)
        apart = 2.0 * np.arcsin(np.linalg.norm(vectors - vectors[0], axis=1).max() / 2.0)
        offset = max(expectation.search.offset for expectation in tried)
        reach = 1.1 * frame.half_diagonal + offset / 3600.0 + float(np.degrees(apart))
        both, _ = self.mosaic.references(number, tried[0].sky, reach)
        chosen = frame.only(kept)
        return find_wcs(
            both.among(np.flatnonzero(kept), slice(None)),
            list(chosen.tiers),
            tried,
            frame.shape,
            self.mosaic.options,
            self.mosaic.enough_stars,
        )

    def _expectations(self, number: int) -> list[Expectation]:
        """By the header; turned as the CCD's frame that is nearest in time; at any rotation."""
        frame = self.mosaic.frames[number]
        usual = expectations(
            frame.header, frame.pointing, frame.pixel_scale, self.search, frame.shape
        )
        like = self._nearest_in_time(frame)
        if like is None:
            return usual
        wcs = self.mosaic.places[like].wcs
        ra, dec = wcs.pixel_to_sky(*np.array(frame.centre).reshape(2, 1))
        sky = float(ra[0]), float(dec[0])
        at = frame.pointing if np.isfinite(frame.pointing).all() else sky
        beside = Expectation(at, wcs.jacobian(*frame.centre), self.search)
        blind = Search(self.search.offset, _BLIND, self.search.scale)
        if not usual:
            usual = [Expectation(at, frame.pixel_scale * np.eye(2), blind)]
        return [*usual[:-1], beside, usual[-1]]

    def _nearest_in_time(self, frame: Frame) -> int | None:
        placed = self._in_time.get(frame.ccd, [])
        time = float(np.nan_to_num(frame.mjd))
        after = bisect_left(placed, (time, -1))
        beside = placed[max(after - 1, 0) : after + 1]
        return min(beside, key=lambda one: abs(one[0] - time))[1] if beside else None


def _staying(frames: Sequence[Frame]) -> list[np.ndarray]:
    """Sources that may be hot pixels: a pattern of them would match itself."""
    masks = [np.zeros(len(frame), dtype=bool) for frame in frames]
    of_ccd: dict[str, list[int]] = defaultdict(list)
    for number, frame in enumerate(frames):
        of_ccd[frame.ccd].append(number)
    for numbers in of_ccd.values():
        positions = [np.stack([frames[n].x, frames[n].y], axis=1) for n in numbers]
        for number, mask in zip(numbers, stay_in_place(positions, _STAYS), strict=True):
            masks[number] = mask
    return masks
