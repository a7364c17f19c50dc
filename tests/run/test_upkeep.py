"""Looking after the checkpoint of a run: `mpipipe checkpoint`, and runs that go on after it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from mpipipe.data.errors import BadDataError, ConfigError, OutputError
from mpipipe.run.checkpoint import geometry_for
from mpipipe.run.drive import _refuse_lost
from mpipipe.run.inspection import inspect
from mpipipe.run.ledger import Committed, Ledger
from mpipipe.run.plan import load_plan
from mpipipe.run.sky_plan import plans_of
from mpipipe.run.upkeep import compact, find_task, list_checkpoints, read_task, repair
from mpipipe.store.checkpoint.geometry import Geometry
from mpipipe.store.checkpoint.reader import CheckpointReader
from mpipipe.store.layout import RunLayout

from .conftest import Mpipipe, Result


@pytest.fixture
def layout(done: RunLayout, tmp_path: Path) -> RunLayout:
    """A copy of it."""
    shutil.copytree(done.root, tmp_path / "run")
    return RunLayout.at(tmp_path / "run")


def spoil(layout: RunLayout, number: int) -> int:
    """Flip a bit in a payload; the task whose record it is."""
    path = layout.checkpoints(1)[0]
    with CheckpointReader(path) as reader:
        row = reader.read_new()[number]
    with open(path, "r+b") as stream:
        stream.seek(int(row["offset"]) + int(row["n_head"]) + 5)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 4]))
    return int(row["task"])


def test_list_and_show(layout: RunLayout, mpipipe: Mpipipe) -> None:
    (facts,) = list_checkpoints(layout, verify=True)
    plan = load_plan(layout)
    assert facts.path == "records/0001/checkpoint.h5" and facts.incarnation == 1
    assert facts.n_records == sum(facts.kinds.values())
    assert facts.n_records == sum(len(plan.tasks) for plan in plans_of(layout))
    assert not facts.damage and not facts.n_torn and facts.ranks == [0]
    task = find_task(layout, None, plan.tasks[-1].ccd)
    shown = read_task(layout, task)
    assert shown.outcome == "done" and shown.phase == "calibrate" and shown.wall_s > 0
    assert {"src", "sdqa", "products", "stages"} <= {table.name for table in shown.tables}
    found = json.loads(mpipipe("checkpoint", "ls", layout.root, "--json").out)
    assert found[0]["n_records"] == facts.n_records
    out = mpipipe("checkpoint", "show", layout.root, "--visit", plan.tasks[-1].visit).out
    assert "done" in out and "src: " in out
    for wrong in (["--task", "999"], [], ["--visit", "12345"]):
        assert mpipipe("checkpoint", "show", layout.root, *wrong).code == 1


def test_damage_is_found_mended_and_done_again(layout: RunLayout, mpipipe: Mpipipe) -> None:
    digest = Result(0, "", "", layout.root).digest
    task = spoil(layout, 3)
    verified = mpipipe("checkpoint", "verify", layout.root)
    assert verified.code == 4 and f"record of task {task}" in verified.out
    with pytest.raises(BadDataError, match="checkpoint repair"):
        compact(layout)
    n_tasks, n_sky = (len(plan.tasks) for plan in plans_of(layout))
    ((damaged, fresh, number),) = repair(layout)
    assert damaged.endswith("checkpoint.h5.damaged") and (layout.root / damaged).exists()
    assert fresh == "records/0001/checkpoint-repaired.h5" and number == n_tasks + n_sky - 1
    assert repair(layout) == []
    layout.completion.unlink()
    resumed = mpipipe("run", "-q", "--resume", layout.root, root=layout.root)
    assert resumed.code == 0 and f"{n_tasks - 1} tasks were done" in resumed.out
    assert resumed.digest == digest
    pressed = json.loads(mpipipe("checkpoint", "compact", layout.root, "--json").out)
    assert pressed["n_records"] == n_tasks + n_sky and len(pressed["removed"]) == 2
    assert [path.name for path in layout.checkpoints(1) + layout.checkpoints(2)] == ["compact.h5"]
    again = compact(layout)
    assert again.path == "records/0002/compact-2.h5" and again.n_records == n_tasks + n_sky
    assert mpipipe("checkpoint", "verify", layout.root).code == 0
    layout.completion.unlink()
    resumed = mpipipe("run", "-q", "--resume", layout.root, root=layout.root)
    assert resumed.code == 0 and resumed.digest == digest


def test_damaged_index_and_ledger(layout: RunLayout) -> None:
    """Without a single index entry the ledger is the same."""
    plan = load_plan(layout)
    before = Ledger.read(layout, plan)
    path = layout.checkpoints(1)[0]
    with CheckpointReader(path) as reader:
        assert reader.geometry is not None
        begin = reader.geometry.index_offset
        length = reader.geometry.data_offset - begin
    with open(path, "r+b") as stream:
        stream.seek(begin)
        stream.write(bytes(length))
    after = Ledger.read(layout, plan)
    assert np.array_equal(before.kinds, after.kinds)
    assert Committed(layout, 1, plan.phases)().keys() == set(before.task_ids())
    for task in before.task_ids():
        assert before.record(task) == after.record(task)
    assert np.array_equal(inspect(before).kinds, inspect(after).kinds)


def test_a_running_run_is_left_alone(layout: RunLayout) -> None:
    layout.heartbeat.touch()
    for change in (repair, compact):
        with pytest.raises(ConfigError, match="mpipipe stop"):
            change(layout)
    with pytest.raises(ConfigError, match="holds no run"):
        list_checkpoints(RunLayout.at(layout.root / "none"))


def test_a_file_each_gives_the_same(layout: RunLayout, tiny: Path, mpipipe: Mpipipe) -> None:
    root = layout.root.with_name("own")
    setting = ("--set", "checkpoint.files=per-rank", "--checkpoint-interval", "0.5")
    run = mpipipe("run", "-q", tiny, "-o", root, *setting, "--durability", "process", root=root)
    assert run.code == 0, run.err
    assert [path.name for path in RunLayout.at(root).checkpoints(1)] == ["rank-00000-00.h5"]
    assert run.digest == Result(0, "", "", layout.root).digest
    assert 'durability = "process"' in (root / "config.toml").read_text()
    wrong = mpipipe("run", tiny, "-o", root / "x", "--durability", "eternal")
    assert wrong.code == 1 and "checkpoint.durability" in wrong.err


def test_lost_records_are_not_published_over(layout: RunLayout) -> None:
    """What a rank has told of must be on disk before anything is made of it."""
    ledger = Ledger.read(layout, load_plan(layout))
    ended = ledger.kinds.copy()
    assert _refuse_lost(layout, ended, ledger) == 0
    ledger.kinds[2] = -1
    with pytest.raises(OutputError, match="1 tasks were lost.*--resume"):
        _refuse_lost(layout, ended, ledger)
    ended[2] = -1
    assert _refuse_lost(layout, ended, ledger) == 0, "it was not done by this incarnation"


def total_of(sizes: Geometry) -> int:
    return sizes.n_regions * sizes.region_bytes


@pytest.mark.parametrize("n_tasks", [1, 30, 200_000, 1_000_000])
@pytest.mark.parametrize("n_ranks", [1, 3, 1000])
def test_sizes(n_tasks: int, n_ranks: int) -> None:
    """Every rank has regions to begin with; a small run does not look like terabytes."""
    sizes = geometry_for(n_tasks, 1, n_ranks, "run")
    assert 4 * n_ranks <= sizes.n_regions <= 64 * n_ranks, "files by ranks, not by tasks"
    assert sizes.region_bytes <= max(64 << 20, total_of(sizes) // (32 * n_ranks))
    total = total_of(sizes)
    assert total >= 4e6 * n_tasks and total <= 9e6 * max(n_tasks, n_ranks)
