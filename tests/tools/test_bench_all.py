"""One table of all benchmarks: medians, verdicts, history, failures, Ctrl-C; with tiny ones."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

BENCH = """
import json, os, sys
from pathlib import Path

here = Path(__file__).parents[1] / Path(__file__).name
calls = int(here.read_text()) if here.exists() else 0
here.write_text(str(calls + 1))
VALUES = {values}
value = VALUES[calls % len(VALUES)]
print("calls", calls, sys.argv[1:])
row = {{"what": " speed", "value": value, "target": "{target}", "ok": {ok}}}
rows = [row, {{"what": "size", "value": None, "target": "", "ok": True}}, row | {{"target": ""}}]
Path(sys.argv[sys.argv.index("--json") + 1]).write_text(json.dumps({{"checks": rows}}))
sys.exit(0 if row["ok"] else 1)
"""


class Bed:
    """A folder of tools with `bench_all` and benchmarks of a few milliseconds."""

    def __init__(self, repo: Path, folder: Path) -> None:
        self.tools = folder / "tools"
        self.tools.mkdir()
        for name in ("bench_all", "_bench_rows.py", "_ranks.py"):
            shutil.copy(repo / "tools" / name, self.tools)
        self.history = folder / "history" / "history.jsonl"
        self.environment = os.environ | {"PYTHONPATH": str(repo)}

    def bench(self, name: str, values: list[float], target: str = "", ok: str = "True") -> None:
        """Add a benchmark that gives these values in turn."""
        text = BENCH.format(values=values, target=target, ok=ok)
        (self.tools / f"bench_{name}").write_text(text)
        (self.tools.parent / f"bench_{name}").unlink(missing_ok=True)

    def command(self, *words: object) -> list[str]:
        """The command line."""
        tool = str(self.tools / "bench_all")
        return [sys.executable, tool, "--history", str(self.history), *map(str, words)]

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            self.command(*words), capture_output=True, text=True, timeout=60, check=False,
            env=self.environment,
        )  # fmt: skip

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The history."""
        return [json.loads(line) for line in self.history.read_text().splitlines()]


@pytest.fixture
def bed(repo: Path, tmp_path: Path) -> Bed:
    return Bed(repo, tmp_path)


def test_repeats_give_medians_and_spreads_and_options_are_passed_on(
    bed: Bed, tmp_path: Path
) -> None:
    bed.bench("one", [1.0, 4.0, 2.0], "<= 3 s", "value <= 3")
    done = bed.run("--quick", "--seed", 7, "--repeats", 3, "--json", tmp_path / "table.json")
    assert done.returncode == 0, done.stderr
    assert "ok (2 of 3 met it)" in done.stdout
    table = json.loads((tmp_path / "table.json").read_text())
    speed, size, again = table["checks"]
    assert (speed["what"], speed["value"], speed["low"], speed["high"]) == (
        "one: speed", 2.0, 1.0, 4.0,
    )  # fmt: skip
    assert (size["value"], size["ok"], again["what"]) == (None, True, "one: speed (2)")
    log = (bed.history.parent / "one.log").read_text()
    assert log.count("--quick") == log.count("'--seed', '7'") == 3
    (line,) = bed.lines
    assert line["metrics"]["one: speed"] == [2.0, 1.0, 4.0, "met"]
    assert "--quick --seed 7" in line["set"] and line["version"]
    assert "one: speed" in bed.history.with_name("trend.html").read_text()


def test_a_missed_target_and_a_failure_end_with_a_code_and_the_others_go_on(bed: Bed) -> None:
    bed.bench("fast", [1.0])
    bed.bench("slow", [5.0], "<= 3 s", "False")
    (bed.tools / "bench_broken").write_text("raise RuntimeError('no data')")
    (bed.tools / "bench_hung").write_text("import time; time.sleep(100)")
    assert bed.run("--only", "fast").returncode == 0
    assert bed.run("--only", "slow").returncode == 1
    done = bed.run("--only", "broken,slow")
    assert done.returncode == 1
    assert "broken: FAILED, ended with code 1" in done.stdout
    assert "slow: speed" in done.stdout and "MISSED" in done.stdout
    assert set(bed.lines[-1]["failed"]) == {"broken"}
    assert "no data" in (bed.history.parent / "broken.log").read_text()
    done = bed.run("--only", "hung", "--limit", 1)
    assert done.returncode == 1 and "hung: FAILED, took longer than 1 s" in done.stdout
    none = bed.run("--only", "fsat")
    assert none.returncode == 1 and "there are broken, fast, hung, slow" in none.stderr


def test_what_moved_beyond_its_spread_is_told(bed: Bed) -> None:
    bed.bench("one", [1.0, 1.2], "<= 3 s")
    bed.run("--repeats", 2)
    bed.bench("one", [1.15, 1.25], "<= 3 s")
    assert "0 numbers moved" in bed.run("--repeats", 2).stdout
    bed.bench("one", [1.6, 1.7], "<= 3 s")
    done = bed.run("--repeats", 2)
    assert "1.2 -> 1.65 (+38 %), worse" in done.stdout
    assert "2 numbers moved, 1 of them for the worse" in done.stdout
    # Other options make other numbers.
    assert "0 numbers moved" in bed.run("--quick").stdout


def test_an_interrupt_keeps_what_is_done(bed: Bed) -> None:
    bed.bench("one", [1.0])
    (bed.tools / "bench_two").write_text(
        "import pathlib, time; pathlib.Path(__file__ + '.on').touch(); time.sleep(100)"
    )
    with subprocess.Popen(
        bed.command(), stdout=subprocess.PIPE, text=True, env=bed.environment,
        # As in the background.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    ) as process:  # fmt: skip
        try:
            end = time.monotonic() + 40
            while not (bed.tools / "bench_two.on").exists() and time.monotonic() < end:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=40)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "one: speed" in out
    (line,) = bed.lines
    assert line["interrupted"] and list(line["metrics"])[0] == "one: speed"
