"""Stars for the PSF are told from galaxies; they cover the field evenly, and are held out alike."""

from __future__ import annotations

import numpy as np

from mpipipe.data.icsrc import ICSRC
from mpipipe.stages.ic.star_selection import choose_stars
from mpipipe.stages.seeing import Seeing, default_seeing

SHAPE = (2000, 3000)
SEEING = Seeing(4.0, 2.89, 2.89, 0.0, (0.5, 0.5, 0.5, 0.5))


def catalogue(n_stars: int, n_galaxies: int = 0, seed: int = 1) -> np.ndarray:
    """Stars whose size and ellipticity vary over the field; larger galaxies after them."""
    rng = np.random.default_rng(seed)
    n = n_stars + n_galaxies
    rows = ICSRC.empty(n)
    rows["x"], rows["y"] = rng.uniform(0, SHAPE[1], n), rng.uniform(0, SHAPE[0], n)
    rows["snr"] = 50 * rng.pareto(1.0, n) + 41
    rows["apInstFlux"] = 100 * rows["snr"]
    u, v = 2 * rows["x"] / SHAPE[1] - 1, 2 * rows["y"] / SHAPE[0] - 1
    size = 2.89 * (1 + 0.08 * (u * u + v * v) + 0.03 * u)
    size[n_stars:] *= rng.uniform(1.15, 3.0, n_galaxies)
    e1 = 0.05 * (u * u - v * v)
    e1[n_stars:] += rng.normal(0, 0.2, n_galaxies)
    noise = 1.5 / rows["snr"]
    size *= 1 + noise * rng.standard_normal(n)
    rows["ixx"], rows["iyy"] = size * (1 + e1), size * (1 - e1)
    rows["ixy"] = size * noise * rng.standard_normal(n)
    return rows


def test_stars_among_as_many_galaxies() -> None:
    rows = catalogue(300, 300)
    choice = choose_stars(rows, SEEING, SHAPE)
    chosen = np.concatenate([choice.stars, choice.reserved])
    assert (chosen < 300).sum() > 285
    assert (chosen >= 300).sum() < 12
    assert choice.level == 0


def test_a_fifth_is_held_out_evenly_in_brightness() -> None:
    rows = catalogue(200)
    choice = choose_stars(rows, SEEING, SHAPE)
    assert len(choice.reserved) == round(0.2 * (len(choice.stars) + len(choice.reserved)))
    assert not set(choice.stars) & set(choice.reserved)
    ratio = np.median(rows["snr"][choice.reserved]) / np.median(rows["snr"][choice.stars])
    assert 0.8 < ratio < 1.25


def test_few_stars_are_all_used() -> None:
    for n in (1, 2, 3, 5, 12):
        choice = choose_stars(catalogue(n), SEEING, SHAPE)
        assert len(choice.stars) >= max(1, n - 1)
        assert not len(choice.reserved)


def test_flags_and_faintness_exclude_while_there_are_enough() -> None:
    rows = catalogue(200)
    for k, name in enumerate(("saturated", "edge", "crowded", "cr", "bad", "shape")):
        rows[f"flag_{name}"][10 * k : 10 * k + 10] = True
    rows["snr"][60:70] = 30
    choice = choose_stars(rows, SEEING, SHAPE)
    assert min(choice.stars.min(), choice.reserved.min()) >= 70
    assert not choice.candidates[:70].any()


def test_crowding_everywhere_still_leaves_stars() -> None:
    rows = catalogue(100)
    rows["flag_crowded"] = True
    choice = choose_stars(rows, SEEING, SHAPE)
    assert choice.level == 3
    assert len(choice.stars) > 60


def test_nothing_to_choose() -> None:
    none = choose_stars(ICSRC.empty(0), default_seeing(4.0), SHAPE)
    assert not len(none.stars)
    rows = catalogue(20)
    rows["flag_saturated"] = True
    assert not len(choose_stars(rows, SEEING, SHAPE).stars)


def test_of_many_the_best_evenly_over_the_field() -> None:
    rows = catalogue(50_000)
    rows["x"][:25_000] *= 0.1  # half of them in a tenth of the field
    choice = choose_stars(rows, SEEING, SHAPE, most=1000)
    chosen = np.concatenate([choice.stars, choice.reserved])
    assert len(chosen) == 1000
    counts, _, _ = np.histogram2d(rows["x"][chosen], rows["y"][chosen], 4)
    assert counts.min() > 40
    assert counts.max() < 90
    assert np.median(rows["snr"][chosen]) > 3 * np.median(rows["snr"])
