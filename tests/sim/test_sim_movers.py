"""Bodies of the Solar System: orbits, how many there are, and their trails."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mpipipe.sim.earth import earth_from_sun
from mpipipe.sim.exposures import Bodies, draw_bodies, field_radius, simulate_visit
from mpipipe.sim.instrument import make_chip, make_instrument
from mpipipe.sim.movers import FIRST_ID, MOVERS, in_field, places_at, survey_movers
from mpipipe.sim.orbits import (
    GM_SUN,
    LIGHT_DAYS,
    brightness,
    elements,
    propagate,
    seen_from_earth,
    stumpff,
)
from mpipipe.sim.survey import Survey, preset

START = 60676.0


def circular(radius: float) -> np.ndarray:
    """A body on a circle in the ecliptic's equator."""
    speed = np.sqrt(GM_SUN / radius)
    return np.array([[radius, 0.0, 0.0, 0.0, speed, 0.0]])


def test_a_circle_closes_after_keplers_period() -> None:
    state = circular(2.5)
    year = 2 * np.pi / np.sqrt(GM_SUN) * 2.5**1.5
    for share, wanted in ((1.0, [2.5, 0, 0]), (0.25, [0, 2.5, 0]), (-0.5, [-2.5, 0, 0])):
        np.testing.assert_allclose(propagate(state, share * year)[0, :3], wanted, atol=1e-10)
    a, e, inclination = elements(state)
    assert a[0] == pytest.approx(2.5) and e[0] == pytest.approx(0, abs=1e-7)
    assert inclination[0] == pytest.approx(23.4393)


@pytest.mark.parametrize("scale", [0.4, 0.9, 1.2, 1.41, 1.8])
def test_any_conic_agrees_with_integration(scale: float) -> None:
    """From a long ellipse to a hyperbola, there and back over years."""
    from scipy.integrate import solve_ivp

    state = circular(1.7)
    state[0, 3:] *= scale
    state[0, 5] = 0.002

    def force(t: float, y: np.ndarray) -> np.ndarray:
        return np.concatenate([y[3:], -GM_SUN * y[:3] / np.linalg.norm(y[:3]) ** 3])

    for days in (-400.0, 0.01, 3.0, 900.0):
        wanted = solve_ivp(force, (0.0, days), state[0], method="DOP853", rtol=1e-12, atol=1e-14).y[
            :, -1
        ]
        found = propagate(state, days)
        np.testing.assert_allclose(found[0], wanted, atol=2e-9)
        np.testing.assert_allclose(propagate(found, -days)[0], state[0], atol=1e-9)


def test_stumpffs_functions_have_no_step_where_the_series_ends() -> None:
    z = np.array([-0.0101, -0.0099, 0.0, 0.0099, 0.0101])
    c, d = stumpff(z)
    np.testing.assert_allclose(c, 0.5 - z / 24 + z**2 / 720, rtol=1e-9)
    np.testing.assert_allclose(d, 1 / 6 - z / 120 + z**2 / 5040, rtol=1e-9)


def test_light_takes_its_time() -> None:
    state, epoch = circular(2.5), np.array([START])
    ra, dec, _, distance = seen_from_earth(state, epoch, START)
    there = propagate(state, -LIGHT_DAYS * distance)[0, :3] - earth_from_sun(START)
    assert ra[0] == pytest.approx(np.degrees(np.arctan2(there[1], there[0])) % 360, abs=1e-9)
    assert dec[0] == pytest.approx(np.degrees(np.arcsin(there[2] / distance[0])), abs=1e-9)


def test_brightness_by_distance_and_phase() -> None:
    """At opposition there is no phase; twice as far from both means 1.2 magnitudes for each."""
    earth = float(np.linalg.norm(earth_from_sun(START)))
    r = np.array([2.0, 4.0])
    found = brightness(np.array([15.0, 15.0]), r, r - earth, START)
    np.testing.assert_allclose(found, 15.0 + 5 * np.log10(r * (r - earth)), atol=1e-6)
    aside = brightness(np.array([15.0]), np.array([2.0]), np.array([2.0]), START)
    assert aside[0] > 15.0 + 5 * np.log10(4.0) + 0.5


@pytest.fixture(scope="module")
def survey() -> Survey:
    return preset("small", asteroids=3000.0, n_visits=8, visit_interval=0.35)


