"""Events: one line each, nothing before the start, next to no cost."""

import json
import time

import pytest

from mpipipe.trace import events


@pytest.fixture(autouse=True)
def stopped():
    yield
    events.stop()
    events.set_task(-1)


def test_events_are_written(tmp_path):
    path = events.start(tmp_path / "trace", 3)
    events.set_task(17)
    before = time.time()
    with events.span("stage", 'isr."over"scan', 1000):
        time.sleep(0.01)
    events.set_task(-1)
    events.record("wait", "idle", time.perf_counter())
    events.stop()
    first, second = events.read_events(path)
    assert first["kind"] == "stage" and first["name"] == 'isr."over"scan'
    assert first["task"] == 17 and first["bytes"] == 1000 and second["task"] == -1
    assert 0.01 <= first["dt"] < 1 and first["cpu"] < first["dt"]
    assert abs(first["t0"] - before) < 0.5


def test_nothing_before_the_start(tmp_path):
    events.record("stage", "x", 0.0)
    path = events.start(tmp_path, 0)
    events.stop()
    assert events.read_events(path) == []


def test_resume_in_another_process_appends(tmp_path):
    path = events.start(tmp_path, 0)
    events.record("stage", "a", 0.0)
    given = json.loads(json.dumps(events.settings()))
    events.stop()
    events.resume(given)
    events.record("stage", "b", 0.0)
    events.resume(given)
    events.stop()
    assert [event["name"] for event in events.read_events(path)] == ["a", "b"]


def test_broken_lines_are_left_out(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"name": "a"}\n{"name": \n\xff\xff\n{"name": "b"}\n{"na')
    assert [event["name"] for event in events.read_events(path)] == ["a", "b"]


def test_cost(tmp_path):
    """A stage takes milliseconds; an event must stay under a hundredth of that."""
    events.start(tmp_path, 0)
    begin = time.process_time()
    for _ in range(2000):
        events.record("stage", "isr.overscan", 0.0, 0.1, 10)
    assert (time.process_time() - begin) / 2000 < 50e-6
