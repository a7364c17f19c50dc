"""What a run made objects of, beside its survey: every source with its true object."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import _truth
import numpy as np
from _characterized import CharacterizedRun
from _completeness import pair
from scipy.spatial import cKDTree

from mpipipe.data.association import NO_OBJECT

MOVER = 2
"""Kind of bodies of the Solar System among the truth's sources."""
FAINTEST = 3.0
"""True SNR from which a source of the truth can be what was detected."""
REACH = 0.5
"""FWHM between a source and what it is of, at most."""
APART, FAINT = 3.0, 1.0
"""FWHM within which an isolated object has no neighbour of this true SNR, at any of its visits."""
NOTHING = -1


@dataclass(frozen=True, eq=False)
class Associated:
    """Sources of all visits, good and bad, with what they truly are.

    Attributes
    ----------
    rows
        Of `source` and `badSource`, ascending by id; `objectId` is -1 for bad ones.
    true
        Id of what each really is of, -1 for nothing; what no visit can tell from its galaxy (a
        nucleus, a supernova near the centre) is the galaxy.
    kind
        0 star, 1 galaxy, 2 of the Solar System, -1 nothing.
    lonely
        Whether nothing else as bright as a detection was near, at that visit.
    snr, mag, ra, dec
        True ones of that visit; NaN for nothing.
    objects
        The table `object`.
    """

    rows: np.ndarray
    true: np.ndarray
    kind: np.ndarray
    lonely: np.ndarray
    snr: np.ndarray
    mag: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    objects: np.ndarray

    @classmethod
    def of(cls, run: CharacterizedRun) -> Associated:
        """Read a run and the truth of its survey."""
        tables = run.catalogues
        source, bad = tables["source"], tables["badsource"]
        rows = np.concatenate([source, bad[list(source.dtype.names)]])
        rows = rows[np.argsort(rows["id"])]
        facts = {
            "true": np.full(len(rows), NOTHING),
            "kind": np.full(len(rows), NOTHING),
            "lonely": np.zeros(len(rows), bool),
            **{name: np.full(len(rows), np.nan) for name in ("snr", "mag", "ra", "dec")},
        }
        objects = true_objects(run.sim)
        for truth in run.truths():
            src = run.rows("src", truth)
            place = np.searchsorted(rows["id"], src["id"])
            for name, values in _labels(truth, src, objects).items():
                facts[name][place] = values
        return cls(rows, objects=tables["object"], **facts)

    @property
    def is_good(self) -> np.ndarray:
        """Which sources are part of objects."""
        return np.asarray(self.rows["objectId"] != NO_OBJECT)


def _labels(truth: _truth.CcdTruth, src: np.ndarray, objects: np.ndarray) -> dict[str, np.ndarray]:
    """What the sources of one CCD-visit really are of."""
    real = truth.sources[truth.sources["snr"] > FAINTEST]
    where = np.stack([real["x"], real["y"]], axis=1).astype(float)
    partner = pair(src["x"], src["y"], *where.T, real["flux"].astype(float), REACH * truth.fwhm)
    around = truth.sources[truth.sources["snr"] > FAINT]
    tree = cKDTree(np.stack([around["x"], around["y"]], axis=1).astype(float))
    near = tree.query_ball_point(where, APART * truth.fwhm, return_length=True)
    known = partner >= 0
    labels = {
        "true": _unresolved(np.where(known, real["id"][partner], NOTHING), truth, src, objects),
        "kind": np.where(known, real["kind"][partner], NOTHING),
        "lonely": known & (near[partner] == 1),
    }
    for name in ("snr", "mag", "ra", "dec"):
        labels[name] = np.where(known, real[name][partner].astype(float), np.nan)
    return labels


