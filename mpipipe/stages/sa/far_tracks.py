"""Stars that move farther than a link radius between the visits that show them.

Their sources are no friends, so they are in groups of their own. *Loose* objects, those of one or
two sources and those that are moving themselves, may be parts of such a star. Two groups are
*related* if sources of loose objects of theirs are within one hop of each other, and a star could
have gone from one to the other: the time between is enough, and in one band they are about as
bright. Related groups are one group from here on, in which loose objects that lie on one line in
time are joined (`mpipipe.stages.sa.tracks`).

Exact at any partition, where halos reach one hop: what a loose object may be related to in another
cell, or in a group that reaches out of this one, has a row here that is in no closed group. Loose
objects within a hop of such a row leave their group open, and with it all related ones. So related
groups are finished together or left together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from mpipipe.stages.sa.epochs import Epochs
from mpipipe.stages.sa.exclusivity import group_members, number_epochs
from mpipipe.stages.sa.friends import chord2, root, separation2
from mpipipe.stages.sa.motion import ARCSEC
from mpipipe.stages.sa.tracks import PARALLAX_SOURCES, TrackRules, is_track, join_tracks

_FEW = 2
"""Objects of no more sources are loose."""
_BRIGHTER = 2.5
"""Largest ratio of fluxes of one star in one band."""
_SLACK = 1e-6
"""By which the search for neighbours reaches too far; what it finds is looked at again."""


class Reach(NamedTuple):
    """How far stars get.

    Attributes
    ----------
    hop
        Largest distance between successive sources of a star, degrees.
    rest
        An object whose sources are all this close to its first is not moving, degrees.
    """

    hop: float
    rest: float


def join_far(
    labels: np.ndarray,
    objects: np.ndarray,
    vectors: np.ndarray,
    table: np.ndarray,
    places: np.ndarray,
    epochs: Epochs,
    reach: Reach,
    rules: TrackRules,
) -> tuple[np.ndarray, np.ndarray]:
    """Related groups become one, and loose objects in them that are one star become one.

    Parameters
    ----------
    labels, objects
        Lowest index of every source's group and object; objects of open groups are -1.
    vectors
        (n, 3) unit vectors.
    table, places
        Rows of `SOURCE`, and where in it the n sources are.

    Returns
    -------
    labels, objects
        The same, changed: -1 as well for groups that are related to something open.
    """
    members, starts = group_members(objects, objects >= 0)
    loose = _loose(members, starts, vectors, epochs, chord2(reach.rest), rules)
    rows = np.flatnonzero(loose)
    pairs, open_rows = _neighbours(vectors, rows, objects < 0, reach.hop)
    alike = _alike(table, places[pairs])
    related = _relate(labels, vectors, pairs[alike], epochs, chord2(reach.hop), rules.motion)
    is_open = np.zeros(len(labels), bool)
    is_open[related[open_rows]] = True
    objects = np.where(is_open[related], -1, objects)
    members, starts = group_members(related, loose & (objects >= 0))
    _join_related(members, starts, labels, objects, vectors, epochs, rules)
    return related, objects


@njit(cache=True)
def _loose(
    members: np.ndarray,
    starts: np.ndarray,
    vectors: np.ndarray,
    epochs: Epochs,
    rest2: float,
    rules: TrackRules,
) -> np.ndarray:
    """Which sources are part of loose objects."""
    loose = np.zeros(len(vectors), np.bool_)
    for k in range(len(starts) - 1):
        part = members[starts[k] : starts[k + 1]]
        farthest = 0.0
        for i in part:
            farthest = max(farthest, separation2(vectors, part[0], i))
        if len(part) > _FEW:
            if farthest <= rest2:
                continue
            # Of fewer sources, a parallax can hide the motion.
            if len(part) >= PARALLAX_SOURCES and not is_track(part, vectors, epochs, rules):
                continue
        loose[part] = True
    return loose


def _neighbours(
    vectors: np.ndarray, rows: np.ndarray, is_open: np.ndarray, hop: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of `rows` within a hop, and those of them within a hop of a row of an open group."""
    from scipy.spatial import cKDTree

    if not len(rows):
        return np.zeros((0, 2), np.int64), rows
    chord = np.sqrt(chord2(hop)) * (1.0 + _SLACK)
    tree = cKDTree(vectors[rows], balanced_tree=False, compact_nodes=False)
    pairs = rows[tree.query_pairs(chord, output_type="ndarray")].reshape(-1, 2)
    if not is_open.any():
        return pairs, rows[:0]
    outside = cKDTree(vectors[is_open], balanced_tree=False, compact_nodes=False)
    distance, _ = outside.query(vectors[rows], distance_upper_bound=chord)
    return pairs, rows[np.isfinite(distance)]


def _alike(table: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Whether pairs of rows are of different bands, or about as bright."""
    flux, band = table["psfFlux"][pairs], table["band"][pairs]
    too_bright = flux.max(axis=1) > _BRIGHTER * np.maximum(flux.min(axis=1), 0.0)
    return np.asarray((band[:, 0] != band[:, 1]) | ~too_bright)


@njit(cache=True)
def _relate(
    labels: np.ndarray,
    vectors: np.ndarray,
    pairs: np.ndarray,
    epochs: Epochs,
    hop2: float,
    motion: float,
) -> np.ndarray:
    """Labels after related groups are joined."""
    parent = labels.copy()
    for k in range(len(pairs)):
        i, j = pairs[k]
        if labels[i] == labels[j]:
            continue
        separation = separation2(vectors, i, j)
        wait = abs(epochs.years[epochs.moment[i]] - epochs.years[epochs.moment[j]])
        if separation > hop2 or not ARCSEC * np.sqrt(separation) <= motion * wait:
            continue
        a, b = root(parent, i), root(parent, j)
        parent[max(a, b)] = min(a, b)
    for i in range(len(parent)):
        parent[i] = parent[parent[i]]  # roots are lowest, so they have been here already
    return parent


@njit(cache=True)
def _join_related(
    members: np.ndarray,
    starts: np.ndarray,
    labels: np.ndarray,
    objects: np.ndarray,
    vectors: np.ndarray,
    epochs: Epochs,
    rules: TrackRules,
) -> None:
    """Join loose objects of groups that were several; `objects` is changed."""
    seen = np.full(epochs.n_visits, -1)
    bit = np.zeros(epochs.n_visits, np.int64)
    place = np.full(len(labels), -1)
    for k in range(len(starts) - 1):
        group = members[starts[k] : starts[k + 1]]
        if (labels[group] == labels[group[0]]).all():
            continue
        parent = np.empty(len(group), np.int64)
        for p in range(len(group)):
            place[group[p]] = p
            parent[p] = place[objects[group[p]]]
        n_epochs = number_epochs(group, epochs.number, seen, bit, k)
        join_tracks(group, parent, vectors, epochs, bit, n_epochs, rules)
        for p in range(len(group)):
            objects[group[p]] = group[root(parent, p)]
