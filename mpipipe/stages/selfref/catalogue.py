"""From placed frames to reference stars with errors, and how each frame agrees with them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpipipe.data.refcat import reference_rows
from mpipipe.data.sky_vectors import sky_of
from mpipipe.stages.ic.wcs_determination import WcsDeterminationConfig
from mpipipe.stages.selfref.detections import Detections, Means
from mpipipe.stages.selfref.fixed import belong_to_detector
from mpipipe.stages.selfref.frame import Frame
from mpipipe.stages.selfref.headers import (
    group_of_stars,
    header_offset,
    towards_headers,
    turned,
)
from mpipipe.stages.selfref.magnitudes import ZERO, Photometry, relative_photometry
from mpipipe.stages.selfref.mosaic import Mosaic
from mpipipe.stages.selfref.placing import place_all

_ROUNDS = 4
_JOIN_RADIUS = 1.5
"""Within which two stars that no frame shows apart are one, pixels."""
_STAYS = 0.2
"""Share of a CCD's frames that must show what belongs to the detector."""
_RARELY = 0.2
"""A star that fewer of the frames show than this, of those that should, is none."""
_FEW_COVER = 2
"""Stars that are seen once stay if so many frames cover them, at most."""
_SURELY, _MAYBE = -0.2, 0.5
"""A frame must, or might, show stars this much fainter than its own faint ones, mag."""
_FAINT_SHARE = 0.95
"""Which of its sources, in the order of brightness, stands for the faint ones."""
_MARGIN = 20.0
"""Stars so near to an edge of a frame need not be seen by it, pixels."""
_SATURATED_ERROR = 0.5
"""Error of a magnitude that only spoilt detections tell, mag."""


@dataclass(frozen=True)
class FrameReport:
    """How a frame agrees with the catalogue.

    Attributes
    ----------
    visit, ccd, band
        Which frame.
    group
        Number of the group it was placed in; None if it has no place.
    reason
        Why it has none.
    order
        Degree of its solution; 0 if it is the header's.
    n_stars
        Stars of the catalogue among its sources that other frames show, too.
    rms
        Of those brighter than SNR 50 about their means in other frames, pixels an axis.
    header_offset
        By which its header was off at the CCD's centre, arcsec; NaN without.
    zero_point, zero_point_error
        Magnitude of a source of one electron in the whole visit; NaN without.
    extinction, seconds
        How much less a second's light is than in the clearest frame, mag; exposure time.
    """

    visit: int
    ccd: str
    band: str
    mjd: float
    group: int | None
    reason: str
    order: int
    n_stars: int
    rms: float
    header_offset: float
    zero_point: float
    zero_point_error: float
    extinction: float
    seconds: float


@dataclass(frozen=True, eq=False)
class FramesCatalogue:
    """A reference catalogue made from frames.

    Attributes
    ----------
    rows
        Of `mpipipe.data.refcat.reference_schema(bands)`.
    bands
        Sorted by name.
    frames
        A report on each frame, in the order in which they were given.
    n_groups
        Groups of frames; each has its own mean offset from the sky.
    n_parts
        Of each band: parts of frames with a zero of their own.
    n_left_out
        Stars that were not believed.
    n_on_detector
        Detections that belong to the detector.
    rms
        Of all detections brighter than SNR 50 about the means of their stars' other detections,
        pixels an axis.
    """

    rows: np.ndarray
    bands: tuple[str, ...]
    frames: tuple[FrameReport, ...]
    n_groups: int
    n_parts: dict[str, int]
    n_left_out: int
    n_on_detector: int
    rms: float

    @property
    def n_lost(self) -> int:
        """Frames without a place."""
        return sum(report.group is None for report in self.frames)


def catalogue_of(frames: Sequence[Frame], options: WcsDeterminationConfig) -> FramesCatalogue:
    """Make a catalogue of the stars that frames show.

    The same frames in the same order give the same catalogue.

    Parameters
    ----------
    frames
        Any number, of any CCDs and bands.
    options
        How wrong headers may be, and how solutions are fitted.
    """
    mosaic = Mosaic(frames, options.fit, options.enough_stars)
    reasons = place_all(mosaic, options.search)
    n_on_detector = _refine(mosaic)
    found = Detections.of(mosaic)
    bands = tuple(sorted({frame.band for frame in frames}))
    photometry = {band: _photometry(mosaic, found, band) for band in bands}
    means = Means.of(found, len(mosaic.stars))
    turns = towards_headers(mosaic)
    believed = _believed(mosaic, found, photometry)
    vectors = turned(means.vectors, turns, group_of_stars(mosaic))
    return FramesCatalogue(
        _rows(means, vectors, photometry, believed),
        bands,
        _reports(mosaic, reasons, found, means, turns, photometry),
        len({place.group for place in mosaic.places.values()}),
        {band: int(one.part.max(initial=-1)) + 1 for band, one in photometry.items()},
        int(np.count_nonzero(means.n > 0) - np.count_nonzero(believed)),
        n_on_detector,
        _rms(means.off[found.is_bright & (means.n[found.star] > 2)]),
    )


def _refine(mosaic: Mosaic) -> int:
    """Bring all frames together; the number of detections that belong to the detector."""
    n_dropped = 0
    for turn in range(_ROUNDS):
        for number in mosaic.places:
            mosaic.refine(number)
        scale = [place.wcs.pixel_scale for place in mosaic.places.values()]
        if scale:
            mosaic.join(_JOIN_RADIUS * float(np.median(scale)) / 3600.0)
        if turn == 0:
            n_dropped = _drop_detectors_own(mosaic)
    return n_dropped


