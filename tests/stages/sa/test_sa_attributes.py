"""What objects say: means, errors, motions, variability, flags; and that nothing bad crashes it."""

from __future__ import annotations

import numpy as np
import pytest

from mpipipe.data.association import FLUX_KINDS, SOURCE, object_schema
from mpipipe.data.refcat import ReferenceStars, reference_rows
from mpipipe.stages.sa.associate import Association, associate
from mpipipe.stages.sa.epochs import epochs_of
from mpipipe.stages.sa.initialize import InitializeConfig
from mpipipe.stages.sa.source_cluster_attributes import SourceClusterAttributesConfig

BANDS = ("g", "r")
NO_FLOOR = {"sa.SourceClusterAttributes": SourceClusterAttributesConfig(position_floor=0.0)}


def star(n: int, seed: int = 0, interval: float = 1.0) -> np.ndarray:
    """One star at rest in visits of two bands in turn."""
    rng = np.random.default_rng(seed)
    rows = SOURCE.empty(n)
    rows["visit"] = np.arange(n)
    rows["id"] = 1000 + 10 * rows["visit"]
    rows["mjd"] = 60000.0 + interval * rows["visit"]
    rows["band"] = np.array(BANDS, "S1")[rows["visit"] % 2]
    rows["raErr"], rows["decErr"] = rng.uniform(10, 40, (2, n))
    rows["ra"] = 33.0 + rng.normal(0, 1, n) * rows["raErr"] / 3.6e6 / np.cos(np.radians(60.0))
    rows["dec"] = 60.0 + rng.normal(0, 1, n) * rows["decErr"] / 3.6e6
    rows["snr"] = 30.0
    for kind in FLUX_KINDS:
        rows[f"{kind}FluxErr"] = rng.uniform(50, 150, n)
        rows[f"{kind}Flux"] = rng.normal(3000, rows[f"{kind}FluxErr"])
    rows["ixx"], rows["iyy"], rows["ixy"] = 0.3, 0.2, 0.05
    rows["psfIxx"] = rows["psfIyy"] = 0.1
    rows["extendedness"] = 0.3
    return rows


def run(rows: np.ndarray, **configs: object) -> Association:
    return associate(rows, np.ones(len(rows), bool), None, BANDS, 0.83, 10.0, configs or NO_FLOOR)  # type: ignore[arg-type]


def test_means_are_weighted_by_inverse_variances() -> None:
    rows = star(20)
    found = run(rows).object[0]
    g = rows[rows["band"] == b"g"]
    weights = 1.0 / g["psfFluxErr"].astype(float) ** 2
    mean = (weights * g["psfFlux"]).sum() / weights.sum()
    assert found["psfFluxMean_g"] == pytest.approx(mean, rel=1e-6)
    assert found["psfFluxMeanErr_g"] == pytest.approx(weights.sum() ** -0.5, rel=1e-6)
    assert found["psfFluxChi2_g"] == pytest.approx(
        (weights * (g["psfFlux"] - mean) ** 2).sum(), rel=1e-5
    )
    assert found["psfFluxRms_g"] == pytest.approx(np.std(g["psfFlux"], ddof=1), rel=1e-5)
    assert found["psfMag_g"] == pytest.approx(31.4 - 2.5 * np.log10(mean), abs=1e-5)
    assert found["psfColor_g_r"] == pytest.approx(found["psfMag_g"] - found["psfMag_r"], abs=1e-5)
    assert found["variabilityDof"] == 18 and found["kronFluxN_r"] == 10
    for percent in (5, 25, 50, 75, 95):
        expected = np.percentile(g["psfFlux"].astype(float), percent)
        assert found[f"psfFluxPercentile{percent:02d}_g"] == pytest.approx(expected, rel=1e-6)


