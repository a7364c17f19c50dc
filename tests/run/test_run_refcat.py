"""A run with a reference catalogue knows it when it goes on, and notices that it has changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mpipipe.data.errors import BadDataError
from mpipipe.data.refcat import reference_rows
from mpipipe.run.basis import Basis
from mpipipe.run.config import load_config
from mpipipe.run.context import RunContext, TaskResultTables
from mpipipe.run.plan import load_run
from mpipipe.store.cameras import load_camera
from mpipipe.store.layout import RunLayout
from mpipipe.store.refcat.ingest import Ingest
from mpipipe.store.refcat.writing import write_refcat

from .conftest import Mpipipe


def make_refcat(folder: Path, n_stars: int) -> Path:
    columns = {"id": np.arange(n_stars), "ra": np.full(n_stars, 10.0), "dec": np.zeros(n_stars)}
    rows = reference_rows({**columns, "mag_r": np.arange(n_stars) + 10.0}, ("r",))
    if folder.exists():
        shutil.rmtree(folder)
    write_refcat(folder, [rows], ("r",), "test")
    return folder


def context_with(refcat: Path | None, tmp_path: Path) -> RunContext:
    camera = load_camera("sim-tiny")
    return RunContext(RunLayout.at(tmp_path / "run"), load_config(None), camera, None, refcat)


def test_shards_are_recorded_as_input(tmp_path: Path) -> None:
    context = context_with(make_refcat(tmp_path / "refcat", 3), tmp_path)
    result = TaskResultTables()
    assert context.refcat is not None
    assert len(context.stars_around(context.refcat, 10.0, 0.0, 0.1, result)) == 3
    (path,) = result.all_tables()["input_paths"]
    assert path.decode() == str(next((tmp_path / "refcat").rglob("*.fits")))


def test_shards_of_an_earlier_attempt_are_not_taken_over(tmp_path: Path) -> None:
    """They are read again, maybe others: an exchanged one would count as altered for ever."""
    refcat = make_refcat(tmp_path / "refcat", 3)
    earlier, now = TaskResultTables(), TaskResultTables()
    context_with(refcat, tmp_path).stars_around(refcat, 10.0, 0.0, 0.1, earlier)
    frame = tmp_path / "refcat-frame.fits"
    frame.write_bytes(b"frame")
    earlier.add_input(frame, "0" * 64)
    now.take_over(earlier.all_tables(), but=("calexp",), reads=lambda path: path == str(frame))
    assert [path.decode() for path in now.all_tables()["input_paths"]] == [str(frame)]


def test_the_catalogue_belongs_to_the_basis_of_sources_alone(tmp_path: Path) -> None:
    config, camera = load_config(None), load_camera("sim-tiny")
    before, after = (Basis.of(config, camera, (digit * 64, "")) for digit in "ab")
    assert not after.changes(before, ("masters", "image"))
    changes = after.changes(before, ("sources",))
    assert changes.others == ("the reference catalogue has changed",) and not changes.options
    chosen = Basis.of(config, camera, ("b" * 64, "/other")).changes(before, ("sources",))
    assert chosen.options == ("the reference catalogue is /other, was none",) and not chosen.others
    moved = Basis.of(config, camera, ("a" * 64, "/moved"))
    assert not moved.changes(before, ("sources",))
    assert context_with(make_refcat(tmp_path / "refcat", 3), tmp_path).basis.parts["sources"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_exchanged_catalogue_is_refused_or_redone(
    tiny: Path, tmp_path: Path, mpipipe: Mpipipe
) -> None:
    """Refused, since nobody has asked for another one; with --force all that follows from it is
    made again, and no more."""
    root, refcat = tmp_path / "run", tmp_path / "refcat"
    stars = tiny.parent / "refcat" / "reference.fits"
    Ingest([stars]).write(refcat, "reference")
    first = mpipipe("run", "-q", tiny, "-o", root, "--refcat", refcat, root=root)
    assert first.code in (0, 3), first.err
    before = first.digest
    context, _ = load_run(RunLayout.at(root))
    assert context.refcat == refcat
    shutil.rmtree(refcat)
    Ingest([stars]).write(refcat, "reference", max_rows=20)  # the same stars in other shards
    (root / "completion.json").unlink()
    refused = mpipipe("run", "--resume", root)
    assert refused.code == 1
    assert "the reference catalogue has changed" in refused.err and "--force" in refused.err
    tried = mpipipe("run", "--resume", root, "--dry-run", "--force")
    assert "4 measured again on their calexp" in tried.out, tried.out
    forced = mpipipe("run", "-q", "--resume", root, "--force", root=root)
    assert forced.code == first.code, forced.err
    new = mpipipe(
        "run", "-q", tiny, "-o", tmp_path / "new", "--refcat", refcat, root=tmp_path / "new"
    )
    assert new.digest == forced.digest != before  # products name the shards that they used
    shutil.rmtree(refcat)
    (root / "completion.json").unlink()
    gone = mpipipe("run", "--resume", root)
    assert gone.code == 1 and "refcat.json" in gone.err


@pytest.mark.slow
def test_a_run_goes_on_with_a_catalogue_that_it_is_given(
    tiny: Path, tmp_path: Path, mpipipe: Mpipipe
) -> None:
    """Only what is measured on the calexp is redone, and it is what a new run would give."""
    root, refcat = tmp_path / "run", tmp_path / "refcat"
    source = tiny.parent / "refcat" / "reference.fits"
    assert mpipipe("refcat", "ingest", "-q", source, "-o", refcat).code == 0
    assert mpipipe("run", "-q", tiny, "-o", root).code == 0
    refused = mpipipe("run", "-q", "--resume", root, "--refcat", tmp_path / "none")
    assert refused.code == 1 and "mpipipe refcat ingest" in refused.err
    tried = mpipipe("run", "--resume", root, "--refcat", refcat, "--dry-run")
    assert "4 measured again on their calexp" in tried.out, tried.out + tried.err
    assert f"the reference catalogue is {refcat}, was none" in tried.out
    again = mpipipe("run", "-q", "--resume", root, "--refcat", refcat, root=root)
    assert again.code in (0, 3), again.err
    new = mpipipe(
        "run", "-q", tiny, "-o", tmp_path / "new", "--refcat", refcat, root=tmp_path / "new"
    )
    assert again.digest == new.digest
    (root / "completion.json").unlink()
    same = mpipipe("run", "-q", "--resume", root, root=root)
    assert same.code == again.code and same.digest == new.digest, same.err


def test_a_folder_that_holds_none_is_refused_before_anything_begins(
    tiny: Path, tmp_path: Path, mpipipe: Mpipipe
) -> None:
    for command in (("run", tiny, "-o", tmp_path / "run"), ("plan", tiny)):
        refused = mpipipe(*command, "--refcat", tmp_path / "nothing")
        assert refused.code == 1 and "mpipipe refcat ingest" in refused.err
    assert not (tmp_path / "run").exists()


def test_a_missing_catalogue_is_named(tmp_path: Path) -> None:
    context = context_with(tmp_path / "gone", tmp_path)
    with pytest.raises(BadDataError, match="gone"):
        context.stars_around(tmp_path / "gone", 0.0, 0.0, 1.0, TaskResultTables())
    with pytest.raises(BadDataError, match=r"refcat\.json"):
        _ = context.basis