def _drop_detectors_own(mosaic: Mosaic) -> int:
    of_ccd: dict[str, list[int]] = defaultdict(list)
    for number in sorted(mosaic.places):
        of_ccd[mosaic.frames[number].ccd].append(number)
    n_dropped = 0
    for numbers in of_ccd.values():
        frames = [mosaic.frames[number] for number in numbers]
        positions = [np.stack([frame.x, frame.y], axis=1) for frame in frames]
        stars = [mosaic.places[number].star for number in numbers]
        masks = belong_to_detector(positions, stars, _STAYS)
        for number, mask in zip(numbers, masks, strict=True):
            mosaic.drop(number, mask)
            n_dropped += int(mask.sum())
    return n_dropped


def _photometry(mosaic: Mosaic, found: Detections, band: str) -> Photometry:
    """Zero points and magnitudes of one band; stars without a clean detection get their others'."""
    in_band = np.array([frame.band == band for frame in mosaic.frames])
    known = np.isfinite(found.magnitude) & np.isfinite(found.magnitude_error)
    here = in_band[found.frame] & known
    used = here & found.is_clean
    solved = relative_photometry(
        found.star[used],
        found.frame[used],
        found.magnitude[used],
        found.magnitude_error[used],
        np.array([frame.seconds for frame in mosaic.frames]),
        len(mosaic.stars),
    )
    rough = here & ~found.is_clean & np.isnan(solved.magnitude[found.star])
    rough &= np.isfinite(solved.zero_point[found.frame])
    star = found.star[rough]
    placed = found.magnitude[rough] + solved.zero_point[found.frame[rough]]
    n = np.bincount(star, minlength=len(mosaic.stars))
    total = np.bincount(star, placed, len(mosaic.stars))
    solved.magnitude[n > 0] = total[n > 0] / n[n > 0]
    solved.magnitude_error[n > 0] = _SATURATED_ERROR
    return solved


def _believed(mosaic: Mosaic, found: Detections, photometry: dict[str, Photometry]) -> np.ndarray:
    """Which stars are seen as often as they should be."""
    n_stars = len(mosaic.stars)
    n_seen = np.bincount(found.star, minlength=n_stars)
    n_missed, n_looked = np.zeros((2, n_stars), dtype=np.int64)
    for number, place in mosaic.places.items():
        frame = mosaic.frames[number]
        both, near = mosaic.around(number, place.wcs)
        x, y = place.wcs.sky_to_pixel(both.ra, both.dec)
        ny, nx = frame.shape
        inside = (x > _MARGIN) & (y > _MARGIN) & (x < nx - _MARGIN) & (y < ny - _MARGIN)
        solved = photometry[frame.band]
        expected = solved.magnitude[near] - solved.zero_point[number]
        known = frame.magnitude[np.isfinite(frame.magnitude)]
        limit = float(np.quantile(known, _FAINT_SHARE)) if len(known) else -np.inf
        is_missed = inside & ~np.isin(near, place.star)
        n_missed[near[is_missed & (expected < limit + _SURELY)]] += 1
        n_looked[near[is_missed & (expected < limit + _MAYBE)]] += 1
    once = (n_seen == 1) & (n_looked < _FEW_COVER)
    return np.asarray(once | ((n_seen > 1) & (n_seen >= _RARELY * (n_seen + n_missed))))


def _rows(
    means: Means,
    vectors: np.ndarray,
    photometry: dict[str, Photometry],
    believed: np.ndarray,
) -> np.ndarray:
    """Rows of the catalogue, numbered in the order of right ascension."""
    ra, dec = sky_of(vectors)
    chosen = np.flatnonzero(believed)
    chosen = chosen[np.lexsort((dec[chosen], ra[chosen]))]
    columns = {
        "id": np.arange(1, len(chosen) + 1),
        "ra": ra[chosen],
        "dec": dec[chosen],
        "ra_error": means.error[chosen, 0],
        "dec_error": means.error[chosen, 1],
        "epoch": np.where(means.epoch[chosen] > 0.0, means.epoch[chosen], np.nan),
    }
    for band, solved in photometry.items():
        columns[f"mag_{band}"] = solved.magnitude[chosen]
        columns[f"mag_{band}_error"] = solved.magnitude_error[chosen]
    return reference_rows(columns, tuple(photometry))


def _reports(
    mosaic: Mosaic,
    reasons: dict[int, str],
    found: Detections,
    means: Means,
    turns: dict[int, np.ndarray],
    photometry: dict[str, Photometry],
) -> tuple[FrameReport, ...]:
    counts = found.is_bright & (means.n[found.star] > 2)
    reports = []
    for number, frame in enumerate(mosaic.frames):
        place, solved = mosaic.places.get(number), photometry[frame.band]
        here = found.frame == number
        zero_point = float(solved.zero_point[number])
        duration = frame.seconds if frame.seconds > 0.0 else 1.0
        reports.append(
            FrameReport(
                frame.visit,
                frame.ccd,
                frame.band,
                frame.mjd,
                None if place is None else place.group,
                reasons.get(number, ""),
                0 if place is None or place.fit is None else place.fit.order,
                int(np.count_nonzero(means.n[found.star[here]] > 1)),
                _rms(means.off[here & counts]),
                float("nan") if place is None else header_offset(frame, place, turns),
                zero_point,
                float(solved.zero_point_error[number]),
                ZERO + 2.5 * float(np.log10(duration)) - zero_point,
                frame.seconds,
            )
        )
    return tuple(reports)


def _rms(values: np.ndarray) -> float:
    """Root mean square; NaN of nothing."""
    return float(np.sqrt(np.mean(values**2))) if len(values) else float("nan")
