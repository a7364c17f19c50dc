"""The plan as columns: what goes in comes out, whatever the names, and damage is seen."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from mpipipe.data.errors import BadDataError
from mpipipe.data.inventory import FrameFiles, Inventory, Problem, VisitCcd
from mpipipe.run.config import load_config
from mpipipe.run.costs import DEFAULTS, Costs, PhaseCost
from mpipipe.run.plan import Goal, Plan, load_plan, load_run, make_table, plan_of, save_run
from mpipipe.run.predict import predict
from mpipipe.run.task import Draft, build_table
from mpipipe.store.cameras import load_camera
from mpipipe.store.layout import RunLayout

names = st.text(max_size=12).filter(lambda text: "\0" not in text)


@st.composite
def frames(draw: st.DrawFn) -> FrameFiles:
    paths = draw(st.lists(st.tuples(names, names.map(lambda n: n.replace("/", "-"))), max_size=3))
    with_channels = draw(st.booleans())
    return FrameFiles(
        draw(st.integers(-1, 2**62)),
        draw(st.integers(0, 30)),
        draw(names),
        draw(st.sampled_from(["science", "bias", "flat"])),
        draw(names),
        tuple(f"/{folder}/{name}" for folder, name in paths),
        tuple(f"C{i:02d}" for i in range(len(paths))) if with_channels else (),
        draw(st.floats(0, 1e4)),
        draw(st.floats(0, 1e5)),
        draw(st.integers(0, 2**50)),
    )


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    return Draft(
        draw(st.sampled_from(["bias", "calibrate"])),
        draw(st.integers(-1, 2**62)),
        draw(names),
        draw(names),
        draw(st.lists(frames(), max_size=3)),
        draw(st.lists(frames(), max_size=2)),
        draw(st.integers(0, 9)),
        draw(st.lists(names, max_size=2)),
    )


@given(st.lists(drafts(), max_size=6))
def test_tasks_come_back_as_they_went_in(given_drafts: list[Draft]) -> None:
    table = build_table(given_drafts)
    assert len(table) == len(given_drafts)
    for number, (task, draft) in enumerate(zip(table, given_drafts, strict=True)):
        assert task.id == number
        assert (task.phase, task.visit, task.ccd, task.band) == draft[:4]
        assert task.frames == tuple(draft.frames)
        assert task.more == tuple(draft.more)
        assert task.n_expected_snaps == draft.n_expected_snaps
        assert task.problems == tuple(draft.problems)


def frame(
    visit: int, ccd: str, snap: int = 0, kind: str = "science", band: str = "r"
) -> FrameFiles:
    path = f"/raw/{kind}/{visit}-{ccd}-{snap}.fits"
    return FrameFiles(visit, snap, ccd, kind, band, (path,), ("",), 15.0, 60000.0, 1000)


@pytest.fixture
def inventory() -> Inventory:
    """Three visits of two CCDs of the small simulated camera, with problems."""
    camera = load_camera("sim-tiny")
    ccds = [detector.name for detector in camera.detectors[:2]]
    science = [
        VisitCcd(visit, ccd, "r", {snap: frame(visit, ccd, snap) for snap in (1, 0)})
        for visit in (1, 2, 3)
        for ccd in ccds
    ]
    problems = [
        Problem("missing channel", "no file of channel C00", visit=2, detector=ccds[0]),
        Problem("contradiction", "two filters", visit=3),
        Problem("unreadable", "torn", file="/raw/x.fits"),
    ]
    return Inventory(camera, science, problems=problems, n_files=12)


def make_plan(
    inventory: Inventory,
    raw: str,
    goal: Goal,
    calibs: Path | None,
    layout: RunLayout,
    costs: Costs = DEFAULTS,
) -> Plan:
    """The plan of an inventory."""
    table = make_table(inventory, raw, goal, builds_masters=calibs is None)
    return plan_of(table, inventory.camera, raw, goal, calibs, layout, costs)


def test_a_plan_is_read_back(inventory: Inventory, tmp_path: Path) -> None:
    layout = RunLayout.at(tmp_path / "run")
    plan = make_plan(inventory, "/raw", "calibrate", None, layout)
    save_run(layout, plan, load_config(), inventory.camera)
    context, again = load_run(layout)
    assert context.camera == inventory.camera
    assert list(again.tasks) == list(plan.tasks)
    assert again.problems == plan.problems == tuple(map(str, inventory.problems))
    assert again.phases == ("calibrate",)
    assert again.phase_of(5) == "calibrate" and again.phase_of(6) == again.phase_of(-1) == ""
    assert again.label(0) == plan.tasks[0].label


def test_tasks_know_their_problems(inventory: Inventory, tmp_path: Path) -> None:
    plan = make_plan(inventory, "/raw", "calibrate", None, RunLayout.at(tmp_path))
    told = [len(task.problems) for task in plan.tasks]
    assert told == [0, 0, 1, 0, 1, 1], "a visit's problem is told to all of its CCDs"
    assert [f.snap for f in plan.tasks[0].frames] == [0, 1]


def test_the_same_input_gives_the_same_bytes(inventory: Inventory, tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        layout = RunLayout.at(tmp_path / name)
        plan = make_plan(inventory, "/raw", "calibrate", None, RunLayout.at(tmp_path / "run"))
        save_run(layout, plan, load_config(), inventory.camera)
        contents.append(layout.plan.read_bytes())
    assert contents[0] == contents[1]


@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_damage_is_seen(saved: RunLayout, place: int, bit: int) -> None:
    whole = saved.plan.read_bytes()
    raw = bytearray(whole)
    raw[place % len(raw)] ^= 1 << bit
    other = RunLayout.at(saved.root.parent / "damaged")
    other.root.mkdir(exist_ok=True)
    other.plan.unlink(missing_ok=True)
    other.plan.write_bytes(raw)
    with pytest.raises(BadDataError):
        load_plan(other)
    other.plan.unlink()
    other.plan.write_bytes(whole[: place % len(whole)])
    with pytest.raises(BadDataError):
        load_plan(other)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> RunLayout:
    """The folder of a saved plan."""
    camera = load_camera("sim-tiny")
    ccd = camera.detectors[0].name
    visits = [VisitCcd(visit, ccd, "r", {0: frame(visit, ccd)}) for visit in range(4)]
    layout = RunLayout.at(tmp_path_factory.mktemp("plan") / "run")
    plan = make_plan(Inventory(camera, visits), "/raw", "calibrate", None, layout)
    save_run(layout, plan, load_config(), camera)
    return layout


def test_stretches_of_a_table() -> None:
    table = build_table([Draft("bias", -1, f"c{i}", "", [frame(i, "c")]) for i in range(5)])
    part = table[1:4]
    assert [task.id for task in part] == [1, 2, 3]
    assert [task.id for task in part[1:]] == [2, 3]
    assert part[-1].ccd == "c3" and len(part[9:]) == 0
    assert part.input_bytes() == 3000
    with pytest.raises(IndexError):
        part[3]


def test_prediction_follows_costs_and_ranks(inventory: Inventory, tmp_path: Path) -> None:
    costs = dict(DEFAULTS) | {"calibrate": PhaseCost(1.0, 0.0, 0.0, 1e6)}
    plan = make_plan(inventory, "/raw", "calibrate", None, RunLayout.at(tmp_path), costs)
    assert [task.cost_s for task in plan.tasks] == [1.0] * 6
    walls = [predict(plan, inventory.camera, n, costs).phases[0].wall_s for n in (1, 2, 6, 100)]
    assert walls == [6.0, 3.0, 1.0, 1.0]
    one, many = (predict(plan, inventory.camera, n, costs) for n in (1, 100))
    assert many.memory_bytes == 6 * one.memory_bytes
    assert one.read_bytes == 12_000 and one.written_bytes > 0
    assert np.isfinite(one.wall_s)