def test_the_position_is_the_weighted_mean() -> None:
    rows = star(20)
    found = run(rows).object[0]
    weights = 1.0 / rows["raErr"].astype(float) ** 2
    assert found["ra"] == pytest.approx((weights * rows["ra"]).sum() / weights.sum(), abs=1e-9)
    assert found["raErr"] == pytest.approx(weights.sum() ** -0.5, rel=1e-5)
    assert found["nParameters"] == 2 and np.isnan(found["pmRa"])
    assert found["posDof"] == 38 and 15 < found["posChi2"] < 70
    assert (found["mjdFirst"], found["mjdLast"]) == (60000.0, 60019.0)


def test_motion_and_parallax_are_recovered() -> None:
    """Places come from the reference catalogue's own code, which knows the same physics."""
    rows = star(40, interval=91.0)
    columns = {"id": [1], "ra": [33.0], "dec": [60.0], "epoch": [60000.0], "pm_ra": [250.0]}
    columns |= {"pm_dec": [-130.0], "parallax": [180.0]}
    stars = ReferenceStars(
        reference_rows({name: np.array(values) for name, values in columns.items()}, ()), (), "one"
    )
    for row in rows:
        placed = stars.at_epoch(row["mjd"])
        row["ra"], row["dec"] = placed.ra[0], placed.dec[0]
    done = run(rows)
    assert len(done.object) == 1
    found = done.object[0]
    assert found["nParameters"] == 5
    assert found["pmRa"] == pytest.approx(250.0, abs=0.05)
    assert found["pmDec"] == pytest.approx(-130.0, abs=0.05)
    assert found["parallax"] == pytest.approx(180.0, abs=0.05)
    assert 0 < found["parallaxErr"] < 10 and found["posRms"] < 0.1


def test_motions_err_as_they_say() -> None:
    rng = np.random.default_rng(3)
    n_stars, n = 400, 20
    rows = np.concatenate([star(n, seed, 200.0) for seed in range(n_stars)])
    rows["ra"] += np.repeat(np.arange(n_stars), n) * 0.01
    rows["id"] = rows["visit"] * 100_000 + rng.permutation(len(rows))
    rows = rows[np.argsort(rows["id"])]
    found = run(rows).object
    assert len(found) == n_stars
    for name in ("pmRa", "pmDec", "parallax"):
        pull = found[name] / found[f"{name}Err"]
        assert np.std(pull) == pytest.approx(1.0, abs=4 / np.sqrt(2 * n_stars))
    assert found["posChi2"].mean() / found["posDof"].mean() == pytest.approx(1.0, abs=0.05)
    assert np.mean(found["constancyProbability"]) == pytest.approx(0.5, abs=0.06)
    assert np.mean(found["psfFluxVonNeumann_g"]) == pytest.approx(2.0, abs=0.15)


def test_variables_are_told() -> None:
    rows = star(40, interval=0.04)
    rows["psfFlux"] += 600.0 * np.sin(rows["mjd"] * 3.0)
    found = run(rows).object[0]
    quiet = run(star(40, interval=0.04)).object[0]
    assert found["constancyProbability"] < 1e-6 < quiet["constancyProbability"]
    assert found["stetsonJ"] > 1.0 > quiet["stetsonJ"]
    assert found["psfFluxVonNeumann_g"] < 0.5


def test_shape_and_flags() -> None:
    rows = star(4)
    rows["flag_blended"][1] = True
    found = run(rows).object[0]
    assert found["e1"] == pytest.approx(1 / 3, rel=1e-5)
    assert found["e2"] == pytest.approx(1 / 3, rel=1e-5)
    assert found["size"] == pytest.approx(np.sqrt(0.15), rel=1e-5)
    assert found["flag_blended"] and found["flag_blended_fraction"] == 0.25
    assert not found["flag_edge"]
    assert found["extendedness"] < 0.3  # four sources say the same


