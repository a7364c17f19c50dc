"""Neighbours on the sky are those that comparing all with all finds."""

from __future__ import annotations

import numpy as np
import pytest

from mpipipe.data.sky_vectors import unit_vectors
from mpipipe.quality.scorecard.neighbours import Places

FIELDS = {"equator": (359.9, 0.0), "high": (10.0, 60.0), "pole": (0.0, 89.99)}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("number", [0, 1, 2, 300])
def test_neighbours(field: str, number: int) -> None:
    rng = np.random.default_rng(number)
    ra, dec = FIELDS[field]
    vectors = unit_vectors(
        (ra + rng.uniform(-0.3, 0.3, number) / np.cos(np.radians(dec))) % 360.0,
        np.clip(dec + rng.uniform(-0.3, 0.3, number), -90.0, 90.0),
    )
    if number > 2:
        vectors[1] = vectors[0]
    apart = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    places = Places(vectors)
    near, far = 1e-3, 2.5e-3
    for one in range(0, number, 17):
        expected = np.flatnonzero((apart[one] >= near) & (apart[one] <= far))
        assert places.around(one, near, far).tolist() == expected.tolist()
    found = {tuple(sorted(pair)) for pair in places.pairs(far).tolist()}
    expected_pairs = np.argwhere(np.triu(apart <= far, 1))
    assert found == set(map(tuple, expected_pairs.tolist()))
    assert len(places.pairs(far)) == len(found), "each once"
