"""From sources to objects in a run: nothing lost, nothing twice, the same at any cut of the sky."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest

from mpipipe.data.association import NO_OBJECT
from mpipipe.data.errors import ConfigError
from mpipipe.run.ledger import NO_OUTCOME, Ledger
from mpipipe.run.sky_plan import plans_of, read_sky_plan
from mpipipe.run.upkeep import find_cell, read_task
from mpipipe.store.checksums import sha256_file
from mpipipe.store.hdf5 import opened_catalogue, read_catalogue
from mpipipe.store.layout import RunLayout

from .conftest import Mpipipe, Result

TABLES = ("object", "source", "badSource", "sourceHist", "badSourceHist")


@pytest.fixture(scope="module")
def raw(sixteen_visits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five of the visits, and the calibration frames."""
    folder = tmp_path_factory.mktemp("association") / "raw"
    folder.mkdir()
    for path in sixteen_visits.iterdir():
        if not 100005 < int(path.name.split("_")[1]) < 200000:
            (folder / path.name).hardlink_to(path)
    return folder


@pytest.fixture(scope="module")
def finished(raw: Path, sixteen_refcat: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is done; copy it before changing it."""
    root = tmp_path_factory.mktemp("finished") / "run"
    command = [sys.executable, "-m", "mpipipe", "run", "-q", raw, "-o", root]
    command += ["--refcat", sixteen_refcat]
    subprocess.run(list(map(str, command)), check=True, timeout=170, capture_output=True)
    return root


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_records_of_cells_can_be_looked_at(finished: Path) -> None:
    layout = RunLayout.at(finished)
    rows = {}
    for number, name in enumerate([read_sky_plan(layout).name(0), "seams"]):
        facts = read_task(layout, find_cell(layout, name), of_sky=True)
        assert facts.outcome == "done" and facts.phase == ("associate", "seams")[number]
        rows[name] = {one.name: one.n_rows for one in facts.tables}
    assert sum(found["object"] for found in rows.values()) <= len(table(finished, "object"))
    with pytest.raises(ConfigError, match="no sky cell 7-7"):
        find_cell(layout, "7-7")


def table(root: Path, name: str) -> np.ndarray:
    return read_catalogue(RunLayout.at(root).catalogue(name))


def checksums(root: Path) -> dict[str, str]:
    layout = RunLayout.at(root)
    return {name: sha256_file(layout.catalogue(name)) for name in TABLES}


def test_every_source_is_part_of_one_object_or_bad(finished: Path) -> None:
    src, source, bad = (table(finished, name) for name in ("src", "source", "badSource"))
    objects = table(finished, "object")
    assert len(source) > 500
    ids = np.concatenate([source["id"], bad["id"]])
    assert np.array_equal(np.sort(ids), np.sort(src["id"]))
    assert np.all(bad["objectId"] == NO_OBJECT)
    assert not np.any(bad["reason"] == b"")
    assert np.array_equal(np.unique(source["objectId"]), np.sort(objects["objectId"]))
    counts = np.unique(source["objectId"], return_counts=True)[1]
    assert np.array_equal(counts, objects["nSources"][np.argsort(objects["objectId"])])
    seen_once = np.unique(np.stack([source["objectId"], source["visit"]]), axis=1)
    assert seen_once.shape[1] == len(source), "two sources of a visit in one object"
    assert np.median(counts) >= 2
    for history, rows in (("sourceHist", source), ("badSourceHist", bad)):
        assert np.array_equal(np.sort(table(finished, history)["sourceId"]), np.sort(rows["id"]))


def test_what_travels_is_what_was_measured(finished: Path) -> None:
    src, source = table(finished, "src"), table(finished, "source")
    same = src[np.argsort(src["id"])][np.searchsorted(np.sort(src["id"]), source["id"])]
    for name in ("visit", "ra", "dec", "raErr", "snr", "extendedness"):
        assert np.array_equal(source[name], same[name], equal_nan=True), name
    assert np.array_equal(source["psfFlux"], same["psfFlux"].astype("f4"), equal_nan=True)
    # Moments are turned and scaled, which changes neither trace nor determinant but by the scale.
    trace = (source["ixx"] + source["iyy"]) / (same["ixx"] + same["iyy"])
    scale2 = np.nanmedian(trace)
    assert np.nanstd(trace) < 0.02 * scale2
    assert np.nanmedian(source["fwhm"]) ** 2 / scale2 == pytest.approx(
        np.nanmedian(5.545 * (same["psfIxx"] + same["psfIyy"]) / 2.0), rel=0.2
    )


def test_tables_are_sorted_along_the_sky_with_an_index(finished: Path) -> None:
    for name in ("object", "source", "badSource"):
        with opened_catalogue(RunLayout.at(finished).catalogue(name)) as catalogue:
            assert catalogue.index() is not None, name


@pytest.mark.parametrize("max_rows", [25, 200])
def test_any_cut_of_the_sky_gives_the_same_tables(
    finished: Path, run: Path, mpipipe: Mpipipe, max_rows: int
) -> None:
    """Only the association is done again, in many cells, with seams between them."""
    (RunLayout.at(run).completion).unlink()
    done = mpipipe(
        "run", "-q", "--resume", run, "--set", f"associate.max_rows={max_rows}", root=run
    )
    assert done.code == 0, done.err
    assert checksums(run) == checksums(finished)
    outcomes = done.json("completion.json")["outcomes"]
    assert outcomes["associate"]["done"] > 1
    assert outcomes["seams"] == {"done": 1}
    assert not list((run / "association").glob("rows/*")), "files of cells were left"


def test_a_changed_option_makes_objects_alone_again(
    finished: Path, run: Path, mpipipe: Mpipipe
) -> None:
    done = mpipipe(
        "run", "-q", "--resume", run, "--set", "sa.SourceClustering.link_radius=0.1", root=run
    )
    assert done.code == 0, done.err
    assert len(table(run, "object")) > len(table(finished, "object"))
    assert sha256_file(RunLayout.at(run).catalogue("src")) == sha256_file(
        RunLayout.at(finished).catalogue("src")
    )
    done = mpipipe(
        "run", "-q", "--resume", run, "--set", "sa.SourceClustering.link_radius=0.6", root=run
    )
    assert done.code == 0, done.err
    assert checksums(run) == checksums(finished)


def test_without_association_there_are_no_objects(run: Path, mpipipe: Mpipipe) -> None:
    done = mpipipe("run", "-q", "--resume", run, "--set", "associate.enabled=false", root=run)
    assert done.code == 0, done.err
    listed = {product[1] for product in done.json("completion.json")["products"]}
    assert "catalogs/src.h5" in listed
    assert "catalogs/object.h5" not in listed
    assert not RunLayout.at(run).catalogue("object").exists(), "a table of other options was left"


def test_what_was_done_again_has_no_older_record(finished: Path) -> None:
    """A cell that fails now must not be published from a record of another processing."""
    layout = RunLayout.at(finished)
    plan = plans_of(layout)[1]
    assert Ledger.read(layout, plan).is_final.all()
    since = np.zeros(len(plan.tasks), dtype=np.int64)
    since[-1] = 2
    ledger = Ledger.read(layout, plan, since=since)
    assert ledger.kinds[-1] == NO_OUTCOME and ledger.is_final[:-1].all()


def test_seams_follow_from_all_cells(finished: Path) -> None:
    sky = read_sky_plan(RunLayout.at(finished))
    digests = sky.digests.copy()
    digests[0] = b"0" * 64
    other = replace(sky, digests=digests)
    assert sky.made_of(sky.seams_task) != other.made_of(sky.seams_task)


def test_status_tells_of_cells_and_seams(finished: Path, mpipipe: Mpipipe) -> None:
    told = mpipipe("status", finished)
    assert told.code == 0
    assert "associate " in told.out and "seams " in told.out


@pytest.mark.parametrize("point", ["exchange:1", "exchange:2", "commit:1", "publish:8"])
@pytest.mark.parametrize("victim", [0, 2])
def test_a_rank_that_dies_on_the_way_changes_nothing(
    finished: Path,
    run: Path,
    mpirun: Callable[..., CompletedProcess[str]],
    mpirun_version: tuple[int, ...],
    tmp_path: Path,
    point: str,
    victim: int,
) -> None:
    """Killed in the exchange, before it commits a cell, and while a table is published."""
    if mpirun_version < (5,):
        pytest.skip("this mpirun has no ULFM")
    RunLayout.at(run).completion.unlink()
    struck = tmp_path / "struck"
    struck.mkdir()
    done: Any = mpirun(
        3,
        ["-m", "mpipipe", "run", "-q", "--resume", run, "--set", "associate.max_rows=30"]
        + ["--set", "associate.round_memory=0.05", "--set", "scheduling.silence=5"],
        seconds=170,
        options=("--with-ft", "ulfm", "--mca", "async_mpi_finalize", "1"),
        environment={
            "MPIPIPE_INJECT": f"{victim}:{point}:kill",
            "MPIPIPE_INJECT_LOG": str(struck),
        },
    )
    assert len(list(struck.iterdir())) == 1, f"nothing struck: {done.stderr}"
    assert Result(0, "", "", run).json("completion.json"), done.stderr
    assert checksums(run) == checksums(finished)
