"""Photometry of several programs on the same CCD-visits, beside each other and the truth.

A flux's zero point on a CCD-visit is the one that the lone stars of mag 17 to 19 there give, of
every program and every flux alike, so that neither photometric calibration nor aperture matters; a
flux that stars do not have takes the zero point of the program's PSF flux.
Detections are not judged near saturated pixels, trails and edges, the same places for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import _completeness
import _measured
import _truth
import numpy as np
from _completeness import EDGES, Detected, together
from _peers_photometry import Catalogue
from _truth import CcdTruth, spread

from mpipipe.data.mask import is_set
from mpipipe.data.photo_calib import MAG_PER_RELATIVE
from mpipipe.quality.report import Check, at_least, at_most
from mpipipe.stages.near import planes_near

OURS, SEXTRACTOR, USUAL = "ours", "SExtractor", "SExtractor, usual filter"
MODEL = "SExtractor, model fit"
STAR_FLUXES = {"psfFlux": "PSF", "ap1Flux": "aperture of 1 FWHM"}
GALAXY_FLUXES = {"kronFlux": "Kron", "petroFlux": "Petrosian", "discFlux": "disc with bulge"}
CALIBRATORS = (17.0, 19.0)
AT_20 = (15.0, 27.0)
"""SNR of stars that count as SNR 20."""
GALAXY_BINS = ((17.0, 19.0), (19.0, 20.0), (20.0, 21.0))
FEWEST = 8
"""Stars that a zero point is made of, and values that a figure is made of."""


@dataclass(frozen=True)
class Offsets:
    """Measured minus true magnitudes of sources, by one flux.

    Attributes
    ----------
    key
        CCD-visit and number of the true source, in one integer: the same for all programs.
    mag, snr
        True ones; the SNR is a point source's.
    off, error
        Magnitudes; NaN where there is no positive flux.
    """

    key: np.ndarray
    mag: np.ndarray
    snr: np.ndarray
    off: np.ndarray
    error: np.ndarray

    def where(self, chosen: np.ndarray) -> Offsets:
        """Some of them."""
        return Offsets(*(column[chosen] for column in vars(self).values()))

    def finite(self) -> Offsets:
        """Those with a magnitude."""
        return self.where(np.isfinite(self.off))

    def common(self, other: Offsets) -> Offsets:
        """Those whose source the other has, too."""
        return self.where(np.isin(self.key, other.key))

    def between(self, name: str, low: float, high: float) -> Offsets:
        """Those of this range in `mag` or `snr`."""
        values = getattr(self, name)
        return self.where((values > low) & (values < high))

    @classmethod
    def joined(cls, parts: Sequence[Offsets]) -> Offsets:
        """Several as one."""
        return cls(*(np.concatenate(column) for column in zip(*map(_columns, parts), strict=True)))


def _zero_point(stars: Offsets) -> float:
    """Median of bright stars; NaN of too few."""
    bright = stars.finite().between("mag", *CALIBRATORS)
    return float(np.median(bright.off)) if len(bright.off) >= FEWEST else float("nan")


def _columns(offsets: Offsets) -> tuple[np.ndarray, ...]:
    return tuple(vars(offsets).values())


@dataclass
class Photometry:
    """What one program reached: detections and offsets by flux, a part a CCD-visit.

    `curve` holds its detections at several thresholds, where it was run at several.
    """

    detected: list[Detected] = field(default_factory=list)
    curve: list[list[Detected]] = field(default_factory=list)
    stars: dict[str, list[Offsets]] = field(default_factory=dict)
    galaxies: dict[str, list[Offsets]] = field(default_factory=dict)
    detection_cpu: list[float] = field(default_factory=list)
    measurement_cpu: list[float] = field(default_factory=list)
    n_rows: list[int] = field(default_factory=list)

    def star(self, flux: str) -> Offsets:
        """All lone stars."""
        return Offsets.joined(self.stars[flux])

    def galaxy(self, flux: str) -> Offsets:
        """All galaxies."""
        return Offsets.joined(self.galaxies[flux])

    def milliseconds(self) -> float:
        """CPU time a source of the measurement; the median CCD-visit's."""
        each = zip(self.measurement_cpu, self.n_rows, strict=True)
        return median(1e3 * seconds / max(n, 1) for seconds, n in each)

    def per_megapixel(self) -> float:
        """CPU seconds of detection and measurement by area; the median CCD-visit's."""
        both = zip(self.detection_cpu, self.measurement_cpu, self.detected, strict=True)
        return median((one + two) / of.megapixels for one, two, of in both)

    def at_purity(self, purity: float) -> tuple[float, np.ndarray]:
        """Completeness where the curve has this purity, or the highest that it reaches."""
        points = [together(column) for column in zip(*self.curve, strict=True)]
        points.sort(key=lambda point: point.purity)
        pure = np.array([point.purity for point in points])
        share = np.array([point.completeness for point in points])
        level = min(max(purity, pure[0]), pure[-1])
        return level, np.array([np.interp(level, pure, column) for column in share.T])


