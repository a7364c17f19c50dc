"""Products made again from raw frames: identical, or what differs is named; and what follows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mpipipe.data.errors import ConfigError
from mpipipe.quality.scorecard.run_data import RunData
from mpipipe.quality.scorecard.scoring import score
from mpipipe.run import basis
from mpipipe.run.completion import verify_run
from mpipipe.run.lineage import Lineage
from mpipipe.run.lineage_formats import FORMATS
from mpipipe.run.plan import load_run
from mpipipe.run.recreate import Recreator, Verdict, Wanted
from mpipipe.run.removed import read_removed
from mpipipe.run.slim import restore, slim
from mpipipe.store.layout import RunLayout
from mpipipe.store.provenance_table import read_provenance

from .conftest import Mpipipe


@pytest.fixture
def layout(done: RunLayout, tmp_path: Path) -> RunLayout:
    """A copy of a finished run, on which nobody works any more."""
    shutil.copytree(done.root, tmp_path / "run")
    layout = RunLayout.at(tmp_path / "run")
    layout.heartbeat.unlink(missing_ok=True)
    return layout


def again(layout: RunLayout, wanted: Wanted, folder: Path) -> Verdict:
    recreator = Recreator(layout)
    try:
        return recreator.recreate(wanted, folder / "again.fits")
    finally:
        recreator.close()


def scored(layout: RunLayout) -> object:
    """All numbers of the scorecard, and what could not be read."""
    with RunData(layout) as data:
        facts = score(data).as_json()
    return facts["metrics"], facts["problems"]


@pytest.mark.parametrize(
    "kind", ["calexp", "bkgd", "psf", "bias", "gain", "dark", "flat", "defects"]
)
def test_every_kind_comes_out_identical(done: RunLayout, kind: str, tmp_path: Path) -> None:
    verdict = again(done, Wanted(kind), tmp_path)
    assert verdict.failure == ""
    assert verdict.differences == ()
    assert [file.is_identical for file in verdict.files] == [True]
    assert [path.name for path in tmp_path.iterdir()] == ["again.fits"], "nothing else is left"


def test_stages_leave_their_images(done: RunLayout, tmp_path: Path) -> None:
    from astropy.io import fits

    verdict = again(done, Wanted("calexp", stage="isr.bias"), tmp_path)
    assert [file.path.name for file in verdict.files] == ["again-0.fits", "again-1.fits"]
    with fits.open(tmp_path / "again-1.fits") as hdus:
        assert "BIAS" in str(hdus[0].header["APPLIED BIAS"]).upper() or hdus["IMAGE"].data.ndim == 3
    verdict = again(done, Wanted("calexp", stage="sfm.sourceDetection"), tmp_path)
    with fits.open(verdict.files[0].path) as hdus:
        mask = hdus["MASK"]
        assert mask.data.any()
    with pytest.raises(ConfigError, match=r"isr\.bias"):
        again(done, Wanted("calexp", stage="isr.bia"), tmp_path)
    assert len(again(done, Wanted("postisr"), tmp_path).files) == 2


def test_an_altered_input_is_named(layout: RunLayout, tmp_path: Path) -> None:
    """One pixel of one raw frame."""
    context, plan = load_run(layout)
    del context
    victim = Path(plan.tasks[plan.in_phase("calibrate").start].frames[0].paths[0])
    content = victim.read_bytes()
    try:
        altered = bytearray(content)
        altered[-5000] ^= 16
        victim.write_bytes(bytes(altered))
        verdict = again(layout, Wanted("calexp"), tmp_path)
        assert not verdict.is_identical
        assert any(victim.name in line and "altered" in line for line in verdict.differences)
        kept = slim(layout, dry_run=True).kept
        assert any(victim.name in line and "altered" in line for line in kept)
        victim.unlink()
        verdict = again(layout, Wanted("calexp"), tmp_path)
        assert any(victim.name in line and "missing" in line for line in verdict.differences)
        kept = slim(layout, dry_run=True).kept
        assert any("missing" in line for line in kept), "what can not be made again is kept"
    finally:
        victim.write_bytes(content)


def test_an_altered_master_is_named(layout: RunLayout, tmp_path: Path) -> None:
    path = layout.calibs / "bias-R22_S01.fits"
    content = bytearray(path.read_bytes())
    content[20_000] ^= 1
    path.write_bytes(bytes(content))
    verdict = again(layout, Wanted("calexp", ccd="R22_S01"), tmp_path)
    assert any("another master" in line and path.name in line for line in verdict.differences)
    kept = slim(layout, dry_run=True).kept
    assert len(kept) == 2, "the visits of this CCD"
    assert all(path.name in line for line in kept)
    (tmp_path / "again.fits").unlink()
    verdict = again(layout, Wanted("dark", ccd="R22_S01"), tmp_path)
    assert any("bias" in line for line in verdict.differences)
    path.unlink()
    verdict = again(layout, Wanted("calexp", ccd="R22_S01"), tmp_path)
    assert "master bias is missing" in verdict.differences


def test_an_altered_product_is_named(layout: RunLayout, tmp_path: Path) -> None:
    """What is made again is compared with the record, and so is the file that is there."""
    path = next(layout.root.rglob("calexp-100001-R22_S01.fits"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    verdict = again(layout, Wanted("calexp", 100001, "R22_S01"), tmp_path)
    assert verdict.files[0].is_identical
    (line,) = verdict.differences
    assert "calexp-100001-R22_S01.fits: content was altered" in line


def test_a_task_that_failed_fails_again(tiny: Path, mpipipe: Mpipipe, tmp_path: Path) -> None:
    """Nothing to compare, but the reason is told."""
    shutil.copytree(tiny, tmp_path / "raw")
    for path in (tmp_path / "raw").glob("imsim_100001_R22_S01_*"):
        path.write_bytes(path.read_bytes()[:40_000])
    done = mpipipe("run", tmp_path / "raw", "-o", tmp_path / "run", "-q")
    assert done.code == 3
    verdict = again(RunLayout.at(tmp_path / "run"), Wanted("calexp", 100001, "R22_S01"), tmp_path)
    assert "imsim_100001_R22_S01" in verdict.failure
    assert any("ended as bad data" in line for line in verdict.differences)


def test_an_altered_option_is_named(layout: RunLayout, tmp_path: Path) -> None:
    text = layout.config.read_text()
    assert "quantize_level = 16.0" in text
    layout.config.write_text(text.replace("quantize_level = 16.0", "quantize_level = 8.0"))
    verdict = again(layout, Wanted("calexp"), tmp_path)
    assert not verdict.is_identical
    assert verdict.differences == ("products.quantize_level is 8.0, was 16.0",)
    assert "IMAGE" in verdict.files[0].other_parts


def test_an_altered_library_is_named(
    layout: RunLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pixels are the same, and the lock file has the version of then."""
    now = basis.versions()
    monkeypatch.setattr(basis, "versions", lambda: now | {"scipy": "0.19.1"})
    recreator = Recreator(layout)
    verdict = recreator.recreate(Wanted("calexp"), tmp_path / "again.fits")
    recreator.write_lock(1, tmp_path / "requirements.lock")
    recreator.close()
    assert verdict.other_versions
    assert verdict.differences == (f"scipy is 0.19.1, was {now['scipy']}",)
    assert verdict.files[0].other_parts == ("PROVENANCE",)
    lines = (tmp_path / "requirements.lock").read_text().splitlines()
    assert f"scipy=={now['scipy']}" in lines
    assert not any(line.startswith(("mpipipe==", "python==")) for line in lines)


