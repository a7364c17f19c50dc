"""Scanning: what is there is sorted, what is wrong is told, nothing depends on order or index."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpipipe.data.camera import Camera
from mpipipe.data.errors import BadDataError, ConfigError, MissingInputError
from mpipipe.data.inventory import Inventory
from mpipipe.store import scan as scan_module
from mpipipe.store.raw import read_frame
from mpipipe.store.scan import SKIP_MARK, find_raw_files, scan


def kinds(inventory: Inventory) -> list[str]:
    return [problem.kind for problem in inventory.problems]


def test_visits_and_calibration_sets(tmp_path: Path, make_visit: Any, tiny: Camera) -> None:
    make_visit(visit=2, detector="R22_S12")
    make_visit(visit=2, detector="R22_S01")
    make_visit(visit=1, detector="R22_S12")
    for visit in (10, 11):
        make_visit(visit=visit, snaps=(0,), image_type="FLAT")
    make_visit(visit=12, snaps=(0,), image_type="BIAS")
    inventory = scan(tmp_path)
    assert inventory.camera == tiny and inventory.n_files == 16 * 9 and not inventory.problems
    assert [(v.visit, v.detector, v.band, list(v.snaps)) for v in inventory.science] == [
        (1, "R22_S12", "r", [0, 1]),
        (2, "R22_S01", "r", [0, 1]),
        (2, "R22_S12", "r", [0, 1]),
    ]
    assert [(c.kind, c.detector, c.band, len(c.frames)) for c in inventory.calibs] == [
        ("bias", "R22_S11", "", 1),
        ("flat", "R22_S11", "r", 2),
    ]
    frame = inventory.science[0].snaps[0]
    assert frame.channels == tuple(channel.name for channel in tiny.types["ccd"].channels)
    assert frame.exposure_time == 15.0 and frame.mjd_start == 60000.25
    assert frame.n_bytes == sum(os.path.getsize(path) for path in frame.paths)


def test_order_of_files_does_not_matter(tmp_path: Path, make_visit: Any, tiny: Camera) -> None:
    paths = [*make_visit(visit=1), *make_visit(visit=2, snaps=(0,))]
    paths[3].unlink()
    (tmp_path / "sub").mkdir()
    paths[5].rename(tmp_path / "sub" / paths[5].name)
    expected = scan(tmp_path, tiny)
    found = find_raw_files(tmp_path)
    for seed in range(3):
        random.Random(seed).shuffle(found)
        assert scan(found, tiny) == expected


def test_what_runs_have_filled_is_no_input(tmp_path: Path, make_visit: Any) -> None:
    """A folder that is named itself may be one: its raw files may lie in it."""
    paths = sorted(map(str, make_visit(visit=1)))
    for name, books in (("OUT", "OUT/run"), ("RUN", "RUN")):
        (tmp_path / books).mkdir(parents=True)
        (tmp_path / books / "plan.columns").touch()
        (tmp_path / name / "calexp-1-R22.fits").touch()
    (tmp_path / "OUT" / "run" / "flat").touch()
    assert find_raw_files(tmp_path) == paths
    assert len(find_raw_files(tmp_path / "OUT")) == 1


def test_what_is_missing_or_double(tmp_path: Path, make_visit: Any, tiny: Camera) -> None:
    paths = make_visit(visit=1)
    make_visit(visit=2, snaps=(1,))
    paths[4].unlink()
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / paths[6].name).write_bytes(paths[6].read_bytes())
    inventory = scan(tmp_path, tiny)
    told = {(p.kind, p.visit, p.snap, p.detector): p for p in inventory.problems}
    assert set(told) == {
        ("missing channel", 1, 0, "R22_S11"),
        ("double", 1, 0, "R22_S11"),
        ("missing snap", 2, 0, "R22_S11"),
    }
    assert "C14" in told["missing channel", 1, 0, "R22_S11"].reason
    assert told["double", 1, 0, "R22_S11"].file.endswith(paths[6].name)
    assert told["missing snap", 2, 0, "R22_S11"].is_warning
    assert all(problem.way_out and str(problem) for problem in inventory.problems)
    # Both faulty read-outs keep their tasks, which end with the reason.
    first = inventory.science[0].snaps
    with pytest.raises(BadDataError, match="second file of channel 'C16'"):
        read_frame(first[0], tiny)
    read_frame(first[1], tiny)


@pytest.mark.parametrize("content", [b"", b"no FITS at all", b"SIMPLE  =" + b" " * 5000])
def test_unreadable_file_is_told_and_kept(
    tmp_path: Path, make_visit: Any, tiny: Camera, content: bytes
) -> None:
    """Its name says where it belongs, so its task ends as bad data that names it."""
    paths = make_visit(visit=1)
    paths[2].write_bytes(content)
    inventory = scan(tmp_path)
    assert kinds(inventory) == ["unreadable"]
    problem = inventory.problems[0]
    assert (problem.file, problem.visit, problem.snap) == (str(paths[2]), 1, 0)
    with pytest.raises(BadDataError) as caught:
        read_frame(inventory.science[0].snaps[0], tiny)
    assert caught.value.file == str(paths[2])


def test_truncated_file_is_noticed_by_its_size(
    tmp_path: Path, make_visit: Any, tiny: Camera
) -> None:
    paths = make_visit(visit=1, snaps=(0, 1))
    paths[2].write_bytes(paths[2].read_bytes()[:40_000])
    inventory = scan(tmp_path, tiny)
    assert kinds(inventory) == ["unreadable"] and "truncated" in inventory.problems[0].reason
    assert list(inventory.science[0].snaps) == [0, 1]


@pytest.mark.parametrize(
    ("cards", "kind"),
    [
        ({"IMGTYPE": "FOCUS"}, "unknown type"),
        ({"CHIPID": "R99_S00"}, "contradiction"),
        ({"FILTER": None}, "unknown filter"),
        ({"FILTER": "Halpha"}, "unknown filter"),
    ],
)
def test_unknown_things_are_told_once(
    tmp_path: Path, make_visit: Any, cards: dict[str, Any], kind: str, tiny: Camera
) -> None:
    make_visit(visit=1)
    make_visit(visit=2, cards=cards)
    inventory = scan(tmp_path, tiny)
    assert set(kinds(inventory)) == {kind}
    if kind != "contradiction":
        assert len(inventory.problems) == 1 and "32 files" in inventory.problems[0].reason
    kept = {visit.visit for visit in inventory.science}
    assert kept == ({1, 2} if cards.get("FILTER") else {1})


def test_marked_and_hidden_folders_are_left_alone(
    tmp_path: Path, make_visit: Any, tiny: Camera
) -> None:
    make_visit(visit=1)
    (tmp_path / "marked").mkdir()
    (tmp_path / "marked" / SKIP_MARK).write_text("")
    for name in ("marked/below", ".hidden"):
        (tmp_path / name).mkdir()
        make_visit(visit=5, folder=tmp_path / name)
    (tmp_path / ".imsim_9.fits").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    inventory = scan(tmp_path, tiny)
    assert {visit.visit for visit in inventory.science} == {1} and not inventory.problems
    with pytest.raises(MissingInputError):
        scan(tmp_path / "marked", tiny)


def test_links_in_a_circle_end(tmp_path: Path, make_visit: Any, tiny: Camera) -> None:
    make_visit(visit=1)
    (tmp_path / "again").symlink_to(tmp_path)
    assert not scan(tmp_path, tiny).problems


def test_nothing_to_scan(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no FITS file"):
        scan(tmp_path)
    with pytest.raises(MissingInputError, match="can not be read"):
        scan(tmp_path / "none")


def test_camera_is_not_guessed(tmp_path: Path, make_visit: Any) -> None:
    make_visit(visit=1, cards={"INSTRUME": "unheard of"})
    with pytest.raises(ConfigError, match="--camera"):
        scan(tmp_path)
    make_visit(visit=2)
    make_visit(visit=3, cards={"INSTRUME": "sim-small"})
    with pytest.raises(ConfigError, match=r"several cameras: sim-small .*sim-tiny"):
        scan(tmp_path)


# -- the index ------------------------------------------------------------------------------------


def test_index_gives_the_same(tmp_path: Path, make_visit: Any, tiny: Camera) -> None:
    raw, index = tmp_path / "raw", tmp_path / "index"
    raw.mkdir()
    paths = make_visit(visit=1, folder=raw)
    paths[3].write_bytes(b"damaged")
    first = scan(raw, tiny, index)
    again = scan(raw, tiny, index)
    assert (first.n_cached, again.n_cached) == (0, 32)
    assert again.science == first.science and again.problems == first.problems


def test_index_opens_no_known_file(
    tmp_path: Path, make_visit: Any, tiny: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, index = tmp_path / "raw", tmp_path / "index"
    raw.mkdir()
    make_visit(visit=1, folder=raw)
    scan(raw, tiny, index)

    def refuse(*args: Any) -> None:
        raise AssertionError("a known file was read again")

    monkeypatch.setattr(scan_module, "_read", refuse)
    assert scan(raw, tiny, index).n_cached == 32


def test_changed_file_is_read_again(tmp_path: Path, make_visit: Any, tiny: Camera) -> None:
    raw, index = tmp_path / "raw", tmp_path / "index"
    raw.mkdir()
    make_visit(visit=1, folder=raw)
    scan(raw, tiny, index)
    for path in raw.iterdir():
        path.unlink()
    make_visit(visit=1, folder=raw, image_type="BIAS", snaps=(0,))
    inventory = scan(raw, tiny, index)
    assert inventory.n_cached == 0 and len(inventory.calibs) == 1 and not inventory.science


@given(damage=st.binary(max_size=200))
@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damaged_index_is_as_good_as_none(
    tmp_path: Path, make_visit: Any, tiny: Camera, damage: bytes
) -> None:
    raw, index = tmp_path / "raw", tmp_path / "index"
    if not raw.exists():
        raw.mkdir()
        make_visit(visit=1, folder=raw)
    expected = scan(raw, tiny)
    scan(raw, tiny, index)
    (file,) = index.iterdir()
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] + damage)
    found = scan(raw, tiny, index)
    assert found.science == expected.science and found.problems == expected.problems


def test_index_that_can_not_be_written_is_no_error(
    tmp_path: Path, make_visit: Any, tiny: Camera
) -> None:
    make_visit(visit=1)
    (tmp_path / "file").write_text("")
    assert scan(tmp_path, tiny, tmp_path / "file" / "index").n_files == 32
