"""AM1 to AM3, AF1 to AF3, AB1 and ABF1: how distances of stars repeat."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mpipipe.data.sky_vectors import unit_vectors
from mpipipe.quality.scorecard.ccds import of_rows
from mpipipe.quality.scorecard.measured import Measured, NotMeasurable, srd
from mpipipe.quality.scorecard.metric import metric
from mpipipe.quality.scorecard.neighbours import Places
from mpipipe.quality.scorecard.repeats import Repeats
from mpipipe.quality.scorecard.run_data import RunData, band_order
from mpipipe.quality.scorecard.statistics import beyond, estimate, estimates, width

BRIGHT = 100.0
"""Least typical SNR of the stars."""
ANNULI = {"1": (4.0, 6.0), "2": (19.0, 21.0), "3": (199.0, 201.0)}
"""Distances of pairs of AM1, AM2, AM3, arcmin."""
REACH = {"1": "5 arcmin", "2": "20 arcmin", "3": "200 arcmin"}
LEAST_PAIRS = 10
"""Below which nothing is said."""
MOST_FIRST, MOST_SECOND = 400, 25
"""Stars that pairs begin at, and stars that each is paired with."""


class Pairs(NamedTuple):
    """Distances of pairs of stars, a row for every visit that both are measured in.

    Attributes
    ----------
    first, second
        Places in the repeats' sources.
    pair
        Number of the pair.
    distance
        Measured minus expected distance, mas.
    """

    first: np.ndarray
    second: np.ndarray
    pair: np.ndarray
    distance: np.ndarray


def chosen_stars(found: Repeats) -> np.ndarray:
    """Which sources distances are made of."""
    fine = found.is_star & found.is_sound & (found.snr >= BRIGHT)
    return np.asarray(fine & np.isfinite(found.offsets).all(axis=1))


def pairs_of_stars(
    ra: np.ndarray, dec: np.ndarray, near: float, far: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs at distances between two, arcmin; of many stars some, evenly.

    Returns
    -------
    first, second
        Numbers of the stars.
    directions
        (n, 2, 2) along the great circle from the first to the second, east and north: at the
        first, at the second. They differ as far apart, or near a pole, as north does.
    """
    a, d = np.radians(ra), np.radians(dec)
    vectors = unit_vectors(ra, dec)
    places = Places(vectors)
    chords = 2.0 * np.sin(np.radians(np.array([near, far]) / 60.0) / 2.0)
    begin = np.unique(np.linspace(0, len(ra) - 1, min(len(ra), MOST_FIRST)).astype(int))
    first, second = [np.zeros(0, int)], [np.zeros(0, int)]
    for one in begin.tolist():
        around = places.around(one, chords[0], chords[1])
        around = around[around > one]
        if len(around) > MOST_SECOND:
            around = around[np.linspace(0, len(around) - 1, MOST_SECOND).astype(int)]
        first.append(np.full(len(around), one))
        second.append(around)
    i, j = np.concatenate(first), np.concatenate(second)
    east = np.stack([-np.sin(a), np.cos(a), np.zeros(len(a))], axis=1)
    north = np.stack([-np.sin(d) * np.cos(a), -np.sin(d) * np.sin(a), np.cos(d)], axis=1)
    step = vectors[j] - vectors[i]
    directions = np.stack(
        [
            np.stack([(step * east[at]).sum(axis=1), (step * north[at]).sum(axis=1)], axis=1)
            for at in (i, j)
        ],
        axis=1,
    )
    return i, j, directions / np.linalg.norm(directions, axis=2)[:, :, None]


def distances(found: Repeats, rows: np.ndarray, offsets: np.ndarray, which: str) -> Pairs:
    """Deviations of distances, in every visit that both stars are measured in.

    Parameters
    ----------
    rows
        Places of sources of stars, by object and visit, one a visit.
    offsets
        (len(rows), 2) of each from where it is expected, mas.
    which
        Of `ANNULI`.
    """
    objects, inverse = np.unique(found.owner[rows], return_inverse=True)
    if len(objects) < 2:
        nobody = np.zeros(0, int)
        return Pairs(nobody, nobody, nobody, np.zeros(0))
    ra, dec = found.objects["ra"][objects], found.objects["dec"][objects]
    i, j, directions = pairs_of_stars(ra, dec, *ANNULI[which])
    starts = np.searchsorted(inverse, np.arange(len(objects) + 1))
    counts = np.diff(starts)[i]
    pair = np.repeat(np.arange(len(i)), counts)
    step = np.arange(len(pair)) - np.repeat(np.cumsum(counts) - counts, counts)
    one = starts[i][pair] + step
    visits, visit = np.unique(found.sources["visit"][rows], return_inverse=True)
    keys = inverse * len(visits) + visit
    wanted = j[pair] * len(visits) + visit[one]
    two = np.clip(np.searchsorted(keys, wanted), 0, len(keys) - 1)
    both = keys[two] == wanted
    one, two, pair = one[both], two[both], pair[both]
    at_one, at_two = directions[pair].transpose(1, 0, 2)
    distance = (offsets[two] * at_two - offsets[one] * at_one).sum(axis=1)
    return Pairs(rows[one], rows[two], pair, distance)


