"""What changes on the simulated sky: light curves, parallaxes, guests of galaxies, seeing, moon."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mpipipe.data.errors import ConfigError
from mpipipe.sim.lightcurves import INVISIBLE, SHAPES, Variability, offsets, sawtooth
from mpipipe.sim.red_noise import damped_walk
from mpipipe.sim.sky import (
    GALAXY,
    OBJECTS,
    STAR,
    objects_around,
    parallax_factors,
    positions_at,
    tile_objects,
)
from mpipipe.sim.survey import BANDS, PRESETS, preset
from mpipipe.sim.visits import moonlight, plan_visit, plan_visits

START = 60676.0


def one(kind: Variability, **columns: float) -> np.ndarray:
    """An object that varies in this way."""
    row = OBJECTS.empty(1)
    row["variability"], row["epoch"] = kind, START
    row["amplitude"], row["period"], row["timescale"] = 0.5, 0.6, 1.0
    for name, value in columns.items():
        row[name] = value
    return row


def curve(row: np.ndarray, days: np.ndarray, band: str = "r") -> np.ndarray:
    return np.array([offsets(row, band, START + day)[0] for day in days])


def test_every_kind_but_none_has_a_shape() -> None:
    assert set(SHAPES) == set(Variability) - {Variability.NONE}
    for kind in SHAPES:
        for band in BANDS:
            assert np.isfinite(curve(one(kind, id=17), np.linspace(-100, 100, 41), band)).all()


@pytest.mark.parametrize(
    "kind", [Variability.SINE, Variability.RR_LYRAE, Variability.CEPHEID, Variability.ECLIPSING]
)
def test_periodic_ones_come_back(kind: Variability) -> None:
    days = np.linspace(0, 0.6, 50)
    period = float(one(kind)["period"][0])
    first, later = curve(one(kind), days), curve(one(kind), days + period * 1000)
    np.testing.assert_allclose(later, first, atol=1e-4)
    assert np.ptp(first) > 0.3


def test_pulsating_stars_rise_faster_than_they_fade() -> None:
    days = np.linspace(0, 0.6, 1000)
    magnitude = curve(one(Variability.RR_LYRAE), days)
    brightening = np.count_nonzero(np.diff(magnitude) < 0)
    assert 0.13 < brightening / 1000 < 0.17
    blue = curve(one(Variability.RR_LYRAE), days, "g")
    assert np.ptp(blue) == pytest.approx(1.25 * np.ptp(magnitude), rel=1e-3)
    assert np.ptp(magnitude) == pytest.approx(1.0, abs=1e-3), "amplitude is half the range"


def test_the_sawtooth_is_smooth_and_closed() -> None:
    phase = np.linspace(0, 1, 2001)
    wave = sawtooth(phase, 0.2)
    assert np.abs(np.diff(wave)).max() < 0.01
    assert wave[0] == pytest.approx(wave[-1])


def test_a_supernova_is_there_only_in_its_time() -> None:
    row = one(Variability.SUPERNOVA)
    found = curve(row, np.array([-1000, -19, -9, 0, 15, 100]))
    assert found[0] == found[1] == INVISIBLE
    assert found[2] == pytest.approx(1.505, abs=0.01)
    assert found[3] == 0.0
    assert 0.3 < found[4] < 0.8 < 2.0 < found[5] < 4.0
    stretched = curve(one(Variability.SUPERNOVA, timescale=2.0), np.array([30.0]))
    assert stretched[0] == pytest.approx(found[4])
    assert curve(row, np.array([20.0]), "g")[0] > curve(row, np.array([20.0]), "i")[0]


def test_microlensing_is_symmetric_and_the_same_in_all_bands() -> None:
    row = one(Variability.MICROLENSING, timescale=20.0, phase=0.1)
    found = curve(row, np.array([-15.0, 0.0, 15.0, 500.0]))
    assert found[0] == pytest.approx(found[2])
    # Paczynski: u = 0.1 magnifies 10.04 times.
    assert found[1] == pytest.approx(-2.5 * np.log10(10.037), abs=2e-3)
    assert abs(found[3]) < 1e-4
    np.testing.assert_array_equal(found[:1], curve(row, np.array([-15.0]), "z"))


def test_other_events() -> None:
    nova = one(Variability.DWARF_NOVA, amplitude=5.0, period=100.0, timescale=3.0)
    assert curve(nova, np.array([-1.0, 3.0, 50.0])) == pytest.approx([0.0, -5.0, 0.0])
    gone = one(Variability.DISAPPEARING)
    assert curve(gone, np.array([-1.0, 1.0])).tolist() == [0.0, INVISIBLE]
    torn = one(Variability.TIDAL_DISRUPTION, timescale=10.0)
    found = curve(torn, np.array([-100.0, 0.0, 10.0, 90.0]))
    assert found[0] == INVISIBLE and found[1] == 0.0
    slope = (found[3] - found[2]) / (2.5 * np.log10(10.0 / 2.0))
    assert slope == pytest.approx(5.0 / 3.0, rel=1e-6)


def test_a_damped_walk_has_the_statistics_asked_for() -> None:
    """Variance 1, and a structure function that grows as sqrt(dt) and saturates."""
    times = np.array([0.0, 0.01, 0.1, 1.0, 30.0])
    walks = np.array([damped_walk(np.random.default_rng(k), times, 1.0) for k in range(3000)])
    assert walks.std(axis=0) == pytest.approx(1.0, abs=0.05)
    steps = np.std(walks[:, 1:] - walks[:, :1], axis=0)
    expected = np.sqrt(2 * (1 - np.exp(-times[1:])))
    assert steps[1:] == pytest.approx(expected[1:], rel=0.12)
    assert steps[0] < steps[1]


def test_active_nuclei_differ_and_are_the_same_for_everybody() -> None:
    rows = np.concatenate([one(Variability.AGN, id=k, timescale=100.0) for k in (5, 6)])
    now = offsets(rows, "r", START + 3.0)
    assert now[0] != now[1]
    np.testing.assert_array_equal(offsets(rows[::-1], "r", START + 3.0)[::-1], now)


def test_parallax_follows_the_earth() -> None:
    """Against astropy's ephemeris, to 2e-4 of the parallax, over a decade."""
    from astropy.coordinates import get_body_barycentric
    from astropy.time import Time

    ra, dec = np.array([150.0, 10.0]), np.array([2.0, -50.0])
    for mjd in (60676.0, 60800.0, 62000.5, 64328.0):
        time = Time(mjd, format="mjd", scale="tdb")
        earth = get_body_barycentric("earth", time) - get_body_barycentric("sun", time)
        x, y, z = earth.xyz.to_value("au")
        a, d = np.radians(ra), np.radians(dec)
        east, north = parallax_factors(ra, dec, mjd)
        np.testing.assert_allclose(east, x * np.sin(a) - y * np.cos(a), atol=2e-4)
        wanted = (x * np.cos(a) + y * np.sin(a)) * np.sin(d) - z * np.cos(d)
        np.testing.assert_allclose(north, wanted, atol=2e-4)


