"""Which sources are one object: groups of friends, exclusivity, moving stars."""

from __future__ import annotations

from time import process_time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpipipe.data.association import SOURCE
from mpipipe.stages.sa.associate import Association, associate
from mpipipe.stages.sa.friends import friends, unit_vectors

FWHM = 0.83


def plain_groups(ra: np.ndarray, dec: np.ndarray, radius: float) -> np.ndarray:
    """The same by astropy and a dictionary: lowest index of each group."""
    from astropy import units as u
    from astropy.coordinates import SkyCoord

    places = SkyCoord(ra, dec, unit="deg")
    left, right, _, _ = places.search_around_sky(places, radius * u.deg)
    label = {i: i for i in range(len(ra))}

    def top(i: int) -> int:
        while label[i] != i:
            i = label[i]
        return i

    for i, j in zip(left, right, strict=True):
        a, b = sorted((top(i), top(j)))
        label[b] = a
    return np.array([top(i) for i in range(len(ra))])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(1, 300),
    radius=st.sampled_from([1e-4, 0.01, 1.0, 10.0, 25.0]),
    where=st.sampled_from(["zero", "north", "south", "low", "all"]),
)
def test_groups_are_those_of_astropy(seed: int, n: int, radius: float, where: str) -> None:
    rng = np.random.default_rng(seed)
    width = radius * np.sqrt(n) * rng.uniform(0.2, 2.0)
    x, y = rng.normal(0.0, width, (2, n))
    ra, dec = x % 360.0, y.clip(-90, 90)
    if where in ("north", "south"):
        ra, dec = rng.uniform(0, 360, n), 90.0 - np.hypot(x, y).clip(0, 180)
        dec = dec if where == "north" else -dec
    elif where == "low":
        ra, dec = (2 * x) % 360.0, (y - 60.0).clip(-90, 90)
    elif where == "all":
        ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    assert (friends(unit_vectors(ra, dec), radius) == plain_groups(ra, dec, radius)).all()


def sources(
    east: list[float], visit: list[int], north: list[float] | None = None, interval: float = 100.0
) -> np.ndarray:
    """Sources at offsets in arcsec from a point, in order of their visits."""
    rows = SOURCE.empty(len(east))
    order = np.argsort(visit, kind="stable")
    x, y = np.array(east)[order], np.zeros(len(east)) if north is None else np.array(north)[order]
    rows["dec"] = -30.0 + y / 3600.0
    rows["ra"] = 80.0 + x / 3600.0 / np.cos(np.radians(30.0))
    rows["visit"] = np.array(visit)[order]
    rows["mjd"] = 60000.0 + interval * rows["visit"]
    rows["id"] = rows["visit"] * 1000 + np.arange(len(rows))
    rows["band"], rows["snr"], rows["raErr"], rows["decErr"] = b"r", 20.0, 20.0, 20.0
    return rows


def members(rows: np.ndarray) -> list[list[int]]:
    """Places of the sources of every object."""
    done = associate(rows, np.ones(len(rows), bool), None, ("r",), FWHM, 10.0)
    objects = done.source["objectId"]
    return [np.flatnonzero(objects == i).tolist() for i in done.object["objectId"]]


def test_repeated_visits_are_one_object() -> None:
    assert members(sources([0.0, 0.1, -0.1, 0.05], [1, 2, 3, 4])) == [[0, 1, 2, 3]]


def test_two_sources_of_a_visit_are_two_objects() -> None:
    rows = sources([0.0, 0.3, 0.01, 0.29, 0.02, 0.31], [1, 1, 2, 2, 3, 3])
    assert members(rows) == [[0, 2, 4], [1, 3, 5]]


def test_a_blend_goes_to_the_nearer_star_and_does_not_weld_them() -> None:
    rows = sources([0.0, 0.4, 0.01, 0.41, 0.15, 0.0, 0.4], [1, 1, 2, 2, 3, 4, 4])
    assert members(rows) == [[0, 2, 4, 5], [1, 3, 6]]


def test_a_source_half_way_goes_to_one_of_them() -> None:
    rows = sources([0.0, 0.4, 0.2], [1, 1, 2])
    assert members(rows) in ([[0, 2], [1]], [[0], [1, 2]])


def associated_pair(n_good: int, n_bad: int, apart: float, faint: float) -> Association:
    """Of two stars that good seeing shows apart, and bad seeing as one."""
    n = n_good + n_bad
    between = apart * faint / (1.0 + faint)
    rows = sources(
        [0.0, apart] * n_good + [between] * n_bad,
        [visit for visit in range(n_good) for _ in (0, 1)] + list(range(n_good, n)),
    )
    rows["fwhm"] = np.where(rows["visit"] < n_good, 0.6, 1.1)
    east = 3600.0 * (rows["ra"] - 80.0)
    rows["psfFlux"] = np.where(rows["visit"] < n_good, np.where(east < 0.1, 1.0, faint), 1 + faint)
    return associate(rows, np.ones(len(rows), bool), None, ("r",), FWHM, 10.0)


@pytest.mark.parametrize("faint", [0.3, 0.9])
@pytest.mark.parametrize("n_bad", [2, 9])
def test_sources_that_are_two_stars_are_flagged_and_pull_neither(faint: float, n_bad: int) -> None:
    done = associated_pair(3, n_bad, 0.6, faint)
    bright, other = done.object
    assert (bright["nSources"], other["nSources"]) == (3 + n_bad, 3)
    merged = done.source["flag_merged"]
    assert (merged == (done.source["visit"] >= 3)).all()
    assert bright["flag_merged"] and not other["flag_merged"]
    assert 3.6e6 * abs(bright["ra"] - 80.0) < 1.0  # mas
    assert bright["psfFluxMean_r"] == pytest.approx(1.0)