def _unresolved(
    true: np.ndarray, truth: _truth.CcdTruth, src: np.ndarray, objects: np.ndarray
) -> np.ndarray:
    """Ids, with that of the galaxy in place of what is in it and can not be told from it.

    That can be told has a source beside the galaxy's, or is farther from its centre than a source
    may be from what it is of.
    """
    galaxies = np.where(objects["kind"] == _truth.GALAXY, objects["id"], NOTHING)
    place = np.clip(np.searchsorted(objects["id"], true), 0, len(objects) - 1)
    host = np.where(objects["id"][place] == true, objects["host"][place], NOTHING)
    host = np.where(np.isin(host, galaxies) & ~np.isin(host, true), host, NOTHING)
    rows = truth.sources[np.argsort(truth.sources["id"], kind="stable")]
    row = np.clip(np.searchsorted(rows["id"], host), 0, len(rows) - 1)
    off = np.hypot(src["x"] - rows["x"][row], src["y"] - rows["y"][row])
    inside = (rows["id"][row] == host) & (off <= REACH * truth.fwhm) & (host != NOTHING)
    return np.asarray(np.where(inside, host, true))


@dataclass(frozen=True)
class Score:
    """Shares of true objects that were detected twice or more.

    Attributes
    ----------
    n
        How many there are.
    split
        In more than one object.
    merged
        In an object with the sources of another one, though a visit shows the two apart.
    unresolved
        The same, where no visit does: they are one source each time, nearer to one or the other.
    """

    n: int
    split: float
    merged: float
    unresolved: float


def score(
    found: Associated, *, isolated: bool, kind: int | None = None, merged_too: bool = False
) -> Score:
    """Splits and merges of stars and galaxies that stand alone at all visits, or of the others.

    Parameters
    ----------
    kind
        Of these alone: 0 stars, 1 galaxies, whose faint ones are as uncertain as they are large.
    merged_too
        Whether sources count that are said to be the light of several objects.
    """
    use = found.is_good & (found.true != NOTHING) & (found.kind != MOVER)
    if not merged_too:
        use &= ~found.rows["flag_merged"]
    true, number = np.unique(found.true[use], return_inverse=True)
    visit = found.rows["visit"][use]
    n_sources = np.bincount(number)
    always = np.bincount(number, found.lonely[use]) == n_sources
    chosen = (n_sources >= 2) & (always == isolated)
    if kind is not None:
        chosen &= np.bincount(number, found.kind[use] == kind) == n_sources
    pairs = np.unique(np.stack([found.rows["objectId"][use], number]), axis=1)
    n_objects = np.bincount(pairs[1], minlength=len(true))
    merged, unresolved = np.zeros((2, len(true)), bool)
    visits = [set() for _ in true]
    for one, seen in zip(number.tolist(), visit.tolist(), strict=True):
        visits[one].add(seen)
    for members in np.split(pairs[1], np.flatnonzero(np.diff(pairs[0])) + 1):
        for one, other in combinations(members.tolist(), 2):
            is_shown = bool(visits[one] & visits[other])
            (merged if is_shown else unresolved)[[one, other]] = True
    n = int(chosen.sum())
    counts = ((n_objects > 1) & chosen, merged & chosen, unresolved & ~merged & chosen)
    return Score(n, *(float(which.sum() / max(n, 1)) for which in counts))


def true_objects(sim: Path) -> np.ndarray:
    """The truth's table of objects, ascending by id."""
    from astropy.io import fits

    rows = np.array(fits.getdata(sim / "truth" / "objects.fits", "OBJECTS"))
    return rows[np.argsort(rows["id"])]


def first_visit(sim: Path) -> float:
    """When the first visit began, MJD TAI: the epoch of the truth's positions."""
    visits = json.loads((sim / "truth" / "visits.json").read_text())
    return min(float(visit["mjd"]) for visit in visits)


def label_of_objects(found: Associated) -> np.ndarray:
    """For each row of `object` the one true id of its sources; -1 for none or several."""
    use = found.is_good
    order = np.argsort(found.rows["objectId"][use], kind="stable")
    ids, true = found.rows["objectId"][use][order], found.true[use][order]
    first = np.flatnonzero(np.diff(ids, prepend=-1))
    low, high = np.minimum.reduceat(true, first), np.maximum.reduceat(true, first)
    place = np.searchsorted(ids[first], found.objects["objectId"])
    return np.asarray(np.where(low == high, low, NOTHING)[place])
