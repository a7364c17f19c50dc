"""The toy catalogues of association: what their scores count, and what association makes of one."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from _toy_association import FWHM, Toy, pulls, score, toy_sky

from mpipipe.stages.sa.associate import associate


def test_scores_count_splits_and_merges() -> None:
    star = np.array([0, 0, 1, 1, 2, 2, 3, -1])
    objects = np.array([10, 10, 11, 12, 13, 13, 13, 10])
    every = np.ones(4, bool)
    found = score(star, objects, every)
    assert (found.n, found.split, found.merged) == (3, 1 / 3, 1 / 3)
    assert score(star, objects, np.array([True, False, False, False])).split == 0.0


def test_association_of_a_toy_sky_meets_its_targets() -> None:
    toy = Toy(
        n_stars=1500, density=3e4, n_epochs=12, interval=300.0, fast=0.5, fastest=100.0,
        parallax=30.0, asteroids=0.01,
    )  # fmt: skip
    sky = toy_sky(toy, 1)
    assert (np.diff(sky.rows["id"]) > 0).all()
    done = associate(sky.rows, np.ones(len(sky.rows), bool), None, ("g", "r", "i"), FWHM, 10.0)
    star = sky.star[np.isin(sky.rows["id"], done.source["id"])]
    lonely = score(star, done.source["objectId"], sky.neighbour > 3.0)
    assert lonely.n > 1000 and lonely.split + lonely.merged < 0.002
    for name, values in pulls(sky, done.object, sky.neighbour > 4.0).items():
        assert len(values) > 300 and abs(np.std(values) - 1.0) < 0.12, name
