"""The sky: as many objects as asked for, the same ones for everybody."""

from __future__ import annotations

import numpy as np
import pytest

from mpipipe.sim.refcat import reference_stars
from mpipipe.sim.sky import (
    GALAXY,
    STAR,
    TILE,
    expected_count,
    magnitudes_at,
    objects_around,
    positions_at,
    tile_objects,
)
from mpipipe.sim.survey import Survey, preset
from mpipipe.sim.truth import survey_objects


@pytest.fixture(scope="module")
def wide() -> tuple[Survey, np.ndarray, float]:
    survey = preset("tiny", galaxy_mag_max=25.5)
    rows = np.concatenate([tile_objects(survey, i, j) for i in range(8) for j in range(8)])
    return survey, rows, 64 * TILE**2


def test_counts_are_as_asked(wide: tuple[Survey, np.ndarray, float]) -> None:
    survey, rows, area = wide
    for kind, density, pivot, slope, low, high in (
        (STAR, survey.star_density, 20.0, survey.star_slope, 18.0, 22.0),
        (STAR, survey.star_density, 20.0, survey.star_slope, 22.0, 26.0),
        (GALAXY, survey.galaxy_density, 24.0, survey.galaxy_slope, 20.0, 23.0),
        (GALAXY, survey.galaxy_density, 24.0, survey.galaxy_slope, 23.0, 25.0),
    ):
        expected = expected_count(density, pivot, low, high, slope) * area
        mag = rows["mag_r"][rows["kind"] == kind]
        assert abs(((mag > low) & (mag < high)).sum() - expected) < 4.5 * np.sqrt(expected)


def test_groups_put_neighbours_closer_than_chance(wide: tuple[Survey, np.ndarray, float]) -> None:
    from scipy.spatial import cKDTree

    _, rows, _ = wide
    galaxies = rows[rows["kind"] == GALAXY]
    at = np.stack([galaxies["ra"] * np.cos(np.radians(2.2)), galaxies["dec"]], axis=1) * 3600
    pairs = len(cKDTree(at).query_pairs(5.0))
    area = np.ptp(at[:, 0]) * np.ptp(at[:, 1])
    chance = len(at) ** 2 / 2 * np.pi * 25 / area
    assert pairs > 1.1 * chance


def test_identifiers_are_unique_and_tiles_do_not_depend_on_each_other(
    wide: tuple[Survey, np.ndarray, float],
) -> None:
    survey, rows, _ = wide
    assert len(np.unique(rows["id"])) == len(rows)
    tile_objects.cache_clear()
    again = tile_objects(survey, 5, 2)
    assert np.array_equal(again, rows[np.isin(rows["id"], again["id"])])
    other = tile_objects(preset("tiny", galaxy_mag_max=25.5, seed=2), 5, 2)
    assert len(other) != len(again) or not np.array_equal(other["ra"], again["ra"])


def test_around_a_place_is_everything_there(survey: Survey) -> None:
    big = objects_around(survey, survey.ra, survey.dec, 6.0)
    small = objects_around(survey, survey.ra + 0.02, survey.dec - 0.03, 1.0)
    assert np.isin(small["id"], big["id"]).all()


def test_variables_vary_and_others_do_not(survey: Survey) -> None:
    rows = objects_around(survey, survey.ra, survey.dec, 6.0)
    now = magnitudes_at(survey, rows, "r", survey.mjd)
    later = magnitudes_at(survey, rows, "r", survey.mjd + 0.37)
    varies = rows["amplitude"] > 0
    assert 0.005 < varies[rows["kind"] == STAR].mean() < 0.05
    assert np.array_equal(now[~varies], later[~varies])
    assert np.abs(now - later)[varies].max() > 0.1


def test_stars_move_by_their_proper_motion(survey: Survey) -> None:
    rows = objects_around(survey, survey.ra, survey.dec, 3.0)
    rows = rows[rows["kind"] == STAR]
    ra, dec = positions_at(survey, rows, survey.mjd + 3652.5)
    moved = (dec - rows["dec"]) * 3.6e6
    assert np.allclose(moved, rows["pm_dec"] * 10.0, atol=1e-3)
    assert np.std((ra - rows["ra"]) * 3.6e6) == pytest.approx(80.0, rel=0.2)


def test_reference_stars_carry_their_quoted_errors_and_no_truth() -> None:
    survey = preset("tiny", galaxy_mag_max=25.1, star_density=4.0, star_mag_max=23.0)
    truth, stars = survey_objects(survey), reference_stars(survey)
    known = truth[(truth["kind"] == STAR) & (truth["mag_r"] < survey.reference_mag_max)]
    assert not np.isin(stars["id"], truth["id"]).any()
    nearest = np.abs(stars["dec"][:, None] - known["dec"]) + np.abs(
        stars["ra"][:, None] - known["ra"]
    )
    match = known[nearest.argmin(axis=1)]
    pulls = (stars["dec"] - match["dec"]) * 3.6e6 / stars["dec_error"]
    assert 0.85 < np.std(pulls) < 1.15
    pulls = (stars["mag_g"] - match["mag_g"]) / stars["mag_g_error"]
    assert 0.85 < np.std(pulls) < 1.15
    assert len(stars) == pytest.approx(
        survey.reference_completeness * (known["mag_r"] > survey.reference_mag_min).sum(), rel=0.05
    )
