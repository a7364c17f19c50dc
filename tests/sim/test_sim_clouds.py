"""Clouds: a smooth field of the size asked for, which drifts, and the truth tells it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from mpipipe.sim.astrometry import focal_plane
from mpipipe.sim.clouds import cloud_structure, extinction_at, transmission
from mpipipe.sim.exposures import simulate_visit
from mpipipe.sim.instrument import make_chip, make_instrument
from mpipipe.sim.survey import Survey, preset
from mpipipe.sim.truth import write_visit
from mpipipe.sim.visits import Visit, plan_visit

GRID = np.meshgrid(np.linspace(-1, 1, 41), np.linspace(-1, 1, 41))


def cloudy(index: int = 0, **changes: object) -> tuple[Survey, Visit]:
    survey = preset("tiny", **{"clouds": 1.0, "cloud_structure": 0.3, **changes})
    return survey, plan_visit(survey, index, 2)


def test_without_structure_there_is_a_gradient_only() -> None:
    survey, visit = cloudy(cloud_structure=0.0)
    u, v = GRID
    plane = visit.extinction + visit.cloud_gradient[0] * u + visit.cloud_gradient[1] * v
    assert np.allclose(extinction_at(survey, visit, u, v), np.maximum(plane, 0.0), atol=1e-12)


def test_the_field_has_the_variance_and_the_correlation_asked_for() -> None:
    values, apart = [], []
    for seed in range(300):
        survey, visit = cloudy(cloud_scale=0.4, cloud_drift=0.0, seed=seed)
        field = cloud_structure(survey, visit, np.array([0.0, 0.4]), np.zeros(2))
        values.append(field[0])
        apart.append(field[1])
    assert np.mean(values) == pytest.approx(0.0, abs=0.2)
    assert np.var(values) == pytest.approx(1.0, abs=0.25)
    assert np.mean(np.multiply(values, apart)) == pytest.approx(np.exp(-0.5), abs=0.2)


def test_it_drifts_with_the_wind_and_smears() -> None:
    """An hour apart in one night the same field has moved; fast clouds leave less structure."""
    survey, visit = cloudy(cloud_drift=1e-4)
    later = dataclasses.replace(visit, mjd=visit.mjd + 600.0 / 86400.0)
    u, v = GRID
    now, then = (cloud_structure(survey, some, u, v) for some in (visit, later))
    moved = [
        cloud_structure(survey, later, u + 0.06 * np.cos(a), v + 0.06 * np.sin(a))
        for a in np.linspace(0, 2 * np.pi, 90)
    ]
    assert np.abs(now - then).max() > 0.05
    assert min(np.abs(now - field).max() for field in moved) < 0.02
    slow, fast = (
        np.mean(
            [
                cloud_structure(*cloudy(seed=seed, cloud_drift=drift), u, v).var()
                for seed in range(20)
            ]
        )
        for drift in (0.0, 0.1)
    )
    assert fast < 0.6 * slow


def test_extinction_is_never_negative_and_keeps_its_mean() -> None:
    survey, visit = cloudy(cloud_structure=1.0, cloud_scale=0.1)
    lost = extinction_at(survey, visit, *GRID)
    assert lost.min() >= 0.0
    assert lost.mean() == pytest.approx(visit.extinction, abs=0.3 * visit.cloud)
    assert np.allclose(transmission(survey, visit, *GRID), 10 ** (-0.4 * lost))


def test_fluxes_and_truth_agree_about_them(tmp_path: Path) -> None:
    """The map and the zero point in the truth give the fluxes back from the magnitudes."""
    survey, _ = cloudy(n_ccds=1, galaxy_mag_max=25.1, cloud_scale=0.3)
    instrument = make_instrument(survey)
    ccd = instrument.detectors[0].name
    _, truth = simulate_visit(survey, ccd, 1)
    (path,) = write_visit(survey, ccd, truth, tmp_path)
    with fits.open(path) as hdus:
        header, rows = hdus[0].header, hdus["SOURCES"].data
        lost, steps = hdus["EXTINCTION"].data, hdus["EXTINCTION"].header
        rows = rows[(rows["x"] > 0) & (rows["x"] < 511) & (rows["y"] > 0) & (rows["y"] < 499)]
        from scipy.interpolate import RectBivariateSpline

        points = np.arange(lost.shape[0])
        map_ = RectBivariateSpline(points * steps["STEP_Y"], points * steps["STEP_X"], lost)
        taken = map_(rows["y"], rows["x"], grid=False)
    clear = survey.of_band("zero_points", truth.visit.band) + 2.5 * np.log10(header["EXPTIME"])
    assert np.ptp(taken) > 0.02
    missed = -2.5 * np.log10(rows["flux"]) + clear - taken - rows["mag"]
    assert np.abs(missed).max() < 1e-3
    chip = make_chip(survey, ccd)
    place = focal_plane(instrument.camera, chip.detector, instrument.detectors)
    centre = extinction_at(survey, truth.visit, *place.to_unit(*np.array([[255.5], [249.5]])))
    assert clear - header["ZEROPNT"] == pytest.approx(centre[0], abs=0.02)
