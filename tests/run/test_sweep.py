"""Sweeps: what runs they are made of, one that is made, interrupted, gone on with; bad input."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpipipe.data.errors import BadDataError, ConfigError, MpipipeError
from mpipipe.parallel.foreign import ForeignWatch, busy_seconds, own_seconds
from mpipipe.parallel.mpirun import mpirun, run_to_end, start_words
from mpipipe.parallel.signals import ended_as_by_ctrl_c
from mpipipe.run.sweep import (
    How,
    Measured,
    Point,
    Sizes,
    Work,
    drop_from_cache,
    parse_ranks,
    points_of,
    read_sweep,
    read_work,
    run_sweep,
)
from mpipipe.run.sweep_model import fit_sweep, load_model
from mpipipe.run.synthetic import Load, Synthetic, burn, write_load
from mpipipe.run.traces import read_run_events
from mpipipe.store.checksums import write_json_atomically
from mpipipe.store.layout import RunLayout
from mpipipe.trace.model.observation import COMPUTE, MEASURED, Observation

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
     "bytes=1M,files=0", "sleep=1,record=2M"],
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


def test_tasks_may_be_long() -> None:
    """The longest ends before it is taken for hung, all ranks on one core."""
    load = Load(Synthetic(sleep=3000, compute=100), 50, seed=1)
    assert load.deadline_s(8) > (3000 + 8 * 100) * load.sizes().max()
    assert 600 < Load(Synthetic(sleep=0.1), 50).deadline_s(8) < 1000


@needs_mpirun
@pytest.mark.timeout(60)
def test_tasks_that_are_not_done_are_no_measurement(tmp_path: Path) -> None:
    """Two of four can not write their files: rank 0 says so, in what the sweep shows of the end."""
    write_load(Load(Synthetic(bytes=1000, files=1), 4), tmp_path)
    for task in (1, 2):
        (tmp_path / "files" / f"{task}-0").mkdir(parents=True)
    command = [*start_words(2), sys.executable, "-m", "mpipipe", "scaling", "rank", str(tmp_path)]
    with pytest.raises(MpipipeError, match="2 of 4 tasks not done: no measurement") as caught:
        run_to_end(command, 50)
    assert "Traceback" not in str(caught.value)
    assert "rank 0 has ended" not in str(caught.value), "the others are silent"


@pytest.mark.timeout(60)
def test_a_command_that_hangs_is_ended(tmp_path: Path) -> None:
    """It is asked first: a launcher has to end its ranks elsewhere."""
    begin, asked = time.perf_counter(), tmp_path / "asked"
    program = (
        "import pathlib, signal, sys, time\n"
        "def end(*_): pathlib.Path(sys.argv[1]).touch(); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end); time.sleep(50)"
    )
    with pytest.raises(MpipipeError, match="did not end"):
        run_to_end([sys.executable, "-c", program, str(asked)], 2.0)
    assert asked.exists()
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(50)"
    with pytest.raises(MpipipeError, match="did not end"):
        run_to_end([sys.executable, "-c", deaf], 1.0)
    assert time.perf_counter() - begin < 30


def test_commands_end_with_codes_that_are_fine() -> None:
    words = [sys.executable, "-c", "print(7); raise SystemExit(3)"]
    assert run_to_end(words, 30, fine=(0, 3)) == "7\n"
    with pytest.raises(MpipipeError, match="ended with 3"):
        run_to_end(words, 30)
    with pytest.raises(ConfigError, match="can not be started"):
        run_to_end(["no-such-launcher", "-n", "2"], 30)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_that_end_a_sweep(number: signal.Signals) -> None:
    """They raise inside, as Ctrl-C does; those that are ignored stay so."""
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), ended_as_by_ctrl_c():
        signal.raise_signal(number)
    assert signal.getsignal(number) == before
    signal.signal(number, signal.SIG_IGN)
    try:
        with ended_as_by_ctrl_c():
            signal.raise_signal(number)
    finally:
        signal.signal(number, before)


def test_own_cpu_time_is_counted() -> None:
    """That of this process, and of those that it has started and that have ended."""
    begin = own_seconds()
    burn(0.2)
    run_to_end([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], 60)
    assert own_seconds() - begin >= 0.49


class Machine:
    """Of four cores, ten seconds later every time the clock is read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, n_ours: int = 4) -> None:
        self.clock, self.busy, self.own = 0.0, 1000.0, 20.0
        monkeypatch.setattr("mpipipe.parallel.foreign.busy_seconds", lambda: self.busy)
        monkeypatch.setattr("mpipipe.parallel.foreign.own_seconds", lambda: self.own)
        monkeypatch.setattr("mpipipe.parallel.foreign.cores", lambda: n_ours)
        monkeypatch.setattr("mpipipe.parallel.foreign.os.cpu_count", lambda: 4)
        monkeypatch.setattr("mpipipe.parallel.foreign.time.perf_counter", self.tick)

    def tick(self) -> float:
        self.clock += 10.0
        return self.clock