def about_mean(pairs: Pairs) -> Pairs:
    """Distances about the mean of their pair, of pairs seen twice or more; times the root of
    n / (n - 1)."""
    if not len(pairs.pair):
        return pairs
    counts = np.bincount(pairs.pair)
    means = np.bincount(pairs.pair, pairs.distance) / np.maximum(counts, 1)
    n = counts[pairs.pair]
    several = n >= 2
    scale = np.sqrt(n[several] / (n[several] - 1.0))
    about = (pairs.distance - means[pairs.pair])[several] * scale
    first, second, pair = (part[several] for part in pairs[:3])
    return Pairs(first, second, pair, about)


def _stars(data: RunData, pairs: Pairs) -> np.ndarray:
    """(n, 2) objects that distances are of: they are shared among pairs."""
    owner = data.repeats.owner
    return np.stack([owner[pairs.first], owner[pairs.second]], axis=1)


def _pairs(data: RunData, which: str, band: str) -> Pairs:
    """Pairs of a band about their means.

    Raises
    ------
    NotMeasurable
        If they are fewer than `LEAST_PAIRS`.
    """
    span = data.remember(("span",), lambda: _span(data))
    if span < ANNULI[which][0]:
        raise NotMeasurable(f"no stars are {REACH[which]} apart: the field spans {span:.1f} arcmin")

    def make() -> Pairs:
        found = data.repeats
        rows = np.flatnonzero(chosen_stars(found) & found.in_band(band))
        rows = rows[np.lexsort((found.sources["visit"][rows], found.owner[rows]))]
        return about_mean(distances(found, rows, found.offsets[rows], which))

    found = data.remember(("pairs", which, band), make)
    n = len(np.unique(found.pair))
    if n < LEAST_PAIRS:
        raise NotMeasurable(
            f"{n} pairs of bright stars {REACH[which]} apart were measured in two visits of the "
            f"band, {LEAST_PAIRS} are needed"
        )
    return found


def _span(data: RunData) -> float:
    """Diagonal of the field of all stars, arcmin."""
    found = data.repeats
    known = np.unique(found.owner[chosen_stars(found)])
    if len(known) < 2:
        raise NotMeasurable("fewer than 2 bright stars have positions")
    ra, dec = found.objects["ra"][known], found.objects["dec"][known]
    ra = (ra - ra[0] + 180.0) % 360.0
    return float(60.0 * np.hypot(np.ptp(ra) * np.cos(np.radians(dec.mean())), np.ptp(dec)))


@metric("AM", "repeatability of distances", "astrometry")
def am(data: RunData) -> Iterator[Measured]:
    """AM1, AM2, AM3: width of the distribution of distances of pairs of bright stars (typical SNR
    100 or more, lone and whole) about the mean distance of the pair, over the visits of the band.
    Pairs are 4 to 6, 19 to 21, 199 to 201 arcmin apart; up to 400 stars are paired with up to 25
    each. Proper motions are taken off, and refraction by the stars' colours. Residuals are
    multiplied by the root of n / (n - 1), the width is the distance of the quartiles over 1.349.
    Intervals are over stars, of which pairs share both of theirs with other pairs. The SRD asks the
    same in all bands."""
    for which, limits in (("1", (5, 10, 20)), ("2", (5, 10, 20)), ("3", (10, 15, 30))):
        for band in data.bands:
            key, title = f"AM{which}.{band}", f"AM{which} distances at {REACH[which]}, {band}"
            try:
                found = _pairs(data, which, band)
            except NotMeasurable as reason:
                yield Measured(key, title, why=str(reason))
                continue
            units = _stars(data, found)
            yield Measured(
                key, title, *estimate(width, found.distance, units, key), unit="mas",
                n=len(np.unique(found.pair)), of="pairs", requirement=srd(*map(float, limits)),
                note=f"{len(found.pair):,} distances",
                ccds=of_rows(data, found.first, found.distance, width),
            )  # fmt: skip


