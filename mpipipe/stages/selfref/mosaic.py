"""Which frames have a place on the sky, and which of their sources is which star."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpipipe.data.sky_vectors import unit_vectors
from mpipipe.data.tan_sip import TanSip
from mpipipe.stages.ic.wcs_fit import FitOptions, Stars, WcsFit, match_radius, solve_wcs
from mpipipe.stages.selfref.frame import Frame
from mpipipe.stages.selfref.sky_stars import SkyStars

_FLOOR_PIXELS = 0.01
"""Least error of a coordinate beyond that of the centroid, pixels."""
_MARGIN = 1.05
"""Stars are looked for this much farther than a frame's corners."""
_HEADER_RADIUS = 3.0
"""Within which sources belong together by a header's WCS that nothing has tested, pixels."""


@dataclass(eq=False)
class Place:
    """Where a frame is.

    Attributes
    ----------
    group
        Frames of one group agree with each other.
    wcs
        Its solution.
    fit
        The fit that gave it; None of the first frame of a group until it is refined.
    radius
        Within which sources and stars belong together, pixels.
    offset
        Rough zero point, mag.
    star
        (n,) number of the star that each source is.
    vectors, error
        (n, 3) unit vectors of its sources by the solution, and standard errors an axis in mas.
    """

    group: int
    wcs: TanSip
    fit: WcsFit | None
    radius: float
    offset: float
    star: np.ndarray
    vectors: np.ndarray
    error: np.ndarray


