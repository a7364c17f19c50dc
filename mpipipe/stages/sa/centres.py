"""Sources around centres: how a crowded group of friends becomes objects.

Epochs come in order of their seeing, best first. A source goes to the nearest centre within reach
that has none of its epoch yet; of several sources of an epoch the nearest pair of source and centre
is first. What finds none is a new centre. So epochs that show objects apart say how many there are,
and where. Then centres become the means of their sources, and sources go to them anew (Lloyd 1982,
IEEE Trans. Inf. Theory 28, 129, with one source an epoch), until nothing changes. In each round

- a centre that few epochs show beside a neighbour of more sources gives those of its sources to it
  that are not in one epoch with one of the neighbour's: they are one object, unsteadily measured;
- where a centre has no source of an epoch, that of a near one may be *merged*: the light of both.
  It is if it lies nearer to where their light's centre must be than to its own centre, or if they
  are too close for the epoch's seeing. It goes to the brighter one, and moves no centre.

Centres stand in a hash table of squares of the sky, so time goes as the number of sources.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

_ROUNDS = 6
"""Most rounds of means and assignment."""
_NONE = -1
_FAR = 1.2
"""Reaches from a source to the neighbour of its centre that it may be given to."""
_SHOWN = 0.05
"""Share of the epochs of two centres that show both, from which on they are two objects."""
_PAIR = 1.2
"""FWHM between two objects whose light may be one source."""
_BLUR = 0.8
"""FWHM between two objects whose light is one source."""
_BRIGHTER = 0.6
"""FWHM between a merged source and the brighter object, at most."""
_LITTLE = 1e-6
"""Weight of merged sources: they count where there are no others."""


class _Centres(NamedTuple):
    """Centres with the squares that they are in; room for two a source.

    Attributes
    ----------
    place, square
        (n, 2) where each is (units of reach), and the square of that.
    head, following
        Lists of centres by the hash of their square.
    n_sources
        How many sources each has.
    taken
        The last epoch that gave it a source.
    """

    place: np.ndarray
    square: np.ndarray
    head: np.ndarray
    following: np.ndarray
    n_sources: np.ndarray
    taken: np.ndarray


@njit(cache=True)
def settle(
    places: np.ndarray, epoch: np.ndarray, fwhm: np.ndarray, flux: np.ndarray, n_epochs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Put the sources of a group around centres.

    Parameters
    ----------
    places
        (n, 2) offsets, in units of the reach: the largest distance of a source from its centre.
    epoch
        (n,) numbers of the epochs, below `n_epochs`.
    fwhm
        (n,) seeing, in reaches.
    flux
        (n,) any measure of brightness; what is not positive and finite does not count.

    Returns
    -------
    of, merged
        Number of every source's centre, some numbers may be unused; which sources are merged.
    """
    n = len(places)
    order, starts = _by_seeing(epoch, fwhm, n_epochs)
    centres = _no_centres(n)
    of, merged = np.full(n, _NONE), np.zeros(n, np.bool_)
    n_centres = 0
    for e in range(n_epochs):
        now = order[starts[e] : starts[e + 1]]
        n_centres = _assign(now, e, places, centres, n_centres, of, True)
    for _ in range(_ROUNDS):
        before = of.copy()
        n_centres = _renew(centres, n_centres, places, of, merged)
        for e in range(n_epochs):
            now = order[starts[e] : starts[e + 1]]
            n_centres = _assign(now, e, places, centres, n_centres, of, False)
        shown = _shown(n_centres, of, epoch, n_epochs)
        _give_up(epoch, places, centres, n_centres, of, shown)
        light = _light(n_centres, flux, of, merged)
        _find_merged(epoch, places, fwhm, centres, light, shown, of, merged)
        if (of == before).all():
            break
    return of, merged