@metric("AF", "outliers among distances", "astrometry")
def af(data: RunData) -> Iterator[Measured]:
    """AF1, AF2, AF3: share of the deviations of AM1, AM2, AM3 beyond AD1, AD2, AD3. Design: 10 %
    beyond 20 (AF3: 30) mas, which is the number shown; minimum: 20 % beyond 40 (50); stretch: 5 %
    beyond 10 (20)."""
    for which in ANNULI:
        near, design, far = (20.0, 30.0, 50.0) if which == "3" else (10.0, 20.0, 40.0)
        for band in data.bands:
            key, title = f"AF{which}.{band}", f"AF{which} outliers at {REACH[which]}, {band}"
            try:
                found = _pairs(data, which, band)
            except NotMeasurable as reason:
                yield Measured(key, title, why=str(reason))
                continue
            units = _stars(data, found)
            limits = [beyond(limit) for limit in (near, design, far)]
            found_levels = estimates(limits, found.distance, units, key)
            levels = dict(zip(("stretch", "design", "minimum"), found_levels, strict=True))
            yield Measured(
                key, title, *levels["design"], unit="%", n=len(np.unique(found.pair)), of="pairs",
                requirement=srd(5.0, 10.0, 20.0), levels=levels,
                note=f"beyond {design:g} mas",
                ccds=of_rows(data, found.first, found.distance, beyond(design)),
            )  # fmt: skip


@metric("AB", "distances from band to band", "astrometry")
def ab(data: RunData) -> Iterator[Measured]:
    """AB1 and ABF1: width of the distribution of distances of pairs of bright stars 4 to 6 arcmin
    apart in single visits of a band, about the distance that the means of both stars have in the
    reference band: r, or where there is none the band with most measurements. ABF1 is the share
    beyond AB2: 20 mas at design, which is shown; minimum 20 % beyond 40, stretch 5 % beyond 10."""
    found = data.repeats
    fine = chosen_stars(found)
    counts = {band: int((fine & found.in_band(band)).sum()) for band in data.bands}
    known = [band for band, n in counts.items() if n]
    if len(known) < 2:
        raise NotMeasurable("bright stars were measured in fewer than two bands")
    reference = "r" if "r" in known else max(known, key=lambda band: counts[band])
    means = _mean_offsets(found, fine & found.in_band(reference))
    for band in sorted(set(known) - {reference}, key=band_order):
        rows = np.flatnonzero(fine & found.in_band(band))
        offsets = found.offsets[rows] - means[found.owner[rows]]
        rows, offsets = rows[np.isfinite(offsets[:, 0])], offsets[np.isfinite(offsets[:, 0])]
        order = np.lexsort((found.sources["visit"][rows], found.owner[rows]))
        pairs = distances(found, rows[order], offsets[order], "1")
        for name, title in (("AB1", "AB1 distances"), ("ABF1", "ABF1 outliers")):
            key, words = f"{name}.{band}", f"{title}, {band} against {reference}"
            n = len(np.unique(pairs.pair))
            if n < LEAST_PAIRS:
                why = f"{n} pairs of bright stars are in {band} and {reference}"
                yield Measured(key, words, why=f"{why}, {LEAST_PAIRS} are needed")
                continue
            yield _between_bands(data, pairs, key, words)


def _between_bands(data: RunData, pairs: Pairs, key: str, title: str) -> Measured:
    units = _stars(data, pairs)
    is_width = key.startswith("AB1")
    statistic = width if is_width else beyond(20.0)
    limits = {} if is_width else {"stretch": 10.0, "design": 20.0, "minimum": 40.0}
    beyond_limits = [beyond(limit) for limit in limits.values()]
    found = estimates(beyond_limits, pairs.distance, units, key) if limits else []
    levels = dict(zip(limits, found, strict=True))
    value = levels["design"] if levels else estimate(statistic, pairs.distance, units, key)
    return Measured(
        key, title, *value,
        unit="mas" if is_width else "%", n=len(np.unique(pairs.pair)), of="pairs",
        requirement=srd(5.0, 10.0, 20.0), levels=levels,
        note="" if is_width else "beyond 20 mas",
        ccds=of_rows(data, pairs.first, pairs.distance, statistic),
    )  # fmt: skip


def _mean_offsets(found: Repeats, chosen: np.ndarray) -> np.ndarray:
    """(objects, 2) mean offset of the chosen sources of each object; NaN without."""
    n = len(found.objects["objectId"])
    owner = found.owner[chosen]
    counts = np.bincount(owner, minlength=n)
    with np.errstate(invalid="ignore", divide="ignore"):
        sums = [np.bincount(owner, part, n) / counts for part in found.offsets[chosen].T]
    return np.stack(sums, axis=1)