def test_slim_and_restore(layout: RunLayout, mpipipe: Mpipipe, tmp_path: Path) -> None:
    """A slim run verifies, goes on without doing anything again, and gets its images back."""
    before = verify_run(layout).digest
    numbers = scored(layout)
    done = slim(layout, ("calexp", "bkgd"), sample=1)
    assert len(done.proven) == 2
    assert done.n_products == 8
    assert not list(layout.root.rglob("calexp-*.fits"))
    verdict = verify_run(layout)
    assert (verdict.is_verified, verdict.n_removed, verdict.digest) == (True, 8, before)
    assert scored(layout) == numbers, "headers are kept: nothing is unknown now"
    resumed = mpipipe("run", "--resume", layout.root, root=layout.root)
    assert resumed.code == 0
    assert resumed.digest == before
    assert not list(layout.root.rglob("calexp-*.fits")), "nothing was done again"
    told = mpipipe("show", layout.root, "calexp")
    assert told.code == 1
    assert "recreate" in told.err
    (path,) = restore(layout, "calexp", 100002, "R22_S11")
    assert path.name == "calexp-100002-R22_S11.fits"
    assert layout.relative(path) not in read_removed(layout)
    assert len(list(layout.root.rglob("calexp-*.head"))) == 3
    with pytest.raises(ConfigError, match="was not removed"):
        restore(layout, "calexp", 100002, "R22_S11")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert not verify_run(layout).is_verified, "what is there is looked at again"
    lost = layout.root / "psf" / "100001" / "psf-100001-R22_S01.fits"
    lost.unlink()
    assert any("missing" in fault for fault in verify_run(layout).faults)


def test_slim_run_is_measured_again_from_raw(layout: RunLayout, mpipipe: Mpipipe) -> None:
    """Other options for the sources need images that are not there: they are made again."""
    slim(layout, sample=1)
    option = "sfm.sourceDetection.threshold=8"
    done = mpipipe("run", "--resume", layout.root, "--set", option, root=layout.root)
    assert done.code == 0, done.err
    assert len(list(layout.root.rglob("calexp-*.fits"))) == 4
    assert verify_run(layout).n_removed == 0
    assert read_removed(layout) == {}
    assert not list(layout.root.rglob("*.head"))