def test_what_others_use(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    watch = ForeignWatch()
    machine.busy, machine.own = 1030.0, 30.0
    assert watch.share() == pytest.approx(20 / 40), "20 of the 40 seconds that four cores had"
    machine.own = 60.0
    assert watch.share() == 0.0, "clocks of processes are finer than the host's"


def test_what_others_use_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """With some of the cores, without /proc/stat, and where ranks are not ours or not here."""
    with monkeypatch.context() as few:
        Machine(few, n_ours=2)
        assert ForeignWatch().share() is None
    with monkeypatch.context() as silent:
        machine = Machine(silent)
        machine.busy = 0.0
        assert ForeignWatch().share() is None
    monkeypatch.delenv("SLURM_JOB_NUM_NODES", raising=False)
    assert How().sees_all
    assert not How(launcher="srun -n {ranks}").sees_all
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    assert not How().sees_all


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
    picture = mpipipe("scaling", "plot", folder, "-o", tmp_path / "new" / "x.png")
    assert picture.code == 0, picture.err
    assert (tmp_path / "new" / "x.png").read_bytes().startswith(b"\x89PNG")
    page = mpipipe("scaling", "plot", folder, "-o", tmp_path / "x.html", "--cores", "3")
    assert page.code == 0, page.err
    html = (tmp_path / "x.html").read_text()
    assert "<svg" in html
    assert "model, 3 cores" in html, "and not a core each"
    assert not any(word in html for word in ('href="http', "<script", "src=")), "it needs no other"
    text = mpipipe("scaling", "export", folder).out
    assert "POINTS (1) (2)" in text


@needs_mpirun
@pytest.mark.timeout(100)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_is_done(tmp_path: Path, number: signal.Signals) -> None:
    """And leaves no rank behind."""
    folder = tmp_path / "sweep"
    words = ["scaling", "run", "-o", str(folder), "--ranks", "1", "--tasks", "40", "--repeats", "9",
             "--synthetic", "sleep=0.02", "--foreign", "1", "--seed", "1"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "mpipipe", *words], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        assert "[1/9]" in process.stderr.readline()
        process.send_signal(number)
        assert process.wait(60) == 75
    finally:
        process.kill()
        process.stderr.close()
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if names(path, folder)]
    assert 1 <= len(read_sweep(folder)) < 9
    assert read_work(folder).synthetic == Synthetic(sleep=0.02)


def names(command: Path, folder: Path) -> bool:
    """Whether a process was started with this folder."""
    try:
        return str(folder) in command.read_text(errors="replace")
    except OSError:
        return False


def test_bad_folders(tmp_path: Path, mpipipe: Mpipipe) -> None:
    with pytest.raises(ConfigError, match="no measured run"):
        read_sweep(tmp_path)
    with pytest.raises(ConfigError, match="no model"):
        load_model(tmp_path)
    for text in ('{"version": 2, "model": {"laws": 3}}', '{"version": 1}', "[]"):
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


