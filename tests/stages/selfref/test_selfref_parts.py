"""The parts of a catalogue from frames, each against a known answer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpipipe.data.sky_vectors import sky_of, unit_vectors
from mpipipe.stages.selfref.fixed import belong_to_detector, stay_in_place
from mpipipe.stages.selfref.magnitudes import ZERO, Photometry, relative_photometry
from mpipipe.stages.selfref.sky_stars import SkyStars


@settings(max_examples=60, deadline=None)
@given(
    ra=st.floats(0.0, 360.0),
    dec=st.floats(-90.0, 90.0),
    radius=st.floats(0.01, 30.0),
    cell=st.floats(0.05, 5.0),
    seed=st.integers(0, 1000),
)
def test_stars_are_found_anywhere_on_the_sky(
    ra: float, dec: float, radius: float, cell: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    stars = SkyStars(cell)
    vectors = unit_vectors(ra, dec) + rng.normal(0.0, np.radians(radius), (200, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    numbers = stars.add(200, vectors)
    stars.put(numbers, vectors, np.full(200, 10.0), np.full(200, np.nan))
    apart = 2.0 * np.arcsin(np.linalg.norm(vectors - unit_vectors(ra, dec), axis=1) / 2.0)
    sure = np.abs(np.degrees(apart) - radius) > 1e-9
    near = np.isin(np.arange(200), stars.near(unit_vectors(ra, dec), radius))
    assert np.array_equal(near[sure], (np.degrees(apart) <= radius)[sure])


def test_what_is_taken_away_leaves_nothing() -> None:
    stars = SkyStars(1.0)
    vectors = unit_vectors(np.array([10.0, 10.001]), np.array([20.0, 20.0]))
    numbers = stars.add(2, vectors)
    first, second = np.array([5.0, 5.0]), np.array([0.1, 0.1])
    stars.put(numbers, vectors, first, np.array([15.0, np.nan]))
    stars.put(numbers, vectors[::-1], second, np.array([17.0, 3.0]))
    assert stars.magnitudes(numbers) == pytest.approx([16.0, 3.0])
    stars.put(numbers, vectors[::-1], second, np.array([17.0, 3.0]), sign=-1)
    ra, dec, error = stars.places(numbers)
    assert ra == pytest.approx([10.0, 10.001], abs=1e-10) and error == pytest.approx(first)
    stars.put(numbers, vectors, first, np.array([15.0, np.nan]), sign=-1)
    assert len(stars.near(vectors[0], 1.0)) == 0 and not stars.vectors.any()
    assert sky_of(unit_vectors(359.9, -89.0)) == pytest.approx((359.9, -89.0))


def photometry_of(
    clouds: np.ndarray, seen: np.ndarray, noise: float = 0.0
) -> tuple[np.ndarray, Photometry]:
    """Stars of 15 to 19 mag in frames of 10 s, and what is found of them."""
    rng = np.random.default_rng(7)
    truth = rng.uniform(15.0, 19.0, seen.shape[1])
    frame, star = np.nonzero(seen)
    magnitude = truth[star] - (27.5 - clouds[frame]) + noise * rng.standard_normal(len(star))
    return truth, relative_photometry(
        star, frame, magnitude, np.full(len(star), 0.005), np.full(len(clouds), 10.0), len(truth)
    )


def test_zero_points_reach_through_a_chain_of_frames() -> None:
    """Only neighbours share stars; all is exact from one end to the other."""
    clouds = np.linspace(0.0, 2.0, 40)
    seen = np.zeros((40, 200), dtype=bool)
    for number in range(40):
        seen[number, 4 * number : 4 * number + 10] = True
    truth, found = photometry_of(clouds, seen)
    assert np.allclose(found.zero_point, ZERO + 2.5 - clouds, atol=1e-6)
    known = seen.any(axis=0)
    assert np.allclose(found.magnitude[known] - truth[known], ZERO + 2.5 - 27.5, atol=1e-6)
    assert np.isnan(found.magnitude[~known]).all() and set(found.part) == {0}


def test_parts_have_zeros_of_their_own_and_variable_stars_lose() -> None:
    seen = np.zeros((7, 60), dtype=bool)
    seen[:3, :30], seen[3:6, 30:] = True, True
    truth, found = photometry_of(np.array([0.5, 0.7, 1.0, 0.0, 0.1, 0.2, 0.0]), seen, noise=0.003)
    assert found.part.tolist() == [0, 0, 0, 1, 1, 1, -1] and np.isnan(found.zero_point[6])
    steps = found.zero_point - (ZERO + 2.5)
    assert np.allclose(steps[:6], [0.0, -0.2, -0.5, 0.0, -0.1, -0.2], atol=0.003)
    assert np.all((found.zero_point_error[:6] > 0.0005) & (found.zero_point_error[:6] < 0.003))


def test_sources_that_stay_on_the_detector() -> None:
    rng = np.random.default_rng(3)
    frames, stars = [], []
    for number in range(10):
        drift = rng.uniform(5, 990, (30, 2))
        frames.append(np.concatenate([[[100.9, 200.1], [500.0, 500.0]], drift]))
        # The first is a new star every time; the second always the same.
        stars.append(np.concatenate([[1000 + number, 7], 100 * number + np.arange(30)]))
    jitter = [frame + rng.normal(0, 0.1, frame.shape) for frame in frames]
    assert all(mask[:2].all() for mask in stay_in_place(jitter, 0.5))
    assert sum(int(mask[2:].sum()) for mask in stay_in_place(jitter, 0.5)) == 0
    for mask in belong_to_detector(jitter, stars, 0.2):
        assert mask[0] and not mask[1:].any()


def test_a_single_frame_has_the_zero() -> None:
    """Nothing relates it to others: the equations are empty."""
    seen = np.zeros((3, 20), dtype=bool)
    seen[1] = True
    truth, found = photometry_of(np.array([0.0, 0.4, 0.0]), seen, noise=0.01)
    assert found.zero_point[1] == ZERO + 2.5 and np.isnan(found.zero_point[[0, 2]]).all()
    assert np.allclose(found.magnitude - truth, ZERO + 2.5 - 27.1, atol=0.05)