def test_as_many_as_asked_at_every_visit(survey: Survey) -> None:
    radius = 0.5
    rows = survey_movers(survey, radius)
    expected = survey.asteroids * np.pi * radius**2
    for visit in range(survey.n_visits):
        places = places_at(rows, survey.mjd + visit * survey.visit_interval)
        inside = in_field(survey, places, radius).sum()
        assert abs(inside - expected) < 4.5 * np.sqrt(expected), visit
    assert len(rows) > 1.1 * expected, "new ones come as others leave"
    assert len(np.unique(rows["id"])) == len(rows) and rows["id"].min() == FIRST_ID


def test_they_move_as_their_families_do(survey: Survey) -> None:
    rows = survey_movers(survey, 0.5)
    now, later = places_at(rows, survey.mjd), places_at(rows, survey.mjd + 0.1)
    east = (later.ra - now.ra) * np.cos(np.radians(now.dec))
    speed = np.hypot(east, later.dec - now.dec) / 0.1
    for family, low, high in ((b"belt", 0.02, 0.5), (b"distant", 0.001, 0.06)):
        chosen = rows["family"] == family
        assert chosen.sum() > 20
        assert low < np.median(speed[chosen]) < high
    belt = rows[rows["family"] == b"belt"]
    assert (belt["e"] < 0.8).all() and (belt["a"] > 1.2).all()
    assert np.median(belt["inclination"]) < 20
    begin = rows["epoch"] == survey.mjd
    assert (now.mag[begin] > survey.asteroid_mag_min - 0.01).all()
    assert (now.mag[begin] < survey.asteroid_mag_max + 0.01).all()


def test_nobody_is_there_unless_asked() -> None:
    assert len(survey_movers(preset("small"), 0.5)) == 0
    assert MOVERS.empty(2)["state"].shape == (2, 6)


def test_a_trail_has_its_light_its_length_and_its_place() -> None:
    survey = preset("tiny", n_snaps=2)
    ccd = make_instrument(survey).detectors[0].name
    truth = simulate_visit(survey, ccd, 0)[1]
    psf, shape = truth.psfs[0], make_chip(survey, ccd).shape
    one = np.ones(1)
    body = Bodies(
        MOVERS.empty(1), one, one, 250.0 * one, 240.0 * one, one, 0.5 * one, one, 1e4 * one
    )
    image = draw_bodies(survey, psf, body, shape, 0, 2).astype(float)
    other = draw_bodies(survey, psf, body, shape, 1, 2).astype(float)
    assert image.sum() == pytest.approx(1e4 * survey.snap_time, rel=0.01)
    y, x = np.mgrid[: shape[0], : shape[1]]
    centre = (image * x).sum() / image.sum(), (image * y).sum() / image.sum()
    # The first snap's middle is half an exposure and half a gap before that of the visit.
    early = 0.5 * (survey.snap_time + 2.0)
    assert centre == pytest.approx((250.0 - early, 240.0 - 0.5 * early), abs=0.3)
    assert (other * x).sum() / other.sum() == pytest.approx(250.0 + early, abs=0.3)
    point = replace(body, vx=0.0 * one, vy=0.0 * one)
    still = draw_bodies(survey, psf, point, shape, 0, 2).astype(float)

    def variance(light: np.ndarray) -> float:
        mean = (light * x).sum() / light.sum()
        near = np.hypot(x - mean, y - (light * y).sum() / light.sum()) < 30
        return float((light * near * (x - mean) ** 2).sum() / (light * near).sum())

    # A line of length L adds L^2 / 12.
    added = variance(image) - variance(still)
    assert added == pytest.approx(survey.snap_time**2 / 12, rel=0.1)


def test_they_are_in_the_truth(survey: Survey) -> None:
    ccd = make_instrument(survey).detectors[0].name
    from mpipipe.sim.astrometry import focal_plane, true_wcs
    from mpipipe.sim.exposures import find_bodies
    from mpipipe.sim.visits import plan_visit

    instrument = make_instrument(survey)
    chip = make_chip(survey, ccd)
    visit = plan_visit(survey, 3, 2)
    place = focal_plane(instrument.camera, chip.detector, instrument.detectors, survey)
    wcs = true_wcs(place, survey, visit)
    bodies = find_bodies(survey, visit, place, wcs, chip, instrument)
    area = (chip.shape[0] + 300) * (chip.shape[1] + 300) * (0.2 / 3600) ** 2
    expected = survey.asteroids * area
    assert abs(len(bodies.x) - expected) < 5 * np.sqrt(expected) + 1
    ra, dec = wcs.pixel_to_sky(bodies.x, bodies.y)
    np.testing.assert_allclose(dec, bodies.dec, atol=1e-9)
    assert field_radius(survey) < 1.0