def test_saturated_sources_count_only_where_there_is_nothing_else() -> None:
    rows = star(6)
    rows["flag_saturated"][0], rows["psfFlux"][0] = True, 1e6
    found = run(rows).object[0]
    assert found["psfFluxN_g"] == 2 and found["psfFluxMax_g"] < 1e4 and found["nSources"] == 6
    rows["flag_saturated"] = rows["flag_centroid"] = True
    done = run(rows)
    assert not len(done.bad_source)
    assert done.object["psfFluxN_g"] == 3 and done.object["flag_saturated_fraction"] == 1.0


def test_sources_without_errors_count_alike() -> None:
    rows = star(6)
    rows["psfFluxErr"], rows["raErr"] = np.nan, 0.0
    found = run(rows).object[0]
    assert found["psfFluxMean_g"] == pytest.approx(rows["psfFlux"][::2].mean(), rel=1e-6)
    assert np.isnan(found["psfFluxMeanErr_g"]) and np.isnan(found["psfFluxChi2_g"])
    assert found["ra"] == pytest.approx(rows["ra"].mean(), abs=1e-9)
    assert np.isnan(found["raErr"]) and np.isnan(found["posChi2"]) and found["posRms"] > 0


def test_bad_values_never_crash() -> None:
    rows = star(12)
    for name in SOURCE.dtype.names:
        if SOURCE.dtype[name].kind == "f" and name not in ("ra", "dec"):
            for value in (np.nan, np.inf, -np.inf, 0.0):
                damaged = rows.copy()
                damaged[name] = value
                done = run(damaged)
                assert len(done.source) + len(done.bad_source) == 12, (name, value)
    rows["band"] = b"unknown"
    found = run(rows).object[0]
    assert found["nSources"] == 12 and found["psfFluxN_g"] == 0 and np.isnan(found["psfFluxMean_g"])


def test_bad_sources_and_histories() -> None:
    rows = star(8)
    rows["dec"][0], rows["flag_edge"][1], rows["flag_streak"][2] = np.nan, True, True
    rows["snr"][3], rows["flag_bad"][4], rows["flag_centroid"][5] = 3.0, True, True
    done = run(rows)
    names = [b"no position", b"edge", b"streak", b"faint", b"bad pixel", b"no centroid"]
    assert done.bad_source["reason"].tolist() == names
    assert (done.bad_source["objectId"] == -1).all()
    assert done.bad_source_hist["sourceId"].tolist() == rows["id"][:6].tolist()
    assert done.source_hist["sourceId"].tolist() == rows["id"][6:].tolist()
    assert done.source_hist["objectId"].tolist() == [rows["id"][6]] * 2
    kept = run(rows, **{"sa.initialize": InitializeConfig(reject=(), min_snr=0.0)})
    assert kept.bad_source["reason"].tolist() == [b"no position"]


def test_ccds_of_a_visit_may_differ_in_time():
    rows = SOURCE.empty(4)
    rows["visit"], rows["mjd"] = [7, 7, 9, 9], [60000.0, 60000.1, 60001.0, 60001.0]
    for order in ([0, 1, 2, 3], [1, 0, 3, 2]):
        epochs = epochs_of(rows, np.array(order))
        assert epochs.number.tolist() == [0, 0, 1, 1] and epochs.n_visits == 2
        times = epochs.years[epochs.moment] * 365.25
        assert np.allclose(times, rows["mjd"][order])
    assert epochs_of(rows, np.zeros(0, dtype=np.int64)).n_visits == 0


def test_bands_of_any_name_make_columns():
    names = [column.name for column in object_schema(("r", "550/30 nm")).columns]
    assert "psfMag_550_30_nm" in names and not any("/" in name for name in names)
    rows = SOURCE.empty(1)
    rows["id"], rows["band"], rows["ra"], rows["snr"], rows["psfFlux"] = 1, b"550/30 nm", 5, 9, 3
    rows["psfFluxErr"] = 1.0
    done = associate(rows, np.ones(1, bool), None, ("r", "550/30 nm"), 1.0, 0.0)
    assert done.object["psfFluxMean_550_30_nm"].tolist() == [3.0]