def test_one_visit_that_breaks_a_source_in_two_does_not_make_a_neighbour() -> None:
    n = 40
    rows = sources([0.0] * (n - 1) + [-0.3, 0.3], [*range(n), n - 1])
    rows["fwhm"], rows["psfFlux"] = FWHM, 1.0
    done = associate(rows, np.ones(len(rows), bool), None, ("r",), FWHM, 10.0)
    assert sorted(done.object["nSources"].tolist()) == [1, n]
    assert not done.source["flag_merged"].any()


def test_thousands_of_visits_of_a_close_pair_need_no_pairs_of_sources() -> None:
    n = 4000
    rng = np.random.default_rng(3)
    east = np.repeat([[0.0, 0.5]], n, axis=0) + rng.normal(0.0, 0.03, (n, 2))
    rows = sources(east.ravel().tolist(), np.repeat(np.arange(n), 2).tolist(), interval=0.1)
    rows["id"] = np.arange(2 * n)
    start = process_time()
    assert [len(part) for part in members(rows)] == [n, n]
    assert process_time() - start < 5.0  # 3e7 pairs, and as many looks at each part, take longer


def test_objects_are_no_wider_than_the_limit() -> None:
    """A chain in no order of time is cut."""
    east, visit = [0.0, 0.4, 0.8, 1.2, 1.6], [3, 1, 5, 2, 4]
    found = members(sources(east, visit))
    assert len(found) > 1
    assert sorted(sum(found, [])) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("step", [0.3, 0.45])
def test_a_fast_star_is_one_object(step: float) -> None:
    n = 12
    rows = sources([step * k for k in range(n)], list(range(n)), [0.01 * (k % 3) for k in range(n)])
    assert members(rows) == [list(range(n))]


def test_a_fast_star_and_one_it_passes_are_two_objects() -> None:
    n = 15
    fast = [0.3 * k - 2.0 for k in range(n)]
    north = [0.3 + 0.01 * (k % 2) for k in range(n)]
    rows = sources(fast + [0.0] * n, 2 * list(range(n)), north + [0.0] * n)
    by_place = {frozenset(i % 2 for i in part) for part in members(rows)}
    assert len(members(rows)) == 2
    assert all(len(kinds) == 1 for kinds in by_place)


def test_an_asteroid_is_not_welded_to_the_star_it_crosses() -> None:
    star = [0.0] * 6
    rows = sources([*star, 0.25, 8.0, 16.0], [1, 2, 3, 4, 5, 6, 3, 3, 3], interval=1.0)
    assert [0, 1, 2, 6, 7, 8] in members(rows)
    # Its sources in successive visits of a night follow each other within a link radius.
    rows = sources([0.4 * k for k in range(6)], list(range(6)), interval=0.001)
    assert max(map(len, members(rows))) < 6


def test_stars_seen_in_turn_are_not_a_moving_one() -> None:
    rows = sources([0.0, 0.4, 0.8, 1.2, 0.0, 1.2, 0.4, 0.8], [1, 8, 3, 2, 5, 4, 7, 6])
    assert len(members(rows)) > 1


def test_isolated_stars_are_found_whole() -> None:
    """Far apart, objects are the stars whatever else is done."""
    rng = np.random.default_rng(5)
    n, n_visits = 300, 7
    east = np.tile(5.0 * np.arange(n), n_visits) + rng.normal(0, 0.05, n * n_visits)
    rows = sources(east.tolist(), np.repeat(np.arange(n_visits), n).tolist())
    assert members(rows) == [[i + n * k for k in range(n_visits)] for i in range(n)]


def test_nothing_gives_nothing() -> None:
    assert members(SOURCE.empty()) == []


def test_a_star_faster_than_a_link_radius_a_visit_is_followed() -> None:
    """Also through visits that miss it, past stars at rest, and with an asteroid beside."""
    n = 14
    seen = [k for k in range(n) if k not in (4, 9, 10)]
    fast = [1.3 * k - 8.0 for k in seen]
    still, asteroid = [0.0] * n + [4.0] * n, [-3.0, 2.0]
    rows = sources(
        fast + still + asteroid,
        seen + 2 * list(range(n)) + [2, 9],
        [0.7] * len(seen) + [0.0] * 2 * n + [1.5, -1.5],
    )
    found = associate(rows, np.ones(len(rows), bool), None, ("r",), FWHM, 4.0)
    counts = found.object["nSources"].tolist()
    assert sorted(counts) == [1, 1, len(seen), n, n]
    mover = found.object[np.array(counts) == len(seen)][0]
    assert mover["pmRa"] == pytest.approx(1.3e3 * 3.6525, rel=1e-3)
    short = associate(rows, np.ones(len(rows), bool), None, ("r",), FWHM, 0.04)
    assert max(short.object["nSources"]) == n and len(short.object) == len(seen) + 4


def test_a_star_that_becomes_another_brightness_is_not_followed() -> None:
    rows = sources([1.3 * k for k in range(6)], list(range(6)))
    rows["psfFlux"] = 10.0 * 3.0 ** np.arange(6)
    assert len(members(rows)) == 6
