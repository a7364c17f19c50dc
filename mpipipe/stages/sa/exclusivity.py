"""Groups of friends become objects: no object has two sources of one visit.

A group without a visit twice, all within reach of its first source, is one object, and so is one
that is a moving star. The sources of other groups are put around centres
(`mpipipe.stages.sa.centres`): two stars closer than the seeing stay two where visits show both, and
a source that is both of them does not join them. What is cut into parts although it is one moving
star is joined again: `mpipipe.stages.sa.tracks`.

An object depends on the sources of its group and on nothing else.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from mpipipe.stages.sa.centres import settle
from mpipipe.stages.sa.epochs import Epochs
from mpipipe.stages.sa.friends import root, separation2
from mpipipe.stages.sa.motion import ARCSEC, along, axes
from mpipipe.stages.sa.tracks import TrackRules, is_track, join_tracks


class Facts(NamedTuple):
    """What is known of sources beside their places and epochs.

    Attributes
    ----------
    fwhm
        (n,) seeing, arcsec.
    flux
        (n,) fluxes.
    """

    fwhm: np.ndarray
    flux: np.ndarray


@njit(cache=True)
def group_members(labels: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sources sorted by group and index, and where every group begins.

    Parameters
    ----------
    labels
        Lowest index of every source's group.
    wanted
        Which sources to take.

    Returns
    -------
    members, starts
        `starts` has one number more than there are groups: the number of members.
    """
    n = len(labels)
    place = np.zeros(n + 1, np.int64)
    n_groups = 0
    for i in range(n):
        if wanted[i]:
            n_groups += place[labels[i] + 1] == 0
            place[labels[i] + 1] += 1
    starts = np.empty(n_groups + 1, np.int64)
    group = 0
    for i in range(n):
        if place[i + 1] > 0:
            starts[group] = place[i]
            group += 1
        place[i + 1] += place[i]
    starts[n_groups] = place[n]
    members = np.empty(place[n], np.int64)
    for i in range(n):
        if wanted[i]:
            members[place[labels[i]]] = i
            place[labels[i]] += 1
    return members, starts


@njit(cache=True)
def split_groups(
    members: np.ndarray,
    starts: np.ndarray,
    vectors: np.ndarray,
    epochs: Epochs,
    facts: Facts,
    reach: float,
    track_rules: TrackRules,
) -> tuple[np.ndarray, np.ndarray]:
    """Objects of the sources of groups.

    Parameters
    ----------
    reach
        Largest distance of a source from its object's place at rest, radians.

    Returns
    -------
    objects, merged
        For each source the lowest index of its object, -1 for sources that are no members; whether
        it is the light of several objects.
    """
    objects, merged = np.full(len(vectors), -1), np.zeros(len(vectors), np.bool_)
    seen = np.full(epochs.n_visits, -1)
    bit = np.zeros(epochs.n_visits, np.int64)
    for g in range(len(starts) - 1):
        group = members[starts[g] : starts[g + 1]]
        n_epochs = number_epochs(group, epochs.number, seen, bit, g)
        once = n_epochs == len(group)
        if once and _is_compact(group, vectors, reach * reach):
            for i in group:
                objects[i] = group[0]
            continue
        if once and is_track(group, vectors, epochs, track_rules):
            for i in group:
                objects[i] = group[0]
            continue
        parent = _around_centres(group, vectors, bit[epochs.number[group]], facts, reach, merged)
        join_tracks(group, parent, vectors, epochs, bit, n_epochs, track_rules)
        for k in range(len(group)):
            objects[group[k]] = group[root(parent, k)]
    return objects, merged


@njit(cache=True)
def number_epochs(
    group: np.ndarray, epoch: np.ndarray, seen: np.ndarray, bit: np.ndarray, g: int
) -> int:
    """Number of different epochs; `bit` numbers them within the group."""
    n_epochs = 0
    for i in group:
        e = epoch[i]
        if seen[e] != g:
            seen[e] = g
            bit[e] = n_epochs
            n_epochs += 1
    return n_epochs


@njit(cache=True)
def _is_compact(group: np.ndarray, vectors: np.ndarray, reach2: float) -> bool:
    """Whether all are within reach of the first."""
    farthest = 0.0
    for i in group:
        farthest = max(farthest, separation2(vectors, group[0], i))
    return farthest <= reach2


@njit(cache=True)
def _around_centres(
    group: np.ndarray,
    vectors: np.ndarray,
    number: np.ndarray,
    facts: Facts,
    reach: float,
    merged: np.ndarray,
) -> np.ndarray:
    """Parents (places in the group; roots are lowest) of sources; `merged` is filled."""
    n = len(group)
    origin = vectors[group[0]]
    plane = axes(origin)
    places = np.empty((n, 2))
    for k in range(n):
        for axis in range(2):
            places[k, axis] = along(plane[axis], vectors[group[k]], origin) / reach
    fwhm = facts.fwhm[group] / (reach * ARCSEC)
    of, merged[group] = settle(places, number, fwhm, facts.flux[group], number.max() + 1)
    first, parent = np.full(n, -1), np.empty(n, np.int64)
    for k in range(n):
        if first[of[k]] < 0:
            first[of[k]] = k
        parent[k] = first[of[k]]
    return parent
