"""What a person sees of a run, and how it is stopped from outside."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mpipipe.data.errors import ConfigError
from mpipipe.run.halt import DRAIN, NOW, HaltWatch, ask_to_halt
from mpipipe.store.layout import RunLayout

from .conftest import Mpipipe


def status_of(mpipipe: Mpipipe, root: Path) -> dict[str, Any]:
    done = mpipipe("status", root, "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_stop_and_resume_seen_from_outside(tiny: Path, tmp_path: Path, mpipipe: Mpipipe) -> None:
    root = tmp_path / "run"
    command = [sys.executable, "-m", "mpipipe", "run", "-q", str(tiny), "-o", str(root)]
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    limit = time.monotonic() + 120
    while not list(root.glob("calibs/*.fits")):
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.05)
    assert status_of(mpipipe, root)["state"] == "running"
    assert "asked to stop" in mpipipe("stop", root).out
    assert process.wait(60) == 75
    found = status_of(mpipipe, root)
    assert found["state"] == "stopped" and found["verified"] is None
    assert sum(sum(phase["outcomes"].values()) for phase in found["phases"]) > 0
    assert mpipipe("run", "-q", "--resume", root).code == 0, "the old request stops nothing new"
    found = status_of(mpipipe, root)
    assert found["state"] == "complete" and found["verified"] is True
    assert found["incarnations"] == 2
    assert all(not phase["cost_left_s"] for phase in found["phases"])
    again = mpipipe("run", "--resume", root)
    assert again.code == 0 and "nothing to do" in again.out
    assert status_of(mpipipe, root)["incarnations"] == 2
    assert "nothing to stop" in mpipipe("stop", root).err
    assert json.loads((root / "costs.json").read_text())["phases"]["calibrate"]["n_tasks"] > 0
    plan = mpipipe("plan", tiny, "--costs", root, "--ranks", "2", "--json")
    assert plan.code == 0 and json.loads(plan.out)["memory_bytes"] > 1e8
    lines = mpipipe("logs", root, "--level", "info").out.splitlines()
    assert lines == sorted(lines, key=lambda line: line[:24])
    assert any("rank=0" in line and "run=run/2" in line for line in lines)
    image = next(root.glob("calexp/*/*.fits"))
    image.write_bytes(b"")
    damaged = status_of(mpipipe, root)
    assert damaged["verified"] is False and image.name in damaged["faults"][0]


def test_no_run(tmp_path: Path, mpipipe: Mpipipe) -> None:
    for command in ("status", "stop", "logs"):
        done = mpipipe(command, tmp_path)
        assert done.code == 1 and str(tmp_path) in done.err


@pytest.fixture
def layout(tmp_path: Path) -> RunLayout:
    layout = RunLayout.at(tmp_path)
    layout.record_folder(3).mkdir(parents=True)
    return layout


def test_halt_is_for_one_incarnation(layout: RunLayout) -> None:
    assert HaltWatch(layout, 3)() == 0
    assert layout.heartbeat.exists()
    assert ask_to_halt(layout, DRAIN) == 3
    assert HaltWatch(layout, 3)() == DRAIN
    assert HaltWatch(layout, 4)() == 0
    ask_to_halt(layout, NOW)
    assert HaltWatch(layout, 3)() == NOW
    layout.halt.write_text("please")
    assert HaltWatch(layout, 4)() == DRAIN, "a file made by hand stops whatever runs"


def test_a_later_incarnation_ends_this_one(layout: RunLayout) -> None:
    layout.record_folder(4).mkdir()
    assert HaltWatch(layout, 3)() == NOW
    assert not layout.heartbeat.exists(), "it would pass for a sign of life of the later one"
    assert HaltWatch(layout, 4)() == 0
    assert layout.heartbeat.exists()


@pytest.mark.slow
def test_who_was_taken_over_does_not_complete(tiny: Path, tmp_path: Path, mpipipe: Mpipipe) -> None:
    layout = RunLayout.at(tmp_path / "run")
    command = [sys.executable, "-m", "mpipipe", "run", "-q", str(tiny), "-o", str(layout.root)]
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    limit = time.monotonic() + 120
    while not list(layout.calibs.glob("*.fits")):
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.05)
    layout.record_folder(2).mkdir()
    layout.lease.write_text("{}")
    beaten = layout.heartbeat.stat().st_mtime_ns
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1, "whoever waits for 75 would start it once more"
    assert b"was taken over from these ranks, by incarnation 2" in said
    assert not layout.completion.exists()
    assert layout.heartbeat.stat().st_mtime_ns == beaten, "it is not theirs any more"


def test_only_the_master_looks(layout: RunLayout) -> None:
    ask_to_halt(layout, NOW)
    assert HaltWatch(layout, 3, lambda: False)() == 0
    assert not layout.heartbeat.exists()


def test_a_complete_run_is_not_stopped(layout: RunLayout) -> None:
    layout.completion.write_text("{}")
    with pytest.raises(ConfigError, match="nothing to stop"):
        ask_to_halt(layout, DRAIN)
