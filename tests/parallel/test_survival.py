"""Ranks that die or fall silent, the master included: the others finish with the same results."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpipipe.data.errors import ConfigError
from mpipipe.parallel import injection
from mpipipe.store.recordfile import read_records

PROGRAM = Path(__file__).parent / "programs" / "survive.py"
CHAOS = Path(__file__).parents[2] / "tools" / "chaos"
ULFM = ("--with-ft", "ulfm", "--mca", "async_mpi_finalize", "1")


@pytest.fixture
def survive(mpirun, mpirun_version, tmp_path):
    """Run the program on three ranks with these disturbances; its report and its records."""
    if mpirun_version < (5,):
        pytest.skip("this mpirun has no ULFM")

    def run(disturbances, options=ULFM, cost=1.0):
        struck = tmp_path / "struck"
        struck.mkdir()
        folder = tmp_path / "run"
        folder.mkdir()
        done = mpirun(
            3,
            [PROGRAM, folder, cost],
            seconds=60,
            options=options,
            environment={"MPIPIPE_INJECT": disturbances, "MPIPIPE_INJECT_LOG": str(struck)},
        )
        assert (folder / "report.json").exists(), done.stderr
        n_struck = len(list(struck.iterdir()))
        assert n_struck == len([d for d in disturbances.split(",") if d]), "nothing struck"
        records = {int(f.stem): read_records(f)[0] for f in folder.glob("*.records")}
        return json.loads((folder / "report.json").read_text()), records, done

    return run


@pytest.mark.parametrize(
    ("disturbances", "lost"),
    [
        ("", set()),
        ("1:commit:3:kill", {1}),
        ("0:commit:3:kill", {0}),
        ("0:send:20:kill,1:shrink:1:kill:1", {0, 1}),
        ("0:final:1:kill", {0}),
        ("0:hello:2:stop", {0}),
        ("2:commit:4:stop", {2}),
        ("0:finalize:1:stop", {0}),
    ],
)
def test_the_others_finish(survive, disturbances, lost):
    report, records, done = survive(disturbances)
    assert report["kinds"] == [0] * 48
    # Who dies in the last agreement, or in MPI_Finalize, was there when the ranks were counted.
    at_the_end = "final" in disturbances
    assert report["members"] == sorted({0, 1, 2} - (set() if at_the_end else lost))
    assert report["lost"] == (0 if "finalize" in disturbances else len(lost))
    assert {r.task_id for found in records.values() for r in found} == set(range(48))
    again = [r.task_id for found in records.values() for r in found]
    # Only what the dead had in their hands is done again, and what they committed unheard.
    assert len(again) - 48 <= 3 * len(lost)


@pytest.mark.parametrize("rank", [0, 1])
def test_many_small_tasks_in_one_hand(survive, rank):
    """All that a rank was given at once and had not committed is done by others."""
    report, records, _ = survive(f"{rank}:commit:3:kill", cost=1e-4)
    assert report["kinds"] == [0] * 48 and report["lost"] == 1
    done = [r.task_id for found in records.values() for r in found]
    assert sorted(set(done)) == list(range(48))
    assert len(done) <= 49, "what was committed need not be done again"


def test_without_ulfm_nothing_is_tried(survive):
    report, _, _ = survive("", options=())
    assert not report["can_survive"]
    assert report["kinds"] == [0] * 48


@pytest.mark.timeout(450)
@pytest.mark.parametrize("options", [("--only", "synthetic"), ("--restart",)])
def test_chaos(tmp_path, mpirun_version, options):
    """A few runs of the tool, on every change; many more by hand and weekly."""
    if mpirun_version < (5,):
        pytest.skip("this mpirun has no ULFM")
    command = [sys.executable, CHAOS, *options, "--runs", "2", "--seed", "2", "--keep", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=420, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# -- injection -------------------------------------------------------------------------------------


def test_disturbances_are_read():
    found = injection.parse("2:commit:3:kill,0:shrink:1:stop:5")
    assert [(d.rank, d.point, d.nth, d.action) for d in found] == [
        (2, "commit", 3, "kill"),
        (0, "shrink", 1, "stop"),
    ]
    assert found[1].delay_s == 0.005
    assert injection.parse("") == []


@pytest.mark.parametrize("text", ["x", "1:commit:1", "1:nowhere:1:kill", "1:commit:1:hug"])
def test_nonsense_is_refused(text):
    with pytest.raises(ConfigError, match="MPIPIPE_INJECT"):
        injection.parse(text)


def test_nothing_happens_unless_asked():
    injection.start(0, {})
    for point in injection.POINTS:
        injection.here(point)
    assert os.getpid() > 0
