"""Refraction by colour is taken off the positions of objects, with what the colour's error does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mpipipe.data.association import SOURCE
from mpipipe.stages.sa.associate import Association, associate
from mpipipe.stages.sa.source_cluster_attributes import SourceClusterAttributesConfig

BANDS = ("g", "r", "i")
PIVOT, SPREAD = 1.0, 0.8
CONFIG: Any = {
    "sa.SourceClusterAttributes": SourceClusterAttributesConfig(
        position_floor=0.0, colour_spread=SPREAD
    )
}
SLOPES = {"g": (40.0, -25.0), "r": (10.0, 8.0), "i": (-3.0, 5.0)}
"""Of the bands' visits, east and north, mas/mag; every other visit has them the other way round."""


def stars(
    colours: np.ndarray, n_visits: int, seed: int, bands: tuple[str, ...] = BANDS
) -> np.ndarray:
    """Stars of these colours g - i in a row, 10 arcsec apart, in every visit of the bands in turn:
    displaced by refraction, with noise. Fluxes are exact, r is halfway."""
    error, rng = 2.0, np.random.default_rng(seed)
    star, visit = (part.ravel() for part in np.indices((len(colours), n_visits)))
    rows = SOURCE.empty(len(star))
    rows["visit"], rows["id"] = visit, visit * 100_000 + star
    rows["mjd"] = 60000.0 + 0.01 * visit
    band = np.array(bands)[visit % len(bands)]
    rows["band"] = band.astype("S16")
    slope = np.array([SLOPES[name] for name in band]) * np.where(visit // 3 % 2, -1.0, 1.0)[:, None]
    rows["raRefractionSlope"], rows["decRefractionSlope"] = slope.T
    rows["refractionColor"] = b"g-i"
    off = slope * (colours[star] - PIVOT)[:, None] + rng.normal(0.0, error, (len(star), 2))
    rows["dec"] = star / 360.0 + off[:, 1] / 3.6e6
    rows["ra"] = 20.0 + off[:, 0] / 3.6e6 / np.cos(np.radians(rows["dec"]))
    rows["raErr"] = rows["decErr"] = error
    share = {"g": 1.0, "r": 0.5, "i": 0.0}
    mag = 20.0 + colours[star] * np.array([share[name] for name in band])
    rows["psfFlux"] = 10 ** (-0.4 * (mag - 31.4))
    rows["psfFluxErr"] = 0.005 * rows["psfFlux"]
    rows["snr"], rows["objectId"] = 200.0, -1
    rows.sort(order="id")
    return rows


def run(rows: np.ndarray, bands: tuple[str, ...] = BANDS) -> Association:
    return associate(rows, np.ones(len(rows), bool), None, bands, 0.8, 0.1, CONFIG)


def pulls(found: Association) -> np.ndarray:
    """(n, 2) errors of the positions over the quoted ones; stars stand at whole 10 arcsec."""
    rows = found.object
    star = rows["objectId"] % 100_000
    north = (rows["dec"] - star / 360.0) * 3.6e6
    east = (rows["ra"] - 20.0) * 3.6e6 * np.cos(np.radians(rows["dec"]))
    return np.stack([east / rows["raErr"], north / rows["decErr"]], axis=1)


def test_positions_are_free_of_it_and_sources_tell_how_much_it_was() -> None:
    colours = np.linspace(0.0, 2.5, 40)
    rows = stars(colours, 12, 1)
    found = run(rows)
    assert len(found.object) == 40 and (found.object["nSources"] == 12).all()
    assert np.abs(pulls(found)).max() < 5.0
    assert 0.7 < pulls(found).std() < 1.3
    per_dof = found.object["posChi2"].sum() / found.object["posDof"].sum()
    assert 0.85 < per_dof < 1.15
    source = found.source
    colour = colours[source["id"] % 100_000]
    for axis in ("ra", "dec"):
        expected = source[f"{axis}RefractionSlope"] * (colour - PIVOT)
        assert np.abs(source[f"{axis}Refraction"] - expected).max() < 0.2
    assert not source["flag_refraction"].any()
    # What was measured stays beside it.
    for name in ("ra", "dec", "raErr", "decErr"):
        assert (source[name] == rows[name]).all()


def test_proper_motions_are_free_of_it() -> None:
    """Blue visits come first, red ones last: uncorrected, colour would look like motion."""
    rows = stars(np.full(1, 2.0), 30, 2)
    order = {b"g": 0.0, b"r": 1.0, b"i": 2.0}
    rows["mjd"] = 60000.0 + 365.25 * np.array([order[band] for band in rows["band"]])
    rows["mjd"] += 0.01 * rows["visit"]
    for name in ("raRefractionSlope", "decRefractionSlope"):
        rows[name] = np.abs(rows[name])
    rows["ra"] = 20.0 + rows["raRefractionSlope"].astype(float) / 3.6e6
    rows["dec"] = rows["decRefractionSlope"].astype(float) / 3.6e6
    found = associate(rows, np.ones(len(rows), bool), None, BANDS, 0.8, 2.0, CONFIG).object[0]
    assert found["nParameters"] == 4
    assert abs(found["pmRa"]) < 0.1 and abs(found["pmDec"]) < 0.1
    blind = rows.copy()
    blind["raRefractionSlope"] = blind["decRefractionSlope"] = 0.0
    moved = associate(blind, np.ones(len(rows), bool), None, BANDS, 0.8, 2.0, CONFIG).object[0]
    assert abs(moved["pmRa"]) > 10.0


def one_way(colours: np.ndarray, n_visits: int, bands: tuple[str, ...], seed: int) -> np.ndarray:
    """Stars that all visits displace the same way: many visits do not average it out."""
    rows = stars(colours, n_visits, seed, bands=bands)
    star, rng = rows["id"] % 100_000, np.random.default_rng(seed)
    for name in ("raRefractionSlope", "decRefractionSlope"):
        rows[name] = np.abs(rows[name])
    noise = rng.normal(0.0, 1.0, (2, len(rows))) * rows["raErr"]
    off = (colours[star] - PIVOT)[None] * [rows["raRefractionSlope"], rows["decRefractionSlope"]]
    north = star / 360.0 + (off + noise)[1] / 3.6e6
    rows["ra"] = 20.0 + (off + noise)[0] / 3.6e6 / np.cos(np.radians(north))
    rows["dec"] = north
    return rows


@pytest.mark.parametrize("case", ["one band", "no such band", "no flux"])
def test_unknown_colours_count_as_the_pivot_with_the_spread_as_error(case: str) -> None:
    colours = PIVOT + SPREAD * np.random.default_rng(5).normal(size=300)
    bands = {"one band": ("g",), "no such band": ("g", "r"), "no flux": BANDS}[case]
    rows = one_way(colours, 6, bands, 3)
    if case == "no such band":
        rows["refractionColor"] = b"B-V"
    elif case == "no flux":
        rows["psfFlux"][rows["band"] != b"i"] = -5.0
    found = run(rows, bands)
    assert len(found.object) == 300
    assert found.source["flag_refraction"].all() and found.object["flag_refraction"].all()
    assert (found.source["raRefraction"] == 0.0).all()
    # Noise alone is 2 mas / sqrt(6); errors hold that of the colour, which all visits share.
    least = {"one band": 25.0, "no such band": 6.0, "no flux": 2.0}[case]
    assert np.median(found.object["raErr"]) > least
    assert 0.85 < pulls(found).std() < 1.15
    per_dof = found.object["posChi2"].sum() / found.object["posDof"].sum()
    assert 0.85 < per_dof < 1.15


def test_a_faint_colour_is_weighed_by_its_error() -> None:
    """The error of the colour moves all sources together: quoted errors must know."""
    rng = np.random.default_rng(7)
    rows = one_way(PIVOT + SPREAD * rng.normal(size=400), 9, BANDS, 4)
    rows["psfFluxErr"] = 0.3 * rows["psfFlux"]
    rows["psfFlux"] += rng.normal(0.0, 1.0, len(rows)) * rows["psfFluxErr"]
    found = run(rows)
    assert not found.object["flag_refraction"].any()
    assert 0.85 < pulls(found).std() < 1.15
    per_dof = found.object["posChi2"].sum() / found.object["posDof"].sum()
    assert 0.85 < per_dof < 1.15


def test_a_band_that_is_lacking_is_made_up_for_by_the_main_sequence() -> None:
    """A survey in g and r: g - i follows from g - r, not well for the reddest."""
    rng = np.random.default_rng(11)
    gr = rng.uniform(0.2, 1.2, 300)
    ri = np.interp(gr, [0.07, 0.30, 0.57, 0.83, 1.06, 1.22], [0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    rows = one_way(gr + ri + rng.normal(0.0, 0.04, 300), 8, ("g", "r"), 5)
    mag = 20.0 + np.where(rows["band"] == b"g", gr[rows["id"] % 100_000], 0.0)
    rows["psfFlux"] = 10 ** (-0.4 * (mag - 31.4))
    rows["psfFluxErr"] = 0.005 * rows["psfFlux"]
    found = run(rows, ("g", "r"))
    assert not found.source["flag_refraction"].any()
    assert 0.85 < pulls(found).std() < 1.15
    assert np.median(found.object["raErr"]) < 3.0


def test_errors_of_the_slopes_are_each_visits_own() -> None:
    colours = np.full(300, 2.5)
    rows = stars(colours, 6, 8)
    rng = np.random.default_rng(9)
    rows["refractionSlopeErr"] = 4.0
    for name in ("raRefractionSlope", "decRefractionSlope"):
        rows[name] += rng.normal(0.0, 4.0, len(rows)).astype(np.float32)
    found = run(rows)
    assert 0.85 < pulls(found).std() < 1.15
    assert np.median(found.object["raErr"]) > 1.5 * 2.0 / np.sqrt(6.0)


def test_without_slopes_nothing_changes() -> None:
    rows = stars(np.linspace(0.0, 2.5, 10), 6, 6)
    rows["raRefractionSlope"] = rows["decRefractionSlope"] = 0.0
    plain = rows.copy()
    plain["refractionColor"] = b""
    one, two = run(rows), run(plain)
    assert one.object.tobytes() == two.object.tobytes()
    assert not one.source["flag_refraction"].any()
