"""Events of a whole run: gathered into one table, given out, and accounted for."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from mpipipe.data.errors import ConfigError
from mpipipe.run.traces import read_run_events, table_of
from mpipipe.store.hdf5 import read_catalogue
from mpipipe.store.layout import RunLayout
from mpipipe.trace import events as run_events
from mpipipe.trace.accounting import account

from .conftest import Mpipipe


def test_every_second_of_a_run_is_accounted_for(done: RunLayout) -> None:
    number, events = read_run_events(done)
    assert number == 1
    kinds = set(events["kind"].tolist())
    assert {b"stage", b"task", b"read", b"write", b"checkpoint", b"phase", b"sample"} <= kinds
    found = account(events)
    (rank,) = found.ranks
    assert sum(rank.of_kind(kind) for kind in rank.shares) == pytest.approx(rank.wall_s, abs=1e-3)
    assert [phase.name for phase in found.phases][-3:] == ["calibrate", "associate", "seams"]
    read = events[(events["kind"] == b"read") & (events["name"] == b"raw")]
    assert read["nBytes"].sum() > 1e6
    peak = events[events["name"] == b"peak memory"]
    assert peak["nBytes"].max() > 50e6
    tasks = events[(events["kind"] == b"task") & (events["name"] == b"calibrate")]
    assert len(tasks) == 4
    assert tasks["nFaults"].max() > 0


def test_the_table_of_events(done: RunLayout) -> None:
    """What is gathered at the end of a run is what its ranks had written until then."""
    table = read_catalogue(table_of(done, 1))
    _, events = read_run_events(done, 1)
    assert 0.8 * len(events) < len(table) <= len(events)
    assert np.isin(table["start"], events["start"]).all()


def test_a_run_that_is_over_records_nothing_more(done: RunLayout) -> None:
    """Whatever this process does afterwards is none of it."""
    before = len(read_run_events(done)[1])
    run_events.record("stage", "something else", 0.0)
    run_events.flush()
    assert len(read_run_events(done)[1]) == before


def test_commands(done: RunLayout, mpipipe: Mpipipe, tmp_path: Path) -> None:
    told = mpipipe("report", "time", done.root, "--json")
    assert told.code == 0, told.err
    facts = json.loads(told.out)
    shares = facts["ranks"][0]["shares"]
    total = sum(sum(names.values()) for names in shares.values())
    assert total == pytest.approx(facts["ranks"][0]["wall_s"], abs=1e-3)
    words = mpipipe("report", "time", done.root).out
    assert "100.0" in words
    assert "without checkpoint" in words
    assert mpipipe("trace", done.root, "-o", tmp_path / "t.json").code == 0
    assert len(json.loads((tmp_path / "t.json").read_text())["traceEvents"]) > 300
    again = mpipipe("trace", done.root, "-o", tmp_path / "t.json")
    assert again.code == 1
    assert "exists already" in again.err
    assert mpipipe("trace", done.root, "--to", "csv", "-o", tmp_path / "t.csv").code == 0
    with open(tmp_path / "t.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["kind"] for row in rows} >= {"stage", "task"}
    wrong = mpipipe("trace", done.root, "--to", "perfeto")
    assert wrong.code == 1
    assert "no format" in wrong.err


def test_nothing_recorded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no events"):
        read_run_events(RunLayout.at(tmp_path))
