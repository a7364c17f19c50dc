"""Refraction by colour through a whole run: measured with the WCS, taken off where objects are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from mpipipe.sim.simulate import simulate_survey
from mpipipe.sim.survey import preset
from mpipipe.store.hdf5 import read_catalogue
from mpipipe.store.images import read_exposure
from mpipipe.store.layout import RunLayout

pytestmark = pytest.mark.timeout(400)

SIZES = {"g": 0.3, "i": 0.1}
"""arcsec/mag at 45 degrees: several times what is usual, as the CCD is small and has few stars."""


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two visits in g and two in i of one small CCD full of stars."""
    root = tmp_path_factory.mktemp("refraction") / "sim"
    options = preset(
        "tiny", seed=3, n_ccds=1, n_visits=4, bands=("g", "i"), star_density=15.0,
        galaxy_density=2.0, airmass_min=1.2, streaks=(), truth_images=False,
        refraction=(0.0, SIZES["g"], 0.0, SIZES["i"], 0.0, 0.0), n_bias=3, n_dark=3,
    )  # fmt: skip
    simulate_survey(options, root)
    return root


@pytest.fixture(scope="module")
def layout(survey: Path) -> RunLayout:
    """A run of it."""
    root, stars = survey.with_name("run"), survey.with_name("stars")
    for words in (
        ["refcat", "ingest", "-q", survey / "refcat", "-o", stars],
        ["run", "-q", survey / "raw", "-o", root, "--refcat", stars],
    ):
        command = [sys.executable, "-m", "mpipipe", *map(str, words)]
        subprocess.run(command, check=True, timeout=350, capture_output=True)
    return RunLayout.at(root)


def test_slopes_are_those_of_the_atmosphere(survey: Path, layout: RunLayout) -> None:
    source = read_catalogue(layout.catalogue("source"))
    visits = json.loads((survey / "truth" / "visits.json").read_text())
    assert len(visits) == 4
    for visit in visits:
        rows = source[source["visit"] == visit["number"]]
        size = 1e3 * SIZES[visit["band"]] * np.sqrt(visit["airmass"] ** 2 - 1.0)
        angle = np.radians(visit["zenith_angle"])
        true = -size * np.array([np.sin(angle), np.cos(angle)])
        slope = np.stack([rows["raRefractionSlope"], rows["decRefractionSlope"]])
        error = float(np.median(rows["refractionSlopeErr"]))
        assert 0.0 < error < 20.0
        assert np.abs(np.median(slope, axis=1) - true).max() < 5.0 * error + 2.0
        assert (rows["refractionColor"] == b"g-i").all()


def test_objects_and_their_sources_agree_without_it(layout: RunLayout) -> None:
    source = read_catalogue(layout.catalogue("source"))
    objects = read_catalogue(layout.catalogue("object"))
    bright = objects[(objects["psfMag_i"] < 20.5) & (objects["nSources"] == 4)]
    bright = bright[(bright["extendedness"] < 0.5) & ~bright["flag_saturated"]]
    bright.sort(order="objectId")
    assert len(bright) >= 15
    rows = source[np.isin(source["objectId"], bright["objectId"])]
    assert not rows["flag_refraction"].any()
    place = np.searchsorted(bright["objectId"], rows["objectId"])
    east = 3.6e6 * (rows["ra"] - bright["ra"][place]) * np.cos(np.radians(rows["dec"]))
    north = 3.6e6 * (rows["dec"] - bright["dec"][place])
    as_measured = np.stack([east, north])
    free = as_measured - [rows["raRefraction"], rows["decRefraction"]]
    assert np.median(np.abs(free)) < 0.4 * np.median(np.abs(as_measured))


def test_the_exposure_keeps_it(layout: RunLayout) -> None:
    (path,) = layout.root.glob("calexp/100001/calexp-*.fits")
    found = read_exposure(path)
    assert found.astrometry is not None and found.astrometry.refraction is not None
    header = fits.getheader(path)
    assert header["RFRX"] == found.astrometry.refraction.x
    assert (header["RFRBLUE"], header["RFRRED"], header["RFRPIVOT"]) == ("g", "i", 1.0)
    sdqa = read_catalogue(layout.catalogue("sdqa"))
    metrics = sdqa[sdqa["metric"] == b"ic.wcsDetermination.refraction"]
    assert len(metrics) == 4 and (metrics["value"] > 10.0).all()
