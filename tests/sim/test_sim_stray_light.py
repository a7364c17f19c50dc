"""Spikes and ghosts: as much light as asked, where optics puts it; off unless asked for."""

from __future__ import annotations

import numpy as np
import pytest

from mpipipe.sim.astrometry import CcdWcs, FocalPlane, focal_plane, true_wcs
from mpipipe.sim.exposures import simulate_visit
from mpipipe.sim.instrument import make_chip, make_instrument
from mpipipe.sim.optics import Psf, make_psf
from mpipipe.sim.stray_light import (
    BrightStars,
    _add_ring,
    add_spikes,
    bright_stars,
    draw_stray_light,
)
from mpipipe.sim.survey import Survey, preset
from mpipipe.sim.visits import Visit, plan_visit

TURNS = [(np.sin(a), np.cos(a)) for a in np.linspace(0.0, 2.0 * np.pi, 12, endpoint=False)]


def scene(**changes: object) -> tuple[Survey, Visit, Psf, CcdWcs, FocalPlane]:
    survey = preset("small", n_ccds=1, **changes)
    instrument = make_instrument(survey)
    detector = instrument.detectors[0]
    place = focal_plane(instrument.camera, detector, instrument.detectors, survey)
    visit = plan_visit(survey, 0, 2)
    psf = make_psf(survey, instrument.camera, detector, place, visit, 0)
    return survey, visit, psf, true_wcs(place, survey, visit), place


def test_none_unless_asked_for() -> None:
    survey, visit, psf, wcs, _ = scene()
    assert not draw_stray_light(survey, visit, psf, wcs, (50, 60)).any()


@pytest.mark.parametrize("arms", [2, 4, 6])
def test_spikes_hold_their_light_and_stand_at_their_angles(arms: int) -> None:
    survey, visit, psf, wcs, _ = scene(spikes=0.03, spike_arms=arms, spike_length=2.0)
    image = np.zeros((1001, 1001), dtype=np.float32)
    star = BrightStars(np.array([500.0]), np.array([500.0]), np.array([1e6]))
    add_spikes(image, psf, visit, wcs, star)
    # What lies beyond the image and across the band is left out.
    inside = 2.0 / np.pi * np.arctan(500.0 / 10.0)
    assert image.sum() == pytest.approx(0.03 * 1e6 * survey.snap_time * inside, rel=0.02)
    angle = np.linspace(0.0, 2.0 * np.pi, 3600, endpoint=False)
    ring = image[
        np.rint(500 + 200 * np.sin(angle)).astype(int),
        np.rint(500 + 200 * np.cos(angle)).astype(int),
    ]
    bright = ring > 0.5 * ring.max()
    assert (bright & ~np.roll(bright, 1)).sum() == arms
    # The vanes stand symmetrically about the direction of the zenith.
    turn = np.radians(visit.zenith_angle)
    up = np.linalg.inv(wcs.cd) @ np.array([np.sin(turn), np.cos(turn)])
    from_zenith = (angle[bright] - np.arctan2(up[1], up[0])) % (2.0 * np.pi / arms)
    assert np.allclose(from_zenith, np.pi / arms, atol=0.03)


def test_ghosts_are_rings_with_their_light_where_optics_puts_them() -> None:
    """Every ring of the few brightest stars is found where the star's place says."""
    survey, visit, psf, wcs, place = scene(ghosts=0.01, stray_light_mag=15.0, star_density=0.3)
    shape = make_chip(survey, make_instrument(survey).detectors[0].name).shape
    image = draw_stray_light(survey, visit, psf, wcs, shape)
    stars = bright_stars(survey, visit, place, wcs, place.centre, 3000.0)
    u, v = place.to_field(stars.x, stars.y)
    n_seen = 0
    for factor, share in ((-0.95, 1.0), (1.12, 0.6)):
        field = factor * np.stack([u, v]) - np.array([[place.u0], [place.v0]])
        at = np.linalg.solve(place.matrix, field) + np.array(place.centre)[:, None]
        outer = survey.ghost_radius * share / 0.2
        area = np.pi * outer**2 * (1.0 - 0.45**2)
        for (x, y), flux in zip(at.T, stars.flux, strict=True):
            if outer < x < shape[1] - outer and outer < y < shape[0] - outer:
                n_seen += 1
                level = 0.01 * flux * survey.snap_time / area
                ring = [image[int(y + 0.7 * outer * s), int(x + 0.7 * outer * c)] for s, c in TURNS]
                # Rings may overlap: none is fainter than its own light.
                assert min(ring) > 0.999 * level
    assert n_seen >= 3


def test_one_ring_holds_its_light() -> None:
    image = np.zeros((200, 200), dtype=np.float32)
    _add_ring(image, 99.7, 101.2, 60.0, 27.0, 5000.0)
    assert image.sum() == pytest.approx(5000.0, rel=2e-3)
    assert image[101, 99] == 0.0 and image[101, 99 + 45] > 0.0 and image[101, 99 + 70] == 0.0


def test_a_ghost_does_not_depend_on_the_ccd_that_looks() -> None:
    """Neighbours agree about the stars, also those that lie on neither of them."""
    survey = preset("tiny", n_ccds=2, ghosts=0.05, star_density=6.0)
    instrument = make_instrument(survey)
    visit = plan_visit(survey, 0, 2)
    found = []
    for detector in instrument.detectors:
        place = focal_plane(instrument.camera, detector, instrument.detectors, survey)
        wcs = true_wcs(place, survey, visit)
        stars = bright_stars(survey, visit, place, wcs, place.centre, 2000.0)
        u, v = place.to_field(stars.x, stars.y)
        near = np.hypot(u, v) < 60.0
        order = np.argsort(stars.flux[near])
        found.append(np.stack([u[near], v[near], stars.flux[near]])[:, order])
    assert found[0].shape[1] >= 5
    assert np.allclose(found[0], found[1], rtol=1e-6, atol=1e-5)


def test_they_are_in_the_expected_image() -> None:
    dark = preset("tiny", n_ccds=1, galaxy_mag_max=25.1)
    lit = preset("tiny", n_ccds=1, galaxy_mag_max=25.1, spikes=0.05, ghosts=0.01)
    ccd = make_instrument(dark).detectors[0].name
    first, second = (simulate_visit(survey, ccd, 0)[1] for survey in (dark, lit))
    more = second.expected - first.expected
    assert more.min() > -0.01
    assert more.max() > 20.0
    assert np.array_equal(first.sources.flux, second.sources.flux)
    assert make_chip(lit, ccd).shape == more.shape
