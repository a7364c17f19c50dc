"""A run that measures at given positions: its product, going on with them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from mpipipe.data.refcat import reference_rows
from mpipipe.run.basis import Basis
from mpipipe.run.config import load_config
from mpipipe.stages.sfm.forced_table import FORCED_SRC
from mpipipe.store.cameras import load_camera
from mpipipe.store.hdf5 import read_catalogue, read_schema
from mpipipe.store.refcat.writing import write_refcat

from .conftest import Mpipipe


@pytest.fixture(scope="module")
def refcat(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mpipipe.store.refcat.ingest import Ingest

    folder = tmp_path_factory.mktemp("tiny-refcat") / "refcat"
    Ingest([tiny.parent / "refcat" / "reference.fits"]).write(folder, "reference")
    return folder


@pytest.fixture(scope="module")
def true_stars(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every true star down to 25 mag, where it stands, as a catalogue in small shards."""
    objects = fits.getdata(tiny.parent / "truth" / "objects.fits")
    stars = objects[(objects["kind"] == 0) & (objects["mag_r"] < 25.0)]
    folder = tmp_path_factory.mktemp("tiny-positions") / "positions"
    columns = {name: stars[name].astype(float) for name in ("ra", "dec", "pm_ra", "pm_dec")}
    epoch = np.full(len(stars), 60676.1)
    rows = reference_rows({"id": stars["id"].astype(int), "epoch": epoch, **columns}, ())
    write_refcat(folder, [rows], (), "true stars", max_rows=50)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_goes_on_with_positions_that_it_is_given(
    tiny: Path, refcat: Path, true_stars: Path, tmp_path: Path, mpipipe: Mpipipe
) -> None:
    """Only its sources are measured again, and it is what a new run would give."""
    root, new = tmp_path / "run", tmp_path / "new"
    first = mpipipe("run", "-q", tiny, "-o", root, "--refcat", refcat, root=root)
    assert first.code in (0, 3), first.err
    assert not (root / "catalogs" / "forcedSrc.h5").exists(), "nobody has asked for it"
    before = {one[1]: one[3] for one in first.json("completion.json")["products"]}
    tried = mpipipe("run", "--resume", root, "--forced", true_stars, "--dry-run")
    assert "4 measured again on their calexp" in tried.out, tried.out + tried.err
    assert f"the catalogue of positions is {true_stars}, was none" in tried.out
    again = mpipipe("run", "-q", "--resume", root, "--forced", true_stars, root=root)
    assert again.code == first.code, again.err
    after = {one[1]: one[3] for one in again.json("completion.json")["products"]}
    path = "catalogs/forcedSrc.h5"
    assert set(after) == set(before) | {path}
    assert after["catalogs/src.h5"] == before["catalogs/src.h5"]
    whole = mpipipe(
        "run", "-q", tiny, "-o", new, "--refcat", refcat, "--forced", true_stars, root=new
    )
    assert whole.digest == again.digest
    (root / "completion.json").unlink()
    same = mpipipe("run", "-q", "--resume", root, root=root)
    assert same.code == first.code and same.digest == whole.digest, same.err
    assert mpipipe("verify", root).code == 0
    judge(root / path, read_catalogue(root / "catalogs" / "src.h5"), tiny)


def judge(path: Path, src: np.ndarray, tiny: Path) -> None:
    """Each star once a visit at the most, about as bright as it is, faint ones as well."""
    rows = read_catalogue(path)
    assert read_schema(path).columns == FORCED_SRC.columns
    known = set(src["id"].tolist())
    assert {one for one in rows["sourceId"].tolist() if one >= 0} <= known
    assert len(np.unique(rows[["objectId", "visit", "ccdNumber"]])) == len(rows) > 150
    objects = fits.getdata(tiny.parent / "truth" / "objects.fits")
    mag = {one["id"]: {"r": one["mag_r"], "g": one["mag_g"]} for one in objects}
    true = np.array([mag[row["objectId"]][row["band"].decode()] for row in rows])
    sound = ~(rows["flag_edge"] | rows["flag_saturated"] | rows["flag_psfFlux"])
    sound &= np.isfinite(rows["psfFlux"])
    error = np.hypot(rows["psfFluxErr"], 0.02 * rows["psfFlux"])
    pull = (rows["psfFlux"] - 10 ** (0.4 * (31.4 - true))) / error
    faint = sound & (rows["sourceId"] < 0)
    assert faint.sum() > 50 and sound.sum() > 100
    assert abs(np.median(pull[sound])) < 0.5 and abs(np.median(pull[faint])) < 0.6
    assert 1.4826 * np.median(np.abs(pull[sound])) < 1.6


@pytest.mark.slow
def test_without_reference_stars_positions_are_not_placed(
    tiny: Path, true_stars: Path, tmp_path: Path, mpipipe: Mpipipe
) -> None:
    """Tasks are partial and name the stage; the table is there and empty."""
    root = tmp_path / "run"
    done = mpipipe("run", "-q", tiny, "-o", root, "--forced", true_stars, root=root)
    assert done.code == 3, done.err
    tasks = [task for task in done.json("outcomes.json")["tasks"] if task["phase"] == "calibrate"]
    assert {task["stage"] for task in tasks} == {"sfm.forcedMeasurement"}
    assert all("--refcat" in task["reason"] for task in tasks)
    assert not len(read_catalogue(root / "catalogs" / "forcedSrc.h5"))


def test_positions_belong_to_the_basis_of_sources_alone() -> None:
    config, camera = load_config(None), load_camera("sim-tiny")
    none = Basis.of(config, camera)
    given = Basis.of(config, camera, None, ("a" * 64, "/positions"))
    assert not given.changes(none, ("masters", "image"))
    changes = given.changes(none, ("sources",))
    assert changes.options == ("the catalogue of positions is /positions, was none",)
    altered = Basis.of(config, camera, None, ("b" * 64, "/positions"))
    assert altered.changes(given, ("sources",)).others == (
        "the catalogue of positions has changed",
    )


def test_what_is_no_catalogue_is_refused_before_anything_begins(
    tiny: Path, tmp_path: Path, mpipipe: Mpipipe
) -> None:
    table = tmp_path / "stars.csv"
    table.write_text("id,ra,dec\n1,150.1,2.2\n")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "refcat.json").write_text("{}")
    for wrong in (tmp_path / "nothing", table, damaged):
        for command in (("run", tiny, "-o", tmp_path / "run"), ("plan", tiny)):
            refused = mpipipe(*command, "--forced", wrong)
            assert refused.code == 1, refused.out
            assert str(wrong) in refused.err and "mpipipe refcat ingest" in refused.err
            assert "Traceback" not in refused.err
    assert not (tmp_path / "run").exists()