def measured(name: str = "p1-n6-r0", foreign: float | None = 0.0, wall_s: float = 2.0) -> Measured:
    seen = Observation(
        1, 6, 2, wall_s, dict.fromkeys(MEASURED, 0.0) | {COMPUTE: wall_s}, wall_s / 6, 0.0, 0.0,
        0.0, 0.0, 0.0, 1.0, math.nan, (1.0,),
    )  # fmt: skip
    return Measured(name, seen, foreign, 1, is_disturbed=False)


def keep(folder: Path, one: Measured) -> dict[str, Any]:
    content = asdict(one)
    content["seen"]["master_s"] = None
    write_json_atomically(folder / "runs" / f"{one.name}.json", content)
    return content


def test_runs_are_read_or_refused(tmp_path: Path) -> None:
    content = keep(tmp_path, measured(foreign=None))
    path = tmp_path / "runs" / "p1-n6-r0.json"
    (one,) = read_sweep(tmp_path)
    assert one.foreign is None
    assert one.seen.terms == measured().seen.terms
    seen = content["seen"]
    wrong: Any
    for wrong in (
        {"seen": 3},
        content | {"foreign": "much"},
        content | {"seen": seen | {"terms": {COMPUTE: 1.0}}},
        content | {"seen": seen | {"terms": 4}},
        content | {"seen": seen | {"wall_s": []}},
        content | {"seen": seen | {"n_ranks": 0}},
        content | {"seen": seen | {"durations": ["x"]}},
        [],
    ):
        path.write_text(json.dumps(wrong))
        with pytest.raises(BadDataError, match="no measured run"):
            read_sweep(tmp_path)


def test_a_model_of_other_runs_is_refused(tmp_path: Path) -> None:
    """Of runs that were added, or made again."""
    keep(tmp_path, measured())
    fit_sweep(tmp_path)
    load_model(tmp_path)
    for other in (measured("p1-n6-r1"), measured(wall_s=3.0)):
        keep(tmp_path, other)
        with pytest.raises(ConfigError, match=r"other runs .*scaling fit"):
            load_model(tmp_path)
        fit_sweep(tmp_path)
        load_model(tmp_path)


def attempts(monkeypatch: pytest.MonkeyPatch, *shares: float | None) -> list[float | None]:
    """Let runs be disturbed by so much, one after the other; those that are left."""
    left = list(shares)

    def once(root: Path, work: Work, point: Point, how: How) -> Measured:
        assert not root.exists()
        root.mkdir()
        share = left.pop(0)
        (root / "trace").write_text(str(share))
        return measured(point.name, share)

    monkeypatch.setattr("mpipipe.run.sweep._once", once)
    return left