class Judge:
    """One CCD-visit: truth, places that are not judged, and zero points."""

    def __init__(self, number: int, truth: CcdTruth, mask: np.ndarray) -> None:
        self.truth, self._mask, self._first = truth, mask, number * 1_000_000
        chosen = _truth.isolated_stars(truth, _truth.CALIBRATION, 0.05)
        self._stars = chosen[truth.sources["snr"][chosen] > 5]

    def add(self, score: Photometry, found: Catalogue) -> None:
        """Count a program's catalogue: detections, time, and whatever fluxes it has."""
        rows = found.rows
        score.detected.append(self.detected(rows))
        score.detection_cpu.append(found.detection)
        score.measurement_cpu.append(found.measurement)
        score.n_rows.append(len(rows))
        fluxes = [name for name in rows.dtype.names if name.endswith("Flux")]
        if fluxes:
            self._add_fluxes(score, rows, fluxes)

    def _add_fluxes(self, score: Photometry, rows: np.ndarray, fluxes: Sequence[str]) -> None:
        """Stars and galaxies, by each flux that enough stars give a zero point to."""
        measured, true = _truth.matched(
            rows["x"], rows["y"], self.truth, self._stars, 0.5 * self.truth.fwhm
        )
        pairs = _measured.galaxies(self.truth, rows)
        ids = self.truth.sources["id"]
        order = np.argsort(ids)
        number = order[np.searchsorted(ids, pairs.true["id"], sorter=order)]
        stars = {flux: self._offsets(rows[measured], true, flux) for flux in fluxes}
        zeros = {flux: _zero_point(offsets) for flux, offsets in stars.items()}
        for flux in fluxes:
            zero = zeros[flux] if np.isfinite(zeros[flux]) else zeros.get("psfFlux", np.nan)
            if not np.isfinite(zero):
                continue
            galaxies = self._offsets(pairs.rows, number, flux)
            for all_of, one in ((score.stars, stars[flux]), (score.galaxies, galaxies)):
                moved = Offsets(one.key, one.mag, one.snr, one.off - zero, one.error)
                all_of.setdefault(flux, []).append(moved)

    def detected(self, rows: np.ndarray) -> Detected:
        """Completeness of stars and purity, the same places left out for everybody."""
        x, y = rows["x"], rows["y"]
        ny, nx = self._mask.shape
        at_y = np.clip(np.rint(y), 0, ny - 1).astype(int)
        at_x = np.clip(np.rint(x), 0, nx - 1).astype(int)
        reach = 2.0 * self.truth.fwhm
        planes = planes_near(self._mask, at_y, at_x, reach)
        excused = is_set(planes, ("SAT", "STREAK", "DETECTED_STREAK", "EDGE"))
        place = np.stack([x, y], axis=1)
        excused |= _truth.near_spoiled(self.truth, place)
        excused |= (np.minimum(x, nx - 1 - x) < reach) | (np.minimum(y, ny - 1 - y) < reach)
        table = np.zeros(len(rows), [("x", "f8"), ("y", "f8"), ("flag_edge", "?")])
        table["x"], table["y"], table["flag_edge"] = x, y, excused
        truth, mask = self.truth, self._mask
        return _completeness.compare(
            table, truth.sources, mask, truth.spoiled, truth.fwhm, _truth.STAR
        )

    def _offsets(self, rows: np.ndarray, true: np.ndarray, flux: str) -> Offsets:
        sources = self.truth.sources[true]
        pairs = _measured.Magnitudes(rows, sources)
        with np.errstate(invalid="ignore", divide="ignore"):
            off, error = pairs.off(flux), pairs.error(flux)
        return Offsets(self._first + true, sources["mag"], sources["snr"], off, error)


# -- tables ----------------------------------------------------------------------------------------


def beyond_photons(stars: Offsets) -> float:
    """Scatter of bright stars that photons do not explain, mag; NaN of too few."""
    bright = stars.between("mag", *CALIBRATORS)
    if len(bright.off) < FEWEST:
        return float("nan")
    photon = float(np.median(MAG_PER_RELATIVE / bright.snr))
    return float(np.sqrt(max(spread(bright.off) ** 2 - photon**2, 0.0)))


def scatter_at_20(stars: Offsets) -> float:
    """Scatter at SNR 20 in units of photon noise; NaN of too few."""
    faint = stars.between("snr", *AT_20)
    if len(faint.off) < FEWEST:
        return float("nan")
    return float(spread(faint.off * faint.snr / MAG_PER_RELATIVE))


