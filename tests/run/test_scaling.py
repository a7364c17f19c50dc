"""Costs from the events of a run, and what is foreseen with them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mpipipe.data.errors import ConfigError
from mpipipe.run.scaling import foresee, measure
from mpipipe.run.traces import read_run_events
from mpipipe.store.layout import RunLayout
from mpipipe.trace.eventfile import EVENTS

from .conftest import Mpipipe

LATENCY, BANDWIDTH = 0.02, 50e6
PACE = 2.35
"""Seconds from the start of a task to that of the next."""


def made_up(n_tasks: int, ranks: int = 2) -> np.ndarray:
    """Events of tasks of two seconds of work that read two files each, of known speed."""
    rows = []
    for task in range(n_tasks):
        rank, start = task % ranks, 0.1 + PACE * (task // ranks)
        files = 0.0
        for n_bytes in (5_000_000, 10_000_000 + 1000 * task):
            took = LATENCY + n_bytes / BANDWIDTH
            rows.append((rank, start, took, np.nan, 0, n_bytes, task, 1, b"read", b"raw"))
            files += took
        rows.append((rank, start, 2.0 + files, 2.0, 0, 0, task, 1, b"task", b"calibrate"))
        rows.append((rank, start + 5, 0.003, np.nan, 0, 9, task, 2, b"checkpoint", b"calibrate"))
    for rank in range(ranks):
        cpu = 0.1 + (0.001 * n_tasks if rank == 0 else 0.0)
        rows.append((rank, 0.0, 50.0, cpu, 0, 0, -1, 2, b"phase", b"calibrate"))
    return np.array(rows, dtype=EVENTS.dtype)


def test_known_costs_are_recovered() -> None:
    measured = measure(made_up(20))
    np.testing.assert_allclose(measured.seconds, 2.0, atol=1e-9)
    assert measured.bandwidth == pytest.approx(BANDWIDTH, rel=1e-6)
    assert measured.file_s == pytest.approx(LATENCY, rel=1e-6)
    assert measured.n_files == 2
    assert measured.commit_s == pytest.approx(0.003)
    assert measured.master_s == pytest.approx(0.001, rel=1e-3)
    assert measured.start_s == pytest.approx(0.1)
    assert measured.gap_s == pytest.approx(PACE - 2 - 2 * LATENCY - 15e6 / BANDWIDTH, abs=1e-3)


def test_what_is_foreseen() -> None:
    """Twice the ranks take half the time, until tasks run out; a narrow disk sets the pace."""
    measured = measure(made_up(20))
    one, two, many = foresee(measured, [1, 2, 500], 100, n_ccds=1)
    assert two.wall_s == pytest.approx(one.wall_s / 2, rel=0.05)
    assert many.wall_s == pytest.approx(2.0 + measured.n_bytes.mean() / BANDWIDTH, rel=0.2)
    (narrow,) = foresee(measured, [100], 1000, asked={"bandwidth": 1e8})
    assert narrow.wall_s > 1000 * measured.n_bytes.mean() / 1e8 * 0.7


def test_too_little_is_told() -> None:
    with pytest.raises(ConfigError, match="tell of 2 tasks"):
        measure(made_up(2))


def test_command(done: RunLayout, mpipipe: Mpipipe) -> None:
    """A run on one rank, simulated on one rank, takes as long as it did."""
    _, events = read_run_events(done)
    measured = measure(events)
    told = mpipipe("scaling", "simulate", done.root, "--ranks", "1,4", "--json", "--ccds", "2")
    assert told.code == 0, told.err
    one, four = json.loads(told.out)["simulated"]
    assert one["wall_s"] == pytest.approx(measured.wall_s, rel=0.6), "four tasks, drawn at random"
    assert four["wall_s"] < one["wall_s"]
    assert "efficiency" in mpipipe("scaling", "simulate", done.root).out
    wrong = mpipipe("scaling", "simulate", done.root, "--ranks", "0")
    assert wrong.code == 1
    assert "--ranks" in wrong.err