@njit(cache=True)
def _shown(n_centres: int, of: np.ndarray, epoch: np.ndarray, n_epochs: int) -> np.ndarray:
    """(n_centres, n_words) bits of the epochs that show each centre."""
    shown = np.zeros((n_centres, (n_epochs + 63) // 64), np.uint64)
    for k in range(len(of)):
        _set(shown, of[k], epoch[k])
    return shown


@njit(cache=True)
def _set(shown: np.ndarray, c: int, e: int) -> None:
    shown[c, e // 64] |= np.uint64(1) << np.uint64(e % 64)


@njit(cache=True)
def _is_set(shown: np.ndarray, c: int, e: int) -> bool:
    return bool((shown[c, e // 64] >> np.uint64(e % 64)) & np.uint64(1) != np.uint64(0))


@njit(cache=True)
def _are_two(shown: np.ndarray, c: int, d: int) -> bool:
    """Whether enough epochs show both centres."""
    both, either = 0, 0
    for word in range(shown.shape[1]):
        both += _n_bits(shown[c, word] & shown[d, word])
        either += _n_bits(shown[c, word] | shown[d, word])
    return both > 0 and both >= _SHOWN * either


@njit(cache=True)
def _n_bits(word: np.uint64) -> int:
    n = 0
    while word != np.uint64(0):
        word &= word - np.uint64(1)
        n += 1
    return n


@njit(cache=True)
def _give_up(
    epoch: np.ndarray,
    places: np.ndarray,
    centres: _Centres,
    n_centres: int,
    of: np.ndarray,
    shown: np.ndarray,
) -> None:
    """Centres that are no object of their own give their sources away; `of`, `shown` change."""
    members = np.argsort(of, kind="mergesort")
    starts = np.zeros(n_centres + 1, np.int64)
    for k in range(len(of)):
        starts[of[k] + 1] += 1
    count = starts[1:].copy()
    for c in range(n_centres):
        starts[c + 1] += starts[c]
    goal = np.empty(len(of), np.int64)
    for c in np.argsort(count, kind="mergesort"):
        whole = count[c] > 0
        for k in members[starts[c] : starts[c + 1]]:
            goal[k] = _neighbour(centres, places[k], shown, c, epoch[k], _FAR, count)
            if goal[k] == _NONE:
                whole = False
                break
        if not whole:
            continue
        for k in members[starts[c] : starts[c + 1]]:
            d = goal[k]
            if not _is_set(shown, d, epoch[k]):
                of[k] = d
                _set(shown, d, epoch[k])
                shown[c, epoch[k] // 64] ^= np.uint64(1) << np.uint64(epoch[k] % 64)
                count[d] += 1
                count[c] -= 1


@njit(cache=True)
def _neighbour(
    centres: _Centres,
    place: np.ndarray,
    shown: np.ndarray,
    c: int,
    e: int,
    far: float,
    count: np.ndarray,
) -> int:
    """The centre beside c that is nearest to a place, -1 for none.

    With `count`, of those that have no fewer sources and are not another object than c; otherwise
    of other objects that have no source in epoch e.
    """
    best, least = _NONE, far * far
    column, row = int(np.floor(place[0])), int(np.floor(place[1]))
    for x in range(column - 2, column + 3):
        for y in range(row - 2, row + 3):
            d = centres.head[_bucket(centres, x, y)]
            while d != _NONE:
                if d != c and centres.square[d, 0] == x and centres.square[d, 1] == y:
                    off = _off2(centres, d, place)
                    if off < least or (off == least and (best == _NONE or d < best)):
                        if len(count):
                            fits = count[d] >= count[c] and not _are_two(shown, c, d)
                        else:
                            fits = not _is_set(shown, d, e) and _are_two(shown, c, d)
                        if fits:
                            best, least = d, off
                d = centres.following[d]
    return best


@njit(cache=True)
def _light(n_centres: int, flux: np.ndarray, of: np.ndarray, merged: np.ndarray) -> np.ndarray:
    """Mean flux of every centre, 0 where it is not known."""
    total, weight = np.zeros(n_centres), np.zeros(n_centres)
    for k in range(len(of)):
        if 0.0 < flux[k] < np.inf:
            w = _LITTLE if merged[k] else 1.0
            total[of[k]] += w * flux[k]
            weight[of[k]] += w
    for c in range(n_centres):
        if weight[c] > 0.0:
            total[c] /= weight[c]
    return total


@njit(cache=True)
def _find_merged(
    epoch: np.ndarray,
    places: np.ndarray,
    fwhm: np.ndarray,
    centres: _Centres,
    light: np.ndarray,
    shown: np.ndarray,
    of: np.ndarray,
    merged: np.ndarray,
) -> None:
    """Find merged sources, and give them to the brighter centre; `of`, `shown`, `merged` change."""
    nothing = np.empty(0, np.int64)
    for k in range(len(of)):
        merged[k] = False
        c, e = of[k], epoch[k]
        d = _NONE
        if len(light) > 1:
            d = _neighbour(centres, places[k], shown, c, e, 2.0, nothing)
        if d == _NONE:
            continue
        bright, faint = c, d
        if light[d] > light[c] or (light[d] == light[c] and d < c):
            bright, faint = d, c
        total = light[bright] + light[faint]
        share = light[faint] / total if total > 0.0 else 0.5
        east = centres.place[faint, 0] - centres.place[bright, 0]
        north = centres.place[faint, 1] - centres.place[bright, 1]
        apart2 = east * east + north * north
        if not apart2 <= (_PAIR * fwhm[k]) ** 2:
            continue
        x = places[k, 0] - centres.place[bright, 0] - share * east
        y = places[k, 1] - centres.place[bright, 1] - share * north
        between = x * x + y * y <= _off2(centres, c, places[k])
        if between or (c == bright and apart2 < (_BLUR * fwhm[k]) ** 2):
            merged[k] = True
            if c != bright and _off2(centres, bright, places[k]) <= (_BRIGHTER * fwhm[k]) ** 2:
                of[k] = bright
                _set(shown, bright, e)
                shown[c, e // 64] ^= np.uint64(1) << np.uint64(e % 64)


@njit(cache=True)
def _by_seeing(epoch: np.ndarray, fwhm: np.ndarray, n_epochs: int) -> tuple[np.ndarray, np.ndarray]:
    """Sources by epoch, those of best seeing first, and where every epoch begins."""
    best = np.full(n_epochs, np.inf)
    count = np.zeros(n_epochs, np.int64)
    for k in range(len(epoch)):
        count[epoch[k]] += 1
        if fwhm[k] < best[epoch[k]]:
            best[epoch[k]] = fwhm[k]
    starts = np.zeros(n_epochs + 1, np.int64)
    begin = np.empty(n_epochs, np.int64)
    ranked = np.argsort(best, kind="mergesort")
    for r in range(n_epochs):
        begin[ranked[r]] = starts[r]
        starts[r + 1] = starts[r] + count[ranked[r]]
    order = np.empty(len(epoch), np.int64)
    for k in range(len(epoch)):
        order[begin[epoch[k]]] = k
        begin[epoch[k]] += 1
    return order, starts


@njit(cache=True)
def _no_centres(n: int) -> _Centres:
    """Room for the centres of n sources: in a round old ones may empty while as many come up."""
    size = 8
    while size < n:
        size *= 2
    room = 2 * n
    return _Centres(
        np.empty((room, 2)),
        np.empty((room, 2), np.int64),
        np.full(size, _NONE),
        np.full(room, _NONE),
        np.zeros(room, np.int64),
        np.full(room, _NONE),
    )


@njit(cache=True)
def _bucket(centres: _Centres, x: int, y: int) -> int:
    return ((x * 73856093) ^ (y * 19349663)) & (len(centres.head) - 1)


@njit(cache=True)
def _enter(centres: _Centres, c: int, x: float, y: float) -> None:
    """Put a centre at a place, into the list of its square."""
    centres.place[c, 0], centres.place[c, 1] = x, y
    centres.square[c, 0], centres.square[c, 1] = int(np.floor(x)), int(np.floor(y))
    bucket = _bucket(centres, centres.square[c, 0], centres.square[c, 1])
    centres.following[c] = centres.head[bucket]
    centres.head[bucket] = c


@njit(cache=True)
def _leave(centres: _Centres, c: int) -> None:
    """Take a centre out of the list of its square."""
    bucket = _bucket(centres, centres.square[c, 0], centres.square[c, 1])
    if centres.head[bucket] == c:
        centres.head[bucket] = centres.following[c]
        return
    b = centres.head[bucket]
    while centres.following[b] != c:
        b = centres.following[b]
    centres.following[b] = centres.following[c]


@njit(cache=True)
def _assign(
    sources: np.ndarray,
    e: int,
    places: np.ndarray,
    centres: _Centres,
    n_centres: int,
    of: np.ndarray,
    moving: bool,
) -> int:
    """Give the sources of an epoch their centres; the number of centres then.

    Parameters
    ----------
    of
        Changed.
    moving
        Whether a centre moves to the mean of its sources with each of them.
    """
    known = n_centres
    if len(sources) == 1:
        c = _nearest(centres, places[sources[0]])
        return _give(sources[0], c, e, places, centres, known, of, moving)
    who, which, distance = _candidates(sources, places, centres)
    free = np.ones(len(sources), np.bool_)
    for pair in np.argsort(distance, kind="mergesort"):
        if free[who[pair]] and centres.taken[which[pair]] != e:
            free[who[pair]] = False
            _give(sources[who[pair]], which[pair], e, places, centres, known, of, moving)
    for s in range(len(sources)):
        if free[s]:
            n_centres = _give(sources[s], _NONE, e, places, centres, n_centres, of, moving)
    return n_centres


@njit(cache=True)
def _give(
    k: int,
    c: int,
    e: int,
    places: np.ndarray,
    centres: _Centres,
    n_centres: int,
    of: np.ndarray,
    moving: bool,
) -> int:
    """Give a source to a centre, or to a new one; the number of centres then."""
    x, y = places[k]
    if c == _NONE:
        c = n_centres
        n_centres += 1
        centres.n_sources[c] = 0
        _enter(centres, c, x, y)
    centres.taken[c] = e
    of[k] = c
    centres.n_sources[c] += 1
    if moving and centres.n_sources[c] > 1:
        share = 1.0 / centres.n_sources[c]
        x = centres.place[c, 0] + share * (x - centres.place[c, 0])
        y = centres.place[c, 1] + share * (y - centres.place[c, 1])
        _leave(centres, c)
        _enter(centres, c, x, y)
    return n_centres


@njit(cache=True)
def _nearest(centres: _Centres, place: np.ndarray) -> int:
    """The nearest centre within reach, the first of equal ones; -1 if there is none."""
    best, least = _NONE, 1.0
    column, row = int(np.floor(place[0])), int(np.floor(place[1]))
    for x in range(column - 1, column + 2):
        for y in range(row - 1, row + 2):
            c = centres.head[_bucket(centres, x, y)]
            while c != _NONE:
                if centres.square[c, 0] == x and centres.square[c, 1] == y:
                    off = _off2(centres, c, place)
                    if off < least or (off == least and (best == _NONE or c < best)):
                        best, least = c, off
                c = centres.following[c]
    return best


@njit(cache=True)
def _off2(centres: _Centres, c: int, place: np.ndarray) -> float:
    x, y = place[0] - centres.place[c, 0], place[1] - centres.place[c, 1]
    return float(x * x + y * y)


@njit(cache=True)
def _candidates(
    sources: np.ndarray, places: np.ndarray, centres: _Centres
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of a source and a centre within reach: place in `sources`, centre, distance squared.

    In ascending order of the first two.
    """
    n = 0
    who, which, distance = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    for filling in range(2):
        if filling == 1:
            who, which, distance = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n)
            n = 0
        for s in range(len(sources)):
            begin = n
            place = places[sources[s]]
            column, row = int(np.floor(place[0])), int(np.floor(place[1]))
            for x in range(column - 1, column + 2):
                for y in range(row - 1, row + 2):
                    c = centres.head[_bucket(centres, x, y)]
                    while c != _NONE:
                        if centres.square[c, 0] == x and centres.square[c, 1] == y:
                            off = _off2(centres, c, place)
                            if off <= 1.0:
                                if filling == 1:
                                    who[n], which[n], distance[n] = s, c, off
                                n += 1
                        c = centres.following[c]
            if filling == 1:
                order = np.argsort(which[begin:n], kind="mergesort")
                distance[begin:n] = distance[begin:n][order]
                which[begin:n] = which[begin:n][order]
    return who, which, distance


@njit(cache=True)
def _renew(
    centres: _Centres, n_centres: int, places: np.ndarray, of: np.ndarray, merged: np.ndarray
) -> int:
    """Centres at the means of their sources, those without any dropped; their number then."""
    total = np.zeros((n_centres, 2))
    for c in range(n_centres):
        centres.n_sources[c] = 0
        _leave(centres, c)
    weight = np.zeros(n_centres)
    for k in range(len(of)):
        w = _LITTLE if merged[k] else 1.0
        weight[of[k]] += w
        total[of[k], 0] += w * places[k, 0]
        total[of[k], 1] += w * places[k, 1]
        centres.n_sources[of[k]] += 1
    number = np.empty(n_centres, np.int64)
    kept = 0
    for c in range(n_centres):
        if centres.n_sources[c] > 0:
            number[c] = kept
            _enter(centres, kept, total[c, 0] / weight[c], total[c, 1] / weight[c])
            kept += 1
    centres.n_sources[:kept] = 0
    centres.taken[:] = _NONE
    for k in range(len(of)):
        of[k] = number[of[k]]
    return kept