def rows_of(title: str, score: Photometry) -> list[Check]:
    """The lines of one program."""
    found = together(score.detected)
    checks = [Check(f"photometry, {title}: CCD-visits", len(score.detected))]
    checks += [
        Check(f"photometry, {title}: completeness, true SNR {low:g} to {high:g}", share)
        for low, high, share in zip(EDGES, EDGES[1:], found.completeness, strict=False)
    ]
    checks.append(Check(f"photometry, {title}: purity", found.purity))
    for flux, name in STAR_FLUXES.items():
        if flux in score.stars:
            checks += _star_rows(f"photometry, {title}, {name}", score.star(flux).finite())
    for flux, name in GALAXY_FLUXES.items():
        if flux in score.galaxies:
            checks += _galaxy_rows(f"photometry, {title}, {name}", score.galaxy(flux))
    if score.stars:
        name = f"photometry, {title}: all its fluxes, CPU ms a source"
        checks.append(Check(name, score.milliseconds()))
    name = f"photometry, {title}: detection and fluxes, CPU s/Mpixel"
    return [*checks, Check(name, score.per_megapixel())]


def _star_rows(title: str, stars: Offsets) -> list[Check]:
    bright, faint = stars.between("mag", *CALIBRATORS), stars.between("snr", *AT_20)
    return [
        Check(f"{title}: lone stars, mag 17-19", len(bright.off)),
        Check(f"{title}: mag 17-19, scatter beyond photons, mmag", 1e3 * beyond_photons(stars)),
        Check(f"{title}: mag 17-19, error / quoted error", spread(bright.off / bright.error)),
        Check(f"{title}: lone stars, SNR 20", len(faint.off)),
        Check(f"{title}: SNR 20, bias, mmag", 1e3 * _middle(faint.off)),
        Check(f"{title}: SNR 20, scatter / photon noise", scatter_at_20(stars)),
        Check(f"{title}: SNR 20, error / quoted error", spread(faint.off / faint.error)),
    ]


def _galaxy_rows(title: str, galaxies: Offsets) -> list[Check]:
    checks = []
    for low, high in GALAXY_BINS:
        every = galaxies.between("mag", low, high)
        some = every.finite()
        name = f"{title}: galaxies of mag {low:g}-{high:g}"
        checks += [
            Check(f"{name}, number", len(every.off)),
            Check(f"{name}, bias, mmag", 1e3 * _middle(some.off)),
            Check(f"{name}, scatter, mmag", 1e3 * spread(some.off)),
        ]
    return checks


def _middle(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def targets(scores: Mapping[str, Photometry], fast: Sequence[tuple[float, float]]) -> list[Check]:
    """Ours against SExtractor: time and scatter of PSF fluxes, completeness where as pure.

    Parameters
    ----------
    fast
        CPU milliseconds a source for positions, PSF fluxes and those in the same five circles, by
        CCD-visit: ours and SExtractor's (FLUX_PSF).
    """
    ours = scores[OURS]
    mine_ms, its_ms = (median(column) for column in zip(*fast, strict=True))
    name = "PSF fluxes and circles alone, CPU ms a source"
    checks = [
        Check(f"photometry, ours: {name}", mine_ms),
        Check(f"photometry, {SEXTRACTOR}: {name}", its_ms),
    ]
    for title in (SEXTRACTOR, MODEL):
        theirs = scores[title]
        name = f"photometry: CPU time a source, {title} / our PSF and aperture fluxes"
        time = its_ms if title == SEXTRACTOR else theirs.milliseconds()
        checks.append(at_least(name, time / mine_ms, 10.0))
        mine, its = ours.star("psfFlux").finite(), theirs.star("psfFlux").finite()
        mine, its = mine.common(its), its.common(mine)
        apart = 1e3 * (beyond_photons(mine) - beyond_photons(its))
        name = f"photometry: PSF, mag 17-19, scatter beyond photons, ours - {title}, mmag"
        checks.append(at_most(name, apart, 0.0))
        name = f"photometry: PSF, SNR 20, scatter, ours / {title}"
        checks.append(at_most(name, scatter_at_20(mine) / scatter_at_20(its), 1.0))
    for title in (SEXTRACTOR, USUAL):
        checks += _at_equal_purity(title, ours, scores[title])
    return checks


def _at_equal_purity(title: str, ours: Photometry, other: Photometry) -> list[Check]:
    """Completeness by SNR, the other at the threshold that makes it as pure as ours."""
    mine = together(ours.detected)
    purity, theirs = other.at_purity(mine.purity)
    checks = [Check(f"photometry: purity, {title}, where compared with ours", purity)]
    for k, (low, high) in enumerate(zip(EDGES, EDGES[1:-1], strict=False)):
        name = f"photometry: completeness, true SNR {low:g} to {high:g}, ours - {title}"
        checks.append(at_least(name, float(mine.completeness[k] - theirs[k]), 0.0))
    return checks
