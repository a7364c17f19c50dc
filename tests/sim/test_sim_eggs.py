"""Easter eggs: every survey that asks for them has one of each, and its truth tells where."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mpipipe.sim.eggs import FIRST_EGG, list_eggs, passing, planted
from mpipipe.sim.exposures import find_bodies, find_sources
from mpipipe.sim.instrument import make_chip, make_instrument
from mpipipe.sim.lightcurves import Variability
from mpipipe.sim.movers import places_at
from mpipipe.sim.sky import magnitudes_at
from mpipipe.sim.survey import Survey, preset


@pytest.fixture(scope="module")
def survey() -> Survey:
    return preset("small", eggs=True, n_visits=20, visit_interval=5.0)


def test_nothing_is_planted_unless_asked() -> None:
    plain = preset("small")
    assert not len(planted(plain)) and not len(passing(plain)) and not list_eggs(plain)


def test_the_truth_tells_all(survey: Survey) -> None:
    names = [egg["what"] for egg in list_eggs(survey)]
    assert names == [
        "microlensing",
        "dwarf nova",
        "tidal disruption",
        "disappearing",
        "lensed",
        "fast mover",
        "interstellar mover",
    ]
    ids = [number for egg in list_eggs(survey) for number in egg["ids"]]
    assert len(set(ids)) == len(ids) == 8 and min(ids) == FIRST_EGG
    other = list_eggs(replace(survey, seed=2))
    assert other[0]["ra"] != list_eggs(survey)[0]["ra"]


def test_each_does_what_it_is_named_for(survey: Survey) -> None:
    rows = planted(survey)
    days = survey.mjd + survey.visit_interval * np.arange(survey.n_visits)
    curves = np.array([magnitudes_at(survey, rows, "r", mjd) for mjd in days]).T
    of = {Variability(kind): k for k, kind in reversed(list(enumerate(rows["variability"])))}
    assert np.ptp(curves[of[Variability.MICROLENSING]]) > 1.5
    assert np.ptp(curves[of[Variability.DWARF_NOVA]]) > 4.0
    assert curves[of[Variability.TIDAL_DISRUPTION]].max() > 40
    gone = curves[of[Variability.DISAPPEARING]] > 40
    assert 8 <= gone.sum() <= 12 and gone[-1] and not gone[0]
    first, second = rows[-2:], rows[-2:]
    early = magnitudes_at(survey, first, "r", survey.mjd + 40.0)[0] - rows["mag_r"][-2]
    late = magnitudes_at(survey, second, "r", survey.mjd + 58.0)[1] - rows["mag_r"][-1]
    assert early == pytest.approx(late, abs=1e-6), "the same light, 18 days later"


def test_movers_come_by(survey: Survey) -> None:
    rows = passing(survey)
    now, later = (places_at(rows, float(rows["epoch"][0]) + dt) for dt in (0.0, 1 / 1440.0))
    step = np.hypot((later.ra - now.ra) * np.cos(np.radians(now.dec)), later.dec - now.dec) * 3600
    assert step[0] > 1.0, "arcsec a minute"
    assert now.mag == pytest.approx([19.5, 20.5], abs=1e-6)
    assert rows["e"][1] > 1.0 > rows["e"][0] and rows["a"][1] < 0


def test_they_are_on_the_frames(survey: Survey) -> None:
    from mpipipe.sim.astrometry import focal_plane, true_wcs
    from mpipipe.sim.visits import plan_visit

    instrument = make_instrument(survey)
    ccd = instrument.detectors[0].name
    chip = make_chip(survey, ccd)
    visit = plan_visit(survey, survey.n_visits // 2, 2)
    place = focal_plane(instrument.camera, chip.detector, instrument.detectors, survey)
    wcs = true_wcs(place, survey, visit)
    sources = find_sources(survey, visit, place, wcs, chip)
    assert (sources.rows["id"] >= FIRST_EGG).sum() == 6
    bodies = find_bodies(survey, visit, place, wcs, chip, instrument)
    assert set(bodies.rows["family"]) == {b"fast", b"interstellar"}
