"""Checks of the association of sources to objects."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mpipipe.data.sky_vectors import unit_vectors
from mpipipe.quality.scorecard.measured import Measured, NotMeasurable, Requirement, target
from mpipipe.quality.scorecard.metric import metric
from mpipipe.quality.scorecard.neighbours import Places
from mpipipe.quality.scorecard.run_data import RunData
from mpipipe.quality.scorecard.statistics import estimate, estimate_ratio, mean

CLOSE = 0.6
"""FWHM within which sources of different visits are of one object."""
OWN = "own target"


@metric("objects.consistency", "tables of objects agree", "objects")
def consistency(data: RunData) -> Iterator[Measured]:
    """Counts of what must not be: objects that have a visit twice, sources of objects that are not
    there, objects whose number of sources is not that of their rows, source ids given twice. Of a
    large run a share of the objects is looked at."""
    found = data.repeats
    s, o = found.sources, found.objects
    order = np.lexsort((s["visit"], s["objectId"]))
    twice = (np.diff(s["objectId"][order]) == 0) & (np.diff(s["visit"][order]) == 0)
    known = found.owner >= 0
    counts = np.bincount(found.owner[known], minlength=len(o["objectId"]))
    faults = {
        "twice": ("visits twice in an object", len(np.unique(s["objectId"][order][1:][twice]))),
        "orphans": ("sources without their object", int((~known).sum())),
        "counts": ("objects with another number of sources", int((counts != o["nSources"]).sum())),
        "ids": ("source ids given twice", len(s["id"]) - len(np.unique(s["id"]))),
    }
    exactly = Requirement({"met": 0.0}, OWN)
    for name, (title, n) in faults.items():
        yield Measured(
            f"objects.{name}", title, float(n), float(n), float(n), n=len(o["objectId"]),
            of="objects", requirement=exactly,
        )  # fmt: skip


@metric("objects.split", "objects that may be one", "objects")
def split(data: RunData) -> Iterator[Measured]:
    """Share of objects seen twice or more that another one is nearer to than 0.6 FWHM, with which
    it shares no visit: what should have been one object, or a blend that some visits resolve. The
    project asks 0.02 % of isolated objects and 1.4 % of blends."""
    found = data.repeats
    if found.share < 1.0:
        raise NotMeasurable("the run is large: only a share of its objects was read")
    s, o = found.sources, found.objects
    several = np.flatnonzero(o["nSources"] >= 2)
    if not len(several):
        raise NotMeasurable("no object was seen twice")
    vectors = unit_vectors(o["ra"], o["dec"])
    chosen = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    reach = CLOSE * float(np.nanmedian(s["fwhm"]))
    if not np.isfinite(reach):
        raise NotMeasurable("sources have no FWHM")
    pairs = chosen[Places(vectors[chosen]).pairs(float(np.radians(reach / 3600.0)))]
    suspicious = np.zeros(len(o["objectId"]), bool)
    starts = np.searchsorted(found.owner, np.arange(len(o["objectId"]) + 1))
    for one, two in pairs.tolist():
        first, second = (s["visit"][starts[k] : starts[k + 1]] for k in (one, two))
        if not np.isin(first, second).any():
            suspicious[[one, two]] = True
    value = 100.0 * suspicious[several]
    yield Measured(
        "objects.split", "objects that may be one with another",
        *estimate(mean, value, several, "objects.split"), unit="%", n=len(several), of="objects",
        requirement=target(1.4, OWN),
    )  # fmt: skip


@metric("objects.bad_sources", "sources kept out of objects", "objects")
def bad_sources(data: RunData) -> Iterator[Measured]:
    """Share of sources that failed a quality cut of the association, with the reasons."""
    reasons = data.table("badSource", ("visit", "ccdNumber", "reason"))
    good = data.table("source", ("visit", "ccdNumber"))
    n_bad, n_good = len(reasons["reason"]), len(good["visit"])
    if n_bad + n_good == 0:
        raise NotMeasurable("the run has no sources")
    places = [data.at_exposures(part["visit"], part["ccdNumber"]) for part in (reasons, good)]
    n = len(data.exposures)
    bad, fine = (np.bincount(place[place >= 0], minlength=n) for place in places)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = 100.0 * bad / (bad + fine)
    kinds, counts = np.unique(reasons["reason"], return_counts=True)
    told = ", ".join(
        f"{count:,} {kind.decode()}"
        for count, kind in sorted(zip(counts.tolist(), kinds.tolist(), strict=True), reverse=True)
    )
    key = "objects.bad_sources"
    # Those of no known exposure are one more unit.
    of_unit = [np.bincount(place + 1, minlength=n + 1).astype(float) for place in places]
    yield Measured(
        key, "sources kept out of objects",
        *estimate_ratio(100.0 * of_unit[0], of_unit[0] + of_unit[1], key), unit="%",
        n=n_bad + n_good, of="sources", note=told,
        ccds=data.contributions(shares, bad),
    )  # fmt: skip