def test_near_stars_move_most() -> None:
    survey = preset("deep-drilling")
    rows = objects_around(survey, survey.ra, survey.dec, 6.0)
    stars = rows[(rows["kind"] == STAR) & (rows["host"] < 0)]
    near = stars["parallax"] > np.percentile(stars["parallax"], 90)
    speed = np.hypot(stars["pm_ra"], stars["pm_dec"])
    assert np.median(speed[near]) > 3 * np.median(speed[~near])
    ra, dec = positions_at(survey, stars, survey.mjd + 100.0)
    moved = np.hypot((ra - stars["ra"]) * np.cos(np.radians(dec)), dec - stars["dec"]) * 3.6e6
    assert np.median(moved[near]) > 1.0
    still = replace(survey, parallax=0.0, transverse_velocity=0.0, proper_motion=0.0)
    assert not tile_objects(still, 0, 0)["parallax"].any()


def test_guests_are_in_their_hosts_and_leave_the_others_alone() -> None:
    plain = preset("small")
    lively = replace(plain, agn_fraction=0.3, supernovae=1e5, visit_interval=1.0)
    before, after = tile_objects(plain, 1, 2), tile_objects(lively, 1, 2)
    guests = after[len(before) :]
    for name in ("id", "ra", "dec", "mag_r", "amplitude"):
        np.testing.assert_array_equal(after[name][: len(before)], before[name])
    kinds = set(guests["variability"].tolist())
    assert kinds == {Variability.AGN, Variability.SUPERNOVA}
    hosts = {row["id"]: row for row in before}
    for guest in guests:
        host = hosts[guest["host"]]
        assert host["kind"] == GALAXY
        distance = np.hypot(
            (guest["ra"] - host["ra"]) * np.cos(np.radians(host["dec"])), guest["dec"] - host["dec"]
        )
        largest = 0.01 if guest["variability"] == Variability.AGN else 8 * host["disk_radius"]
        assert distance * 3600 <= largest
    nuclei = guests[guests["variability"] == Variability.AGN]
    assert (np.abs(nuclei["mag_r"] - [hosts[h]["mag_r"] for h in nuclei["host"]]) < 3).all()
    assert len(np.unique(after["id"])) == len(after)