def test_lineage(done: RunLayout) -> None:
    """Backward to the raw frames of every master; forward to all that a bad flat has spoiled."""
    lineage = Lineage(done)
    try:
        start = lineage.plan.in_phase("calibrate").start
        steps = lineage.backward([start])
        names = " ".join(step.name for step in steps)
        for word in ("calibrate", "bias", "gain", "dark", "flat", "normalise", "defects"):
            assert word in names
        assert sum(len(step.inputs) for step in steps) > 200
        flat = next(s for s in steps if s.name.startswith("flat"))
        spoiled = lineage.forward(Path(flat.inputs[0].path).name)
        made = {product.kind for step in spoiled for product in step.products}
        assert {"flat", "calexp", "psf"} <= made
        by_sha = lineage.forward(flat.inputs[0].sha256)
        assert [step.task for step in by_sha] == [step.task for step in spoiled]
        with pytest.raises(ConfigError, match="no task"):
            lineage.forward("nothing.fits")
        prov = json.loads(FORMATS["prov"](lineage, steps))
        for relation in prov["used"].values():
            assert relation["prov:entity"] in prov["entity"]
            assert relation["prov:activity"] in prov["activity"]
        assert len(prov["wasGeneratedBy"]) == sum(len(step.products) for step in steps)
        graph = FORMATS["graph"](lineage, steps)
        assert graph.startswith("digraph")
        assert graph.count("->") > 200
        assert "calexp-100001" in FORMATS["text"](lineage, steps)
        facts = json.loads(FORMATS["json"](lineage, steps))
        assert facts["incarnations"][0]["environment"]["numpy"]
    finally:
        lineage.close()


def test_products_say_what_they_follow_from(done: RunLayout) -> None:
    """In a table, and nothing of where or when."""
    rows = read_provenance(next(done.root.rglob("calexp-100001-R22_S01.fits")))
    assert rows["task"] == "calibrate visit 100001 R22_S01 g"
    assert rows["option cs.reject.enabled"] == "true"
    assert {"code image", "code sources", "camera", "master flat", "version numpy"} <= set(rows)
    assert sum(name.startswith("input ") for name in rows) == 32
    assert not any(str(done.root) in value for value in rows.values())
    from mpipipe.store.hdf5 import opened_catalogue

    with opened_catalogue(done.catalogue("src")) as catalogue:
        origin = catalogue.attributes()
    assert set(origin) == {"masters", "image", "sources"}
    assert not any(name.startswith("folder") for name in origin["sources"])


def test_nothing_is_overwritten(done: RunLayout, mpipipe: Mpipipe, tmp_path: Path) -> None:
    """Neither the product of a run, nor a file of somebody's."""
    mine = tmp_path / "mine.fits"
    mine.write_bytes(b"x")
    told = mpipipe("recreate", done.root, "calexp", "-o", mine)
    assert told.code == 1
    assert "exists already" in told.err
    assert mine.read_bytes() == b"x"
    told = mpipipe("recreate", done.root, "psf", "-o", mine, "--force")
    assert told.code == 0
    assert "identical" in told.out
    of_a_snap = tmp_path / "snap-1.fits"
    of_a_snap.write_bytes(b"x")
    for what in (["postisr"], ["calexp", "--stage", "isr.bias"]):
        told = mpipipe("recreate", done.root, *what, "-o", tmp_path / "snap.fits")
        assert told.code == 1
        assert "snap-1.fits: exists already" in told.err
    assert of_a_snap.read_bytes() == b"x"
    told = mpipipe("recreate", done.root, "postisr", "-o", tmp_path / "snap.fits", "--force")
    assert told.code == 0
    assert of_a_snap.read_bytes() != b"x"


def test_names_of_files_may_be_anything(tmp_path: Path) -> None:
    from astropy.io import fits

    from mpipipe.store.provenance_table import provenance_hdu

    rows = {"input nächt\udcff.fits": "0" * 64, "task": "visit 1 S é"}
    primary = fits.PrimaryHDU()
    table = provenance_hdu(rows, primary.header)
    fits.HDUList([primary, table]).writeto(tmp_path / "x.fits")
    assert all(isinstance(name, str) for name in read_provenance(tmp_path / "x.fits"))


def test_half_of_the_run_is_gone(layout: RunLayout, mpipipe: Mpipipe, tmp_path: Path) -> None:
    """Without records nothing can be compared, without a plan nothing made: both are said."""
    shutil.rmtree(layout.records)
    verdict = again(layout, Wanted("calexp"), tmp_path)
    assert verdict.differences == ("the run has no record of how it was made",)
    assert verdict.files[0].is_identical, "as the run's own file, which is there"
    next(layout.root.rglob("calexp-100001-R22_S01.fits")).unlink()
    verdict = again(layout, Wanted("calexp", 100001, "R22_S01"), tmp_path)
    assert verdict.files[0].is_identical is None
    layout.plan.unlink()
    told = mpipipe("recreate", layout.root)
    assert told.code == 1
    assert "holds no run" in told.err
    told = mpipipe("provenance", tmp_path / "nowhere")
    assert told.code == 1