def test_the_least_disturbed_run_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its events, too; and better ones of runs that are made again."""
    folder, told = tmp_path / "sweep", list[str]()
    trace = folder / "runs" / "p1-n6-r0" / "trace"

    def make(**how: Any) -> Measured:
        sizes = Sizes((1,), tasks=6, repeats=1)
        (one,) = run_sweep(folder, TINY, sizes, How(foreign=0.1, **how), told.append)
        assert sorted(path.name for path in (folder / "runs").iterdir()) == [
            "p1-n6-r0", "p1-n6-r0.json"
        ]  # fmt: skip
        assert trace.read_text() == str(one.foreign), "events are those of the run that is kept"
        return one

    left = attempts(monkeypatch, 0.5, 0.3, 0.4, 0.6, 0.2, 0.05, 0.01)
    one = make()
    assert (one.foreign, one.tries, one.is_disturbed) == (0.3, 3, True)
    assert make() == one, "it is there"
    one = make(redo=True, tries=2)
    assert (one.foreign, one.tries, one.is_disturbed) == (0.2, 5, True)
    one = make(redo=True)
    assert (one.foreign, one.tries, one.is_disturbed) == (0.05, 6, False)
    assert make(redo=True) == one, "nothing disturbed it"
    assert left == [0.01]


def test_what_is_not_known_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mpipipe: Mpipipe
) -> None:
    told: list[str] = []
    left = attempts(monkeypatch, None, None)
    (one,) = run_sweep(tmp_path, TINY, Sizes((1,), 6, repeats=1), How(redo=True), told.append)
    assert (one.foreign, one.is_disturbed) == (None, False)
    assert len(left) == 1
    assert "not known" in told[-1]
    fitted = mpipipe("scaling", "fit", tmp_path)
    assert "of 1 of 1 runs it is not known" in fitted.out
    predicted = mpipipe("scaling", "predict", tmp_path, "--ranks", "1")
    assert "no interval: fewer than four numbers of ranks" in predicted.out
    as_json = mpipipe("scaling", "predict", tmp_path, "--ranks", "1", "--json")
    (row,) = json.loads(as_json.out, parse_constant=pytest.fail)["predicted"]
    assert row["low_s"] is None


def test_one_sweep_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = Sizes((1,), tasks=6, repeats=1)

    def once(root: Path, work: Work, point: Point, how: How) -> Measured:
        with pytest.raises(ConfigError, match="another sweep works there"):
            run_sweep(tmp_path, TINY, sizes, how, print)
        root.mkdir()
        return measured(point.name)

    monkeypatch.setattr("mpipipe.run.sweep._once", once)
    assert len(run_sweep(tmp_path, TINY, sizes, How(), print)) == 1


def test_words_instead_of_tracebacks(tmp_path: Path, mpipipe: Mpipipe) -> None:
    (tmp_path / "file").touch()
    begin = ("scaling", "run", "--tasks", "1", "--ranks", "1", "-o")
    sleeping = ("--synthetic", "sleep=0.01")
    for words, told in (
        ((*begin, tmp_path / "file", *sleeping), "can not be written"),
        ((*begin, tmp_path / "file" / "in", *sleeping), "can not be written"),
        ((*begin, tmp_path / "a", *sleeping, "--launcher", "nosuch -n {ranks}"), "'nosuch' can"),
        ((*begin, tmp_path / "b", "--raw", tmp_path, "--options", "--set 'x"), "--options"),
    ):
        ended = mpipipe(*words)
        assert ended.code == 1, ended.err
        assert told in ended.err
        assert "Traceback" not in ended.err


@pytest.mark.parametrize("option", ["--lifetime", "--bandwidth", "--rank-bandwidth"])
def test_nothing_is_simulated_with_nothing(tmp_path: Path, mpipipe: Mpipipe, option: str) -> None:
    ended = mpipipe("scaling", "simulate", tmp_path, option, "0")
    assert ended.code == 2
    assert option in ended.err


def test_one_frame_is_dropped_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder, a list and a single frame are what `mpipipe run` takes."""
    frames = [tmp_path / "raw" / name for name in ("a.fits", "b.fits")]
    frames[0].parent.mkdir()
    for frame in frames:
        frame.write_bytes(b"x" * 4096)
    (tmp_path / "list.txt").write_text("# frames\nraw/b.fits\n")
    dropped: list[str] = []
    real = os.open

    def opened(path: Any, *rest: Any) -> int:
        dropped.append(str(path))
        return real(path, *rest)

    monkeypatch.setattr("mpipipe.run.sweep._DROP_CACHES", tmp_path / "none")
    monkeypatch.setattr("mpipipe.run.sweep.os.open", opened)
    for raw, expected in (
        (frames[0].parent, frames), (frames[0], frames[:1]), (tmp_path / "list.txt", frames[1:]),
    ):  # fmt: skip
        dropped.clear()
        drop_from_cache(raw)
        assert dropped == [str(frame) for frame in expected]
