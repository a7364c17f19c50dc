"""Sweeps: what runs they are made of, one that is made, interrupted, gone on with; bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpipipe.data.errors import BadDataError, ConfigError
from mpipipe.parallel.foreign import ForeignWatch, busy_seconds
from mpipipe.parallel.mpirun import mpirun, run_to_end, start_words
from mpipipe.run.sweep import (
    How,
    Sizes,
    Work,
    parse_ranks,
    points_of,
    read_sweep,
    read_work,
    run_sweep,
)
from mpipipe.run.sweep_model import fit_sweep, load_model
from mpipipe.run.synthetic import Load, Synthetic
from mpipipe.run.traces import read_run_events
from mpipipe.store.layout import RunLayout

from .conftest import Mpipipe

TINY = Work(Synthetic(sleep=0.01, compute=0.002, bytes=20_000, rows=3), seed=3)
needs_mpirun = pytest.mark.skipif(mpirun() is None, reason="no mpirun")


def test_points() -> None:
    """Strong and weak, repeats of all, no size twice, in an order that the seed gives."""
    sizes = Sizes((1, 2, 4), tasks=8, tasks_a_rank=4, repeats=2)
    points = points_of(TINY, sizes)
    assert sorted({(p.n_ranks, p.n_tasks) for p in points}) == [
        (1, 4), (1, 8), (2, 8), (4, 8), (4, 16),
    ]  # fmt: skip
    assert len(points) == len({p.name for p in points}) == 10
    assert points == points_of(TINY, sizes)
    assert points != points_of(replace(TINY, seed=4), sizes)
    assert len(points_of(Work(raw=("a", "b")), replace(sizes, ranks=(1, 2)))) == 8


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("sleep=0.2", Synthetic(sleep=0.2)),
        (" compute=1.5 , bytes=8M,files=4", Synthetic(compute=1.5, bytes=8e6, files=4)),
        ("bytes=2k,spread=0", Synthetic(bytes=2000.0, spread=0.0)),
    ],
)
def test_tasks_are_parsed(text: str, task: Synthetic) -> None:
    assert Synthetic.parse(text) == task


@pytest.mark.parametrize(
    "text",
    ["", "sleep", "sleep=", "sleep=x", "nap=1", "sleep=-1", "sleep=nan", "sleep=1e99", "files=3",
     "bytes=1M,files=0"],
)  # fmt: skip
def test_senseless_tasks_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--synthetic"):
        Synthetic.parse(text)


@given(st.text(max_size=30))
def test_any_text_is_a_task_or_refused(text: str) -> None:
    try:
        assert isinstance(Synthetic.parse(text), Synthetic)
        assert min(parse_ranks(text)) > 0
    except ConfigError:
        pass


def test_smaller_loads_are_the_beginning_of_larger_ones() -> None:
    few, many = Load(Synthetic(sleep=1), 10, 5).sizes(), Load(Synthetic(sleep=1), 10_000, 5).sizes()
    assert few.tolist() == many[:10].tolist()
    assert many.mean() == pytest.approx(1.0, abs=0.02)


def test_launchers() -> None:
    assert start_words(7, "srun -n {ranks} --mpi=pmix") == ["srun", "-n", "7", "--mpi=pmix"]
    with pytest.raises(ConfigError, match="ranks"):
        start_words(7, "srun -n 7")


@pytest.mark.timeout(60)
def test_a_command_that_hangs_is_ended() -> None:
    begin = time.perf_counter()
    with pytest.raises(Exception, match="did not end"):
        run_to_end([sys.executable, "-c", "import time; time.sleep(50)"], 0.5)
    assert time.perf_counter() - begin < 20


def test_own_cpu_time_is_not_foreign() -> None:
    watch, begin = ForeignWatch(), time.process_time()
    run_to_end([sys.executable, "-c", "for _ in range(3_000_000): pass"], 60)
    while time.process_time() - begin < 0.2:
        pass
    assert 0 <= watch.share() <= 1.0


def test_busy_time_is_read(tmp_path: Path) -> None:
    """Of anybody, the host of a virtual machine included; neither idle nor waiting for a disk."""
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 20 50 1000 10 5 5 20 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    assert busy_seconds(stat) == pytest.approx(200 / os.sysconf("SC_CLK_TCK"))
    assert busy_seconds(tmp_path / "none") == 0


@needs_mpirun
@pytest.mark.timeout(170)
def test_a_sweep_is_made_and_gone_on_with(tmp_path: Path, mpipipe: Mpipipe) -> None:
    """What is there is not made again; its events are; then fit, predict, plot, export."""
    folder, told = tmp_path / "sweep", []
    how = How(foreign=1.0, limit_s=100)
    sizes = Sizes((1, 2), tasks=6, repeats=1)
    runs = run_sweep(folder, TINY, sizes, how, told.append)
    assert [one.seen.n_ranks for one in runs] == [1, 2]
    assert sum(runs[1].seen.terms.values()) == pytest.approx(runs[1].seen.wall_s)
    assert runs[1].seen.n_files == pytest.approx(4), "each is written and read"
    assert runs[1].seen.n_bytes == pytest.approx(20_000, rel=0.5)
    _, events = read_run_events(RunLayout.at(folder / "runs" / "p2-n6-r0"))
    kinds = set(events["kind"].tolist())
    assert {b"task", b"checkpoint", b"exchange", b"read", b"write", b"serial"} <= kinds
    assert not list((folder / "runs" / "p2-n6-r0" / "records").rglob("*.h5"))

    stamp = (folder / "runs" / "p1-n6-r0.json").stat().st_mtime_ns
    run_sweep(folder, TINY, sizes, how, told.append)
    assert told[-1] == "2 of 2 runs are there"
    assert (folder / "runs" / "p1-n6-r0.json").stat().st_mtime_ns == stamp
    with pytest.raises(ConfigError, match="other tasks"):
        run_sweep(folder, replace(TINY, cold=True), sizes, how, told.append)

    model = fit_sweep(folder)
    again = load_model(folder)
    assert again.laws.keys() == model.laws.keys()
    assert again.ranks == (1, 2)
    predicted = mpipipe("scaling", "predict", folder, "--ranks", "1,50", "--visits", "9", "--json")
    assert predicted.code == 0, predicted.err
    rows = json.loads(predicted.out)["predicted"]
    assert [row["n_tasks"] for row in rows] == [9 * 189] * 2
    page = mpipipe("scaling", "plot", folder, "-o", tmp_path / "x.html")
    assert page.code == 0, page.err
    html = (tmp_path / "x.html").read_text()
    assert "<svg" in html
    assert not any(word in html for word in ('href="http', "<script", "src=")), "it needs no other"
    text = mpipipe("scaling", "export", folder).out
    assert "POINTS (1) (2)" in text


@needs_mpirun
@pytest.mark.timeout(100)
def test_ctrl_c_keeps_what_is_done(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    words = ["scaling", "run", "-o", str(folder), "--ranks", "1", "--tasks", "40", "--repeats", "9",
             "--synthetic", "sleep=0.02", "--foreign", "1", "--seed", "1"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "mpipipe", *words], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        assert "[1/9]" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 75
    finally:
        process.kill()
        process.stderr.close()
    assert 1 <= len(read_sweep(folder)) < 9
    assert read_work(folder).synthetic == Synthetic(sleep=0.02)


def test_bad_folders(tmp_path: Path, mpipipe: Mpipipe) -> None:
    with pytest.raises(ConfigError, match="no measured run"):
        read_sweep(tmp_path)
    with pytest.raises(ConfigError, match="no model"):
        load_model(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "x.json").write_text('{"seen": 3}')
    with pytest.raises(BadDataError, match="no measured run"):
        read_sweep(tmp_path)
    for text in ('{"version": 1, "model": {"laws": 3}}', '{"version": 9}', "[]"):
        (tmp_path / "model.json").write_text(text)
        with pytest.raises(BadDataError):
            load_model(tmp_path)
    for text in ('{"version": 1, "work": 7}', "{}", "3"):
        (tmp_path / "sweep.json").write_text(text)
        with pytest.raises(BadDataError):
            read_work(tmp_path)
    wrong = mpipipe("scaling", "run", "-o", tmp_path, "--synthetic", "sleep=1", "--tasks", "3")
    assert wrong.code == 1
    assert "no description of a sweep" in wrong.err
    nothing = mpipipe("scaling", "run", "-o", tmp_path / "new")
    assert nothing.code == 1
    assert "--synthetic" in nothing.err
