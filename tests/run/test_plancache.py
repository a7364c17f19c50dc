"""Task tables that are kept: the same plan, as long as nothing has changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from mpipipe.run import plancache
from mpipipe.run.prepare import Request, find_tasks, prepare
from mpipipe.store.layout import RunLayout


@pytest.fixture
def raw(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Frames of our own, of which each folder counts as large."""
    monkeypatch.setattr(plancache, "LEAST_FILES", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(tiny, tmp_path / "raw")
    return tmp_path / "raw"


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("plan-*.columns"))


def test_a_kept_table_gives_the_same_plan(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (raw / "broken.fits").write_bytes(b"no FITS")
    layout = RunLayout.at(tmp_path / "run")
    first, _, seen = prepare(Request(raw), layout)
    assert seen.n_cached == 0 and len(kept(tmp_path)) == 1
    monkeypatch.setattr("mpipipe.run.prepare.scan", None)  # it is not needed
    again, _, found = prepare(Request(raw), layout)
    assert found.n_cached == found.n_files == seen.n_files
    assert found.camera == seen.camera
    assert list(again.tasks) == list(first.tasks)
    assert again.problems == first.problems and len(first.problems) > 0
    assert (again.calibs, again.goal, again.phases) == (first.calibs, first.goal, first.phases)


def test_any_change_makes_another_table(raw: Path, tmp_path: Path) -> None:
    request, index = Request(raw), tmp_path / "cache"
    n_files = find_tasks(request, None, index).n_files
    touched = min(raw.iterdir())
    os.utime(touched, ns=(1, 1))
    assert find_tasks(request, None, index).n_cached == n_files - 1
    assert find_tasks(request, None, index).n_cached == n_files
    touched.unlink()
    assert find_tasks(request, None, index).n_files == n_files - 1
    masters = Request(raw, goal="calibs")
    phases = {task.phase for task in find_tasks(masters, None, index).table}
    assert "calibrate" not in phases
    assert len(kept(tmp_path)) == 4


@pytest.mark.parametrize("size", [0, 100, -1])
def test_damage_is_no_error(raw: Path, tmp_path: Path, size: int) -> None:
    request, index = Request(raw), tmp_path / "cache"
    first = find_tasks(request, None, index)
    (path,) = kept(tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content if size < 0 else content[:size])
    again = find_tasks(request, None, index)
    for name, column in first.table.columns.items():
        np.testing.assert_array_equal(again.table.columns[name], column)


def test_few_are_kept_and_an_unwritable_place_is_no_error(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plancache, "_MOST_KEPT", 2)
    for number in range(4):
        os.utime(min(raw.iterdir()), ns=(number, number))
        find_tasks(Request(raw), None, tmp_path / "cache")
    assert len(kept(tmp_path)) == 2
    (tmp_path / "file").touch()
    assert len(find_tasks(Request(raw), None, tmp_path / "file" / "below").table) > 0