def test_kinds_of_variables_come_as_mixed() -> None:
    survey = preset("small", variable_fraction=1.0, variable_mix=(0.2, 0.1, 0.4))
    rows = np.concatenate([tile_objects(survey, i, 0) for i in range(6)])
    stars = rows[rows["kind"] == STAR]
    for kind, share in (
        (Variability.RR_LYRAE, 0.2),
        (Variability.CEPHEID, 0.1),
        (Variability.ECLIPSING, 0.4),
        (Variability.SINE, 0.3),
    ):
        assert (stars["variability"] == kind).mean() == pytest.approx(share, abs=0.03)
    lyrae = stars[stars["variability"] == Variability.RR_LYRAE]
    assert (lyrae["period"] > 0.3).all() and (lyrae["period"] < 0.85).all()
    with pytest.raises(ConfigError, match="three fractions"):
        preset("small", variable_mix=(0.5, 0.6, 0.0))


def test_seeing_changes_slowly_where_asked() -> None:
    survey = preset("wide", seeing_time=0.5, visit_interval=0.01, n_visits=400)
    seeing = np.array([visit.seeing[0] for visit in plan_visits(survey, 1)])
    assert (seeing >= survey.seeing_min).all() and (seeing <= survey.seeing_max).all()
    spread = seeing.std()
    assert np.std(np.diff(seeing)) < 0.4 * spread
    far = plan_visits(replace(survey, visit_interval=20.0), 1)
    assert np.std(np.diff([visit.seeing[0] for visit in far])) > spread


def test_moon_and_nights() -> None:
    # Full moon of 2025 January 13, new moon of 2025 January 29.
    assert moonlight(60688.9) > 0.98 and moonlight(60704.5) < 0.02
    survey = preset("small", moon=2.0, sky_scatter=0.0, bands=("r",), n_visits=40)
    daily = replace(survey, visit_interval=1.0)
    sky = [visit.sky for visit in plan_visits(daily, 1)]
    assert max(sky) / min(sky) == pytest.approx(3.0, rel=0.03)
    nights = replace(survey, night_scatter=0.05, airmass_max=1.0, visit_interval=0.3)
    visits = plan_visits(nights, 1)
    by_night: dict[int, set[float]] = {}
    for visit in visits:
        by_night.setdefault(int(visit.mjd), set()).add(round(visit.extinction, 9))
    assert all(len(values) == 1 for values in by_night.values())
    assert len({value for values in by_night.values() for value in values}) == len(by_night)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_can_be_planned(name: str) -> None:
    survey = preset(name)
    assert plan_visit(survey, survey.n_visits - 1, 2).band in survey.bands
    assert len(tile_objects(survey, 0, 0)) > 100


def test_the_crowded_field_has_a_million_sources_a_square_degree() -> None:
    survey = preset("crowded")
    rows = np.concatenate([tile_objects(survey, i, 0) for i in range(4)])
    seen = (rows["mag_r"] < 24.5).sum() / (4 * 9.0) * 3600
    assert 0.9e6 < seen < 1.3e6


def test_deep_drilling_lasts_ten_years() -> None:
    survey = preset("deep-drilling")
    visits = plan_visits(survey, 2)
    assert 9.5 < (visits[-1].mjd - visits[0].mjd) / 365.25 < 10.5
    assert {visit.band for visit in visits} == {"g", "r", "i"}