class Mosaic:
    """Frames with and without a place, and the stars that they show.

    Parameters
    ----------
    frames
        In any order, which the result follows.
    options
        Of the fits.
    enough_stars
        Fainter sources are added until a fit uses so many.

    Attributes
    ----------
    places
        Number of the frame to its place, in the order in which they were found.
    stars
        All stars.
    """

    def __init__(self, frames: Sequence[Frame], options: FitOptions, enough_stars: int) -> None:
        self.frames = list(frames)
        self.options = options
        self.enough_stars = enough_stars
        self.places: dict[int, Place] = {}
        cell = max((frame.half_diagonal for frame in frames), default=1.0)
        self.stars = SkyStars(cell)

    def references(
        self, number: int, sky: tuple[float, float], reach: float
    ) -> tuple[Stars, np.ndarray]:
        """A frame's sources and the stars around a place, to bring them together.

        Parameters
        ----------
        sky
            Degrees.
        reach
            Degrees.

        Returns
        -------
        Stars
            Both brightest first.
        numpy.ndarray
            Numbers of the stars.
        """
        near = self.stars.near(unit_vectors(*sky), reach)
        near = near[np.argsort(self.stars.magnitudes(near), kind="stable")]
        frame = self.frames[number]
        ra, dec, error = self.stars.places(near)
        rows = np.arange(len(frame))
        return Stars(frame.x, frame.y, frame.error, ra, dec, error, rows, near), near

    def around(self, number: int, wcs: TanSip) -> tuple[Stars, np.ndarray]:
        """The same by a solution."""
        frame = self.frames[number]
        sky = wcs.pixel_to_sky(*np.array(frame.centre).reshape(2, 1))
        reach = _MARGIN * float(np.hypot(*frame.shape)) * wcs.pixel_scale / 7200.0
        return self.references(number, (float(sky[0][0]), float(sky[1][0])), reach)

    def put(self, number: int, wcs: TanSip, fit: WcsFit | None, group: int) -> None:
        """Give a frame a place: its sources become detections of stars, or new stars."""
        frame = self.frames[number]
        before = self.places.get(number)
        radius = _HEADER_RADIUS if fit is None else match_radius(fit)
        both, near = self.around(number, wcs)
        source, reference = both.near(wcs, radius)
        star = np.full(len(frame), -1, dtype=np.int64)
        star[source] = near[reference]
        vectors = unit_vectors(*wcs.pixel_to_sky(frame.x, frame.y))
        scatter = 0.0 if fit is None else fit.scatter
        floor = np.hypot(frame.error, _FLOOR_PIXELS) * wcs.pixel_scale * 1e3
        error = np.hypot(floor, scatter)
        if before is None:
            apart = self.stars.magnitudes(star[source]) - frame.magnitude[source]
            apart = apart[np.isfinite(apart)]
            offset = float(np.median(apart)) if len(apart) else 0.0
        else:
            offset = before.offset
        if before is not None:
            # A star that only this frame shows keeps its number.
            alone = (star < 0) & (self.stars.members[before.star] == 0)
            star[alone] = before.star[alone]
        new = np.flatnonzero(star < 0)
        star[new] = self.stars.add(len(new), vectors[new])
        self.stars.put(star, vectors, error, frame.magnitude + offset)
        self.places[number] = Place(group, wcs, fit, radius, offset, star, vectors, error)

    def refine(self, number: int) -> None:
        """Fit a frame anew to what all others say about its stars."""
        place = self.places[number]
        self._take(number)
        fit, wcs = self._refit(number, place)
        self.put(number, wcs, fit, place.group)

    def _take(self, number: int) -> None:
        """Take a frame's detections away from its stars."""
        place, frame = self.places[number], self.frames[number]
        magnitude = frame.magnitude + place.offset
        self.stars.put(place.star, place.vectors, place.error, magnitude, sign=-1)

    def _refit(self, number: int, place: Place) -> tuple[WcsFit | None, TanSip]:
        frame = self.frames[number]
        both, _ = self.around(number, place.wcs)
        fit = None
        for tier in frame.tiers:
            more = solve_wcs(
                both.among(tier, slice(None)), place.wcs, frame.shape, place.radius, self.options,
                is_coarse=False,
            )  # fmt: skip
            if more is not None and (fit is None or more.error < fit.error):
                fit = more
            if fit is not None and fit.used.sum() >= self.enough_stars:
                break
        return (place.fit, place.wcs) if fit is None else (fit, fit.wcs)

    def drop(self, number: int, dropped: np.ndarray) -> None:
        """Forget some of a frame's sources, a mask."""
        if not dropped.any():
            return
        kept = ~dropped
        if (place := self.places.get(number)) is not None:
            self._take(number)
            place.star = place.star[kept]
            place.vectors, place.error = place.vectors[kept], place.error[kept]
        self.frames[number] = self.frames[number].only(kept)
        if place is not None:
            magnitude = self.frames[number].magnitude + place.offset
            self.stars.put(place.star, place.vectors, place.error, magnitude)

    def join(self, radius: float) -> None:
        """Make one star of two that are close and that no frame shows apart.

        Such pairs come from frames whose first solutions were rough.

        Parameters
        ----------
        radius
            Degrees.
        """
        from scipy.spatial import cKDTree

        alive = np.flatnonzero(self.stars.members > 0)
        tree = cKDTree(self.stars.vectors[alive])
        pairs = alive[tree.query_pairs(np.radians(radius), output_type="ndarray")]
        if not len(pairs):
            return
        pairs.sort(axis=1)
        apart = self.stars.vectors[pairs[:, 0]] - self.stars.vectors[pairs[:, 1]]
        pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0], (apart**2).sum(axis=1)))]
        seen_in: dict[int, set[int]] = {int(star): set() for star in pairs.ravel()}
        for number, place in self.places.items():
            for star in place.star[np.isin(place.star, pairs)].tolist():
                seen_in[star].add(number)
        root = {star: star for star in seen_in}
        for pair in pairs.tolist():
            first, second = sorted(_find(root, star) for star in pair)
            if first != second and not seen_in[first] & seen_in[second]:
                seen_in[first] |= seen_in[second]
                root[second] = first
        renamed = np.arange(len(self.stars))
        for star in root:
            renamed[star] = _find(root, star)
        self._rename(renamed)

    def _rename(self, renamed: np.ndarray) -> None:
        for number, place in self.places.items():
            if np.any(renamed[place.star] != place.star):
                self._take(number)
                place.star = renamed[place.star]
                magnitude = self.frames[number].magnitude + place.offset
                self.stars.put(place.star, place.vectors, place.error, magnitude)


def _find(root: dict[int, int], star: int) -> int:
    """What a star has become."""
    while root[star] != star:
        root[star] = star = root[root[star]]
    return star
