"""Events: 72 bytes each, nothing before the start, next to no cost, none lost but the last."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mpipipe.trace import events
from mpipipe.trace.eventfile import EVENT, read_all, read_events
from mpipipe.trace.events import KINDS


@pytest.fixture(autouse=True)
def stopped() -> Iterator[None]:
    yield
    events.stop()
    events.set_task(-1)


def recorded(path: Path) -> np.ndarray:
    """What was recorded after the start."""
    found = read_events(path)
    return found[found["kind"] != KINDS.index("startup")]


def test_events_are_written(tmp_path: Path) -> None:
    path = events.start(tmp_path / "trace", 3)
    events.set_task(17)
    before = time.time()
    with events.span("stage", "sfm.computeSourceSkyCoords", 1000) as noted:
        time.sleep(0.01)
        noted.n_bytes += 24
    events.set_task(-1)
    events.record("idle", "no task", time.perf_counter())
    events.stop()
    first, second = recorded(path)
    assert KINDS[first["kind"]] == "stage"
    assert first["name"] == b"sfm.computeSourceSkyCoords"
    assert (first["task"], first["n_bytes"], second["task"]) == (17, 1024, -1)
    assert 0.01 <= first["duration"] < 1
    assert first["cpu"] < first["duration"]
    assert np.isnan(second["cpu"]), "nobody looked at the clock"
    assert abs(first["start"] - before) < 0.5
    assert first["process"] == os.getpid()


def test_the_start_of_the_process_is_known(tmp_path: Path) -> None:
    path = events.start(tmp_path, 0)
    events.stop()
    (startup,) = read_events(path)
    assert KINDS[startup["kind"]] == "startup"
    assert startup["duration"] > 0.05, "importing pytest alone takes that"


def test_nothing_before_the_start(tmp_path: Path) -> None:
    events.record("stage", "x", 0.0)
    path = events.start(tmp_path, 0)
    events.stop()
    assert len(recorded(path)) == 0


def test_resume_in_another_process_appends(tmp_path: Path) -> None:
    path = events.start(tmp_path, 0)
    events.record("stage", "a", 0.0)
    given = json.loads(json.dumps(events.settings()))
    events.stop()
    events.resume(given)
    events.record("stage", "b", 0.0)
    events.resume(given)
    events.stop()
    assert recorded(path)["name"].tolist() == [b"a", b"b"]


def test_a_fork_does_not_repeat_what_its_parent_holds(tmp_path: Path) -> None:
    path = events.start(tmp_path, 0)
    events.record("stage", "a", 0.0)
    if (child := os.fork()) == 0:
        events.record("stage", "b", 0.0)
        events.flush()
        os._exit(0)
    os.waitpid(child, 0)
    events.stop()
    assert sorted(recorded(path)["name"].tolist()) == [b"a", b"b"]


def test_more_than_the_buffer_holds(tmp_path: Path) -> None:
    path = events.start(tmp_path, 0)
    for number in range(1000):
        events.record("send", str(number), 0.0)
    events.stop()
    assert recorded(path)["name"].tolist() == [str(n).encode() for n in range(1000)]


def test_torn_and_senseless_events_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "events-00000.bin"
    rows = np.zeros(3, dtype=EVENT)
    rows["name"] = [b"a", b"bad", b"b"]
    rows["kind"][1] = 200
    path.write_bytes(rows.tobytes() + b"\xff" * 50)
    assert read_events(path)["name"].tolist() == [b"a", b"b"]


def test_a_torn_write_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full for a moment: what is written afterwards is read."""
    path = events.start(tmp_path, 0)
    events.flush()
    real, calls = os.write, []

    def torn(fd: int, data: bytes) -> int:
        calls.append(len(data))
        return real(fd, bytes(data)[:100]) if len(calls) == 1 else real(fd, data)

    monkeypatch.setattr(os, "write", torn)
    for name in ("a", "b"):
        events.record("stage", name, 0.0)
    events.flush()
    events.record("stage", "c", 0.0)
    events.stop()
    assert recorded(path)["name"].tolist() == [b"a", b"c"]


def test_clocks_are_aligned(tmp_path: Path) -> None:
    for rank, behind in ((0, 0.0), (1, 100.0)):
        events.start(tmp_path, rank)
        events.note_clock(behind)
        events.record("stage", "x", time.perf_counter())
        events.stop()
    found = read_all(sorted(tmp_path.glob("*.bin")))
    stages = found[found["kind"] == b"stage"]
    assert stages["rank"].tolist() == [0, 1]
    assert abs(stages["start"][1] - stages["start"][0] - 100.0) < 1.0
    assert b"clock" not in found["kind"]


KILLED = """
import sys, time
from mpipipe.trace import events
events.start(sys.argv[1], 0)
for number in range(events._N_EVENTS + 10):
    events.record("stage", str(number), 0.0)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.timeout(60)
def test_a_killed_process_leaves_what_it_had_appended(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(read_events(tmp_path / "events-00000.bin")) == events._N_EVENTS


def test_a_full_disk_ends_nothing(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    events.resume({"path": "/dev/full"})
    events.record("stage", "x", 0.0)
    events.flush()
