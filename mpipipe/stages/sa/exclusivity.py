"""Groups of friends become objects: no object has two sources of one visit.

A group without a visit twice, all within half the largest diameter of its first source, is one
object. Other groups are built up again from their pairs of friends, nearest first (Kruskal 1956,
Proc. AMS 7, 48; equal distances by lower id, then by higher id): two parts become one if they share
no visit and their joint diameter is within the limit. So two stars closer than the seeing stay two
where visits show both, and a blend of them goes to the nearer one without joining them. What is cut
into parts although it is one moving star is joined again: `mpipipe.stages.sa.tracks`.

An object depends on the sources of its group and on nothing else.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from mpipipe.stages.sa.epochs import Epochs
from mpipipe.stages.sa.friends import root, separation2
from mpipipe.stages.sa.tracks import TrackRules, is_track, join_tracks


class ObjectRules(NamedTuple):
    """What may be one object; chords squared on the unit sphere.

    Attributes
    ----------
    link2, diameter2, half2
        Of the link radius, of the largest diameter and of half of it.
    """

    link2: float
    diameter2: float
    half2: float


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
    rules: ObjectRules,
    track_rules: TrackRules,
) -> np.ndarray:
    """For each source the lowest index of its object; -1 for sources that are no members."""
    objects = np.full(len(vectors), -1)
    seen = np.full(epochs.n_visits, -1)
    bit = np.zeros(epochs.n_visits, np.int64)
    for g in range(len(starts) - 1):
        group = members[starts[g] : starts[g + 1]]
        n_epochs = number_epochs(group, epochs.number, seen, bit, g)
        once = n_epochs == len(group)
        if once and _is_compact(group, vectors, rules.half2):
            for i in group:
                objects[i] = group[0]
            continue
        if once and is_track(group, vectors, epochs, track_rules):
            for i in group:
                objects[i] = group[0]
            continue
        parent = _build_up(group, vectors, epochs.number, bit, n_epochs, rules)
        join_tracks(group, parent, vectors, epochs, bit, n_epochs, track_rules)
        for k in range(len(group)):
            objects[group[k]] = group[root(parent, k)]
    return objects


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
def _is_compact(group: np.ndarray, vectors: np.ndarray, half2: float) -> bool:
    """Whether all are within half a diameter of the first."""
    farthest = 0.0
    for i in group:
        farthest = max(farthest, separation2(vectors, group[0], i))
    return farthest <= half2


@njit(cache=True)
def _build_up(
    group: np.ndarray,
    vectors: np.ndarray,
    epoch: np.ndarray,
    bit: np.ndarray,
    n_epochs: int,
    rules: ObjectRules,
) -> np.ndarray:
    """Parents (places in the group; the root is the lowest) after joining nearest pairs first."""
    n = len(group)
    low, high = _friend_pairs(group, vectors, rules.link2)
    parent, following, last = np.arange(n), np.full(n, -1), np.arange(n)
    n_words = (n_epochs + 63) // 64
    visits = np.zeros((n, n_words), np.uint64)
    for k in range(n):
        visits[k, bit[epoch[group[k]]] // 64] = np.uint64(1) << np.uint64(bit[epoch[group[k]]] % 64)
    for pair in range(len(low)):
        a, b = root(parent, low[pair]), root(parent, high[pair])
        if a == b or _share(visits, a, b):
            continue
        if not _within(group, vectors, following, a, b, rules.diameter2):
            continue
        a, b = min(a, b), max(a, b)
        parent[b] = a
        visits[a] |= visits[b]
        following[last[a]] = b
        last[a] = last[b]
    return parent


@njit(cache=True)
def _share(visits: np.ndarray, a: int, b: int) -> bool:
    shared = np.uint64(0)
    for word in range(visits.shape[1]):
        shared |= visits[a, word] & visits[b, word]
    return shared != 0


@njit(cache=True)
def _within(
    group: np.ndarray,
    vectors: np.ndarray,
    following: np.ndarray,
    a: int,
    b: int,
    diameter2: float,
) -> bool:
    """Whether no source of part a is farther than a diameter from one of part b."""
    i = a
    while i >= 0:
        j = b
        while j >= 0:
            if separation2(vectors, group[i], group[j]) > diameter2:
                return False
            j = following[j]
        i = following[i]
    return True


@njit(cache=True)
def _friend_pairs(
    group: np.ndarray, vectors: np.ndarray, link2: float
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and higher place of each pair of friends, by (distance, lower, higher)."""
    n = len(group)
    height = np.empty(n)
    for k in range(n):
        height[k] = vectors[group[k], 2]
    order = np.argsort(height, kind="mergesort")
    reach = np.sqrt(link2)
    n_pairs = 0
    for filling in range(2):
        if filling == 1:
            key, distance = np.empty(n_pairs, np.int64), np.empty(n_pairs)
            n_pairs = 0
        for p in range(n):
            a = order[p]
            for q in range(p + 1, n):
                b = order[q]
                if height[b] - height[a] > reach:
                    break
                chord = separation2(vectors, group[a], group[b])
                if chord <= link2:
                    if filling == 1:
                        key[n_pairs] = min(a, b) * n + max(a, b)
                        distance[n_pairs] = chord
                    n_pairs += 1
    by_key = np.argsort(key, kind="mergesort")
    key = key[by_key]
    key = key[np.argsort(distance[by_key], kind="mergesort")]
    return key // n, key % n
