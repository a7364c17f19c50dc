"""Matching: right or refused, from any offset, rotation and parity, anywhere on the sky."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpipipe.data.tan_sip import gnomonic, middle
from mpipipe.sim.toystars import ToyLists, ToyStars, toy_lists
from mpipipe.stages.ic.nearest import nearest_pairs
from mpipipe.stages.ic.pattern_match import PatternMatch, Search, match_pattern, match_shift

WRONG = 6.0
"""Arcsec anywhere on the CCD: more than a linear map must leave of 3 arcsec of distortion."""
BLIND = Search(rotation=180.0)


def matched(
    options: ToyStars, field: ToyLists, search: Search | None = None, other: ToyLists | None = None
) -> tuple[PatternMatch | None, np.ndarray]:
    """The match of a field's sources with its (or another's) stars, and (2, 2) arcsec per pixel."""
    catalogue = other or field
    (xc, yc), _ = middle(options.shape)
    blind = search is not None and search.rotation == 180.0
    matrix = options.pixel_scale * np.eye(2) if blind else field.header.cd * 3600.0
    sources = np.stack([field.x - xc, field.y - yc], axis=1) @ matrix.T
    at = options.ra, options.dec
    stars = np.stack(gnomonic(catalogue.ra, catalogue.dec, *at), axis=1) * 3600.0
    size = options.shape[1] * options.pixel_scale, options.shape[0] * options.pixel_scale
    return match_pattern(
        sources, stars, size, options.pixel_scale, search or Search().at(options.dec)
    ), matrix


def largest_error(
    options: ToyStars, field: ToyLists, match: PatternMatch, matrix: np.ndarray
) -> float:
    """Of the map found, arcsec, on a grid over the CCD."""
    (xc, yc), _ = middle(options.shape)
    x, y = (c.ravel() for c in np.meshgrid(*(np.linspace(0, n, 9) for n in options.shape[::-1])))
    at = np.stack([x - xc, y - yc], axis=1) @ matrix.T @ match.matrix.T + match.offset
    truth = np.stack(gnomonic(*field.wcs.pixel_to_sky(x, y), options.ra, options.dec), axis=1)
    return float(np.hypot(*(at - truth * 3600.0).T).max())


def polar(radius: float, angle: float) -> tuple[float, float]:
    return radius * float(np.cos(angle)), radius * float(np.sin(angle))


@settings(max_examples=60)
@given(
    n=st.integers(40, 1000),
    outliers=st.floats(0.0, 0.7),
    radius=st.floats(0.0, 299.0),
    angle=st.floats(0.0, 6.28),
    rotation=st.floats(-2.0, 2.0),
    scale=st.floats(0.98, 1.02),
    parity=st.sampled_from([-1, 1]),
    ra=st.one_of(st.floats(0.0, 359.999), st.sampled_from([0.0, 359.99])),
    dec=st.one_of(st.floats(-89.0, 89.0), st.sampled_from([-89.0, 89.0])),
    seed=st.integers(0, 10**6),
)
def test_any_field_is_found(
    n: int, outliers: float, radius: float, angle: float, rotation: float, scale: float,
    parity: int, ra: float, dec: float, seed: int,
) -> None:  # fmt: skip
    options = ToyStars(
        n=n, outliers=outliers, ra=ra, dec=dec, offset=polar(radius, angle), rotation=rotation,
        scale=scale, parity=parity,
    )  # fmt: skip
    field = toy_lists(options, seed)
    match, matrix = matched(options, field)
    assert match is not None
    assert largest_error(options, field, match, matrix) < WRONG
    right = field.star[match.source] == match.reference
    assert right.mean() > 0.9


@settings(max_examples=12)
@given(
    n=st.integers(40, 300),
    outliers=st.floats(0.0, 0.6),
    rotation=st.floats(-180.0, 180.0),
    parity=st.sampled_from([-1, 1]),
    seed=st.integers(0, 10**6),
)
def test_a_field_without_a_header_is_found_at_any_rotation(
    n: int, outliers: float, rotation: float, parity: int, seed: int
) -> None:
    options = ToyStars(
        n=n, outliers=outliers, offset=(120.0, -90.0), rotation=rotation, scale=1.01, parity=parity
    )
    field = toy_lists(options, seed)
    match, matrix = matched(options, field, BLIND)
    assert match is not None
    assert largest_error(options, field, match, matrix) < WRONG


@pytest.mark.parametrize(("n", "trials"), [(8, 100), (20, 100), (40, 60), (80, 15), (300, 8)])
def test_unrelated_catalogues_are_refused(n: int, trials: int) -> None:
    options = ToyStars(n=n, outliers=0.0)
    fields = [toy_lists(options, seed) for seed in range(trials + 1)]
    for field, other in zip(fields, fields[1:], strict=False):
        assert matched(options, field, other=other)[0] is None


def test_unrelated_catalogues_are_refused_at_any_rotation() -> None:
    options = ToyStars(n=30, outliers=0.0)
    fields = [toy_lists(options, seed) for seed in range(16)]
    for field, other in zip(fields, fields[1:], strict=False):
        assert matched(options, field, BLIND, other)[0] is None


def test_clustered_fields_are_no_match_for_each_other() -> None:
    """Stars in two unrelated clusters lie near each other by the dozen."""
    rng = np.random.default_rng(5)
    for _ in range(8):
        sources, stars = rng.normal(0.0, 40.0, (2, 300, 2))
        assert match_pattern(sources, stars, (800.0, 800.0), 0.2) is None


@pytest.mark.parametrize("n_true", [3, 4, 5])
def test_fewer_than_six_true_stars_are_never_a_wrong_solution(n_true: int) -> None:
    for seed in range(40):
        options = ToyStars(n=16, outliers=1.0 - n_true / 16, offset=(30.0, 20.0))
        field = toy_lists(options, seed)
        match, matrix = matched(options, field)
        assert match is None or largest_error(options, field, match, matrix) < WRONG


def test_the_number_of_sources_costs_nothing() -> None:
    """200,000 sources: the brightest decide."""
    from time import process_time

    options = ToyStars(n=200_000, outliers=0.5, offset=(100.0, -200.0), rotation=1.0)
    field = toy_lists(options, 1)
    start = process_time()
    match, matrix = matched(options, field)
    assert process_time() - start < 2.0
    assert match is not None and largest_error(options, field, match, matrix) < WRONG


def shifted(n: int, n_other: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    stars = rng.uniform(-400.0, 400.0, (n, 2))
    others = rng.uniform(-450.0, 450.0, (n_other, 2))
    sources = np.concatenate([stars - [7.0, -4.0], rng.uniform(-400.0, 400.0, (n_other, 2))])
    return sources, np.concatenate([stars, others])


@pytest.mark.parametrize("n", [3, 4, 5])
def test_few_stars_give_a_shift(n: int) -> None:
    for seed in range(20):
        match = match_shift(*shifted(n, 4, seed), (800.0, 800.0), 30.0, 1.0)
        assert match is not None
        np.testing.assert_allclose(match.offset, [7.0, -4.0], atol=0.5)


def test_few_unrelated_stars_give_none() -> None:
    for seed in range(300):
        assert match_shift(*shifted(0, 8, seed), (800.0, 800.0), 30.0, 1.0) is None


def test_two_stars_are_too_few_for_a_shift() -> None:
    assert match_shift(*shifted(2, 3, 1), (800.0, 800.0), 30.0, 1.0) is None


def test_pairs_are_nearest_both_ways() -> None:
    first = np.array([[0.0, 0.0], [0.4, 0.0], [5.0, 5.0], [np.nan, 1.0]])
    second = np.array([[0.3, 0.0], [5.0, 5.9], [9.0, 9.0], [np.nan, np.nan]])
    index, partner = nearest_pairs(first, second, 1.0)
    assert index.tolist() == [1, 2] and partner.tolist() == [0, 1]


@given(st.integers(0, 10**6))
def test_pairs_are_those_of_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.uniform(0.0, 10.0, (30, 2)), rng.uniform(0.0, 10.0, (50, 2))
    distance = np.hypot(*(first[:, None] - second[None]).transpose(2, 0, 1))
    distance[distance >= 1.0] = np.inf
    expected = [
        (k, m)
        for k, m in enumerate(distance.argmin(axis=1))
        if np.isfinite(distance[k, m]) and distance[:, m].argmin() == k
    ]
    index, partner = nearest_pairs(first, second, 1.0)
    assert list(zip(index.tolist(), partner.tolist(), strict=True)) == expected
