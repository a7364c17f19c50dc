"""Whole phases in processes of their own: the task process is forked before MPI starts."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpipipe.store.recordfile import read_records

PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture
def start(mpirun):
    """Run a program of this folder on N ranks, or without MPI for 0."""

    def run(ranks, name, *arguments, seconds=60):
        program = [str(PROGRAMS / f"{name}.py"), *map(str, arguments)]
        if ranks:
            return mpirun(ranks, program, seconds)
        command = [sys.executable, *program]
        return subprocess.run(
            command, env=alone(), capture_output=True, text=True, timeout=seconds, check=False
        )

    return run


def alone():
    """An environment in which no launcher has started us."""
    prefixes = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "SLURM_")
    found = {k: v for k, v in os.environ.items() if not k.startswith(prefixes)}
    return {**found, "PYTHONPATH": str(PROGRAMS.parents[2])}


def exists(pid):
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(what, seconds=20.0):
    limit = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.02)


# -- outcomes --------------------------------------------------------------------------------------

FAILED_BY = {
    20: "ZeroDivisionError: division by zero",
    21: "called sys.exit(None)",
    22: "left its process with exit code 7",
    23: "killed by signal 11 (SIGSEGV)",
    24: "ran out of memory",
    25: "ran out of memory",
    30: "Spiteful",
    31: "gave back a str",
    32: "killed by signal 9 (SIGKILL)",
    33: "killed by signal 6 (SIGABRT)",
}


@pytest.mark.parametrize("ranks", [0, 1, 3])
def test_every_way_to_end(start, ranks):
    """Whatever a task does costs at most its task process, and is told with where and why."""
    process = start(ranks, "outcomes")
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout)
    tasks = {int(task): facts for task, facts in found["tasks"].items()}
    assert sorted(tasks) == list(range(34)), "every task ends"
    for task in (*range(7), *range(9, 20)):
        assert tasks[task]["kind"] == "DONE"
    assert tasks[6]["attempts"] == 2
    assert tasks[7]["kind"] == "PARTIAL" and tasks[7]["warnings"] == ["no flat"]
    assert tasks[8]["kind"] == "FAILED" and "disk full" in tasks[8]["reason"]
    for task, reason in FAILED_BY.items():
        assert tasks[task]["kind"] == "FAILED"
        assert tasks[task]["attempts"] == 2
        assert reason in tasks[task]["reason"]
        assert tasks[task]["stage"] == "test.second"
    for task, where in ((26, "in loop"), (27, "in sleep")):
        assert tasks[task]["kind"] == "TIMED_OUT"
        assert "deadline of 0.3 s" in tasks[task]["reason"]
        assert where in tasks[task]["traceback"], "it is told where the task hung"
    assert "string_at" in tasks[23]["traceback"], "it is told where the task crashed"
    assert tasks[28]["kind"] == "BAD_DATA" and tasks[28]["attempts"] == 1
    assert "x.fits, key BITPIX: no such pixels" in tasks[28]["reason"]
    assert tasks[29]["kind"] == "NO_WORK"
    commits = [tuple(entry) for rank in found["committed"] for entry in rank]
    assert len(commits) == len(set(commits))
    expected = {(t, a + 1) for t in tasks if t != 8 for a in range(tasks[t]["attempts"])}
    assert set(commits) == expected, "every attempt is committed once"


@pytest.mark.parametrize("how", ["python", "kernel"])
def test_what_died_of_memory_is_tried_again_alone(start, tmp_path, how):
    """While it runs the other ranks of its node do nothing, and afterwards they go on."""
    process = start(3, "alone", tmp_path, how)
    assert json.loads(process.stdout) == [0] * 12, process.stderr
    ran = {file.stem: json.loads(file.read_text()) for file in tmp_path.glob("*.json")}
    assert set(ran) == {f"{i}-1" for i in range(12) if i != 3} | {"3-2"}
    begin, end = ran.pop("3-2")
    assert not [name for name, (a, b) in ran.items() if a < end and b > begin]


def test_in_process(start):
    """Without a task process the same outcomes, as far as one can survive them."""
    process = start(0, "outcomes", "in-process")
    assert process.returncode == 0, process.stderr
    tasks = json.loads(process.stdout)["tasks"]
    assert tasks["20"]["kind"] == tasks["21"]["kind"] == "FAILED"
    assert tasks["28"]["kind"] == "BAD_DATA"


@pytest.mark.parametrize("ranks", [0, 2])
def test_many_empty_tasks(start, ranks):
    process = start(ranks, "many", 10_000)
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout)
    assert found["complete"] and found["well"] and found["ids_in_order"]
    assert all(found["share"]), "a rank had nothing to do"


def test_same_bits(start, tmp_path):
    """What is committed does not depend on ranks, processes, or first attempts that failed."""
    runs = {"alone": (0, ""), "debug": (0, "in-process"), "one": (1, ""), "two": (2, "")}
    runs |= {"three": (3, ""), "stumble": (2, "stumble")}
    found = {}
    for name, (ranks, mode) in runs.items():
        folder = tmp_path / name
        folder.mkdir()
        process = start(ranks, "bits", folder, mode)
        assert process.returncode == 0, process.stderr
        payloads = {}
        for file in folder.iterdir():
            records, damage = read_records(file)
            assert not damage
            for record in records:
                if record.kind == 0:
                    assert record.task_id not in payloads, "a task counted twice"
                    payloads[record.task_id] = record.payload
        found[name] = payloads
        assert sorted(payloads) == list(range(60))
    for name, payloads in found.items():
        assert payloads == found["alone"], f"{name} differs"


# -- being stopped ---------------------------------------------------------------------------------


def begin(folder, ranks, task_s, grace_s):
    """Start `drain.py` and wait until every rank has committed something."""
    program = [str(PROGRAMS / "drain.py"), str(folder), str(task_s), str(grace_s)]
    command, environment = [sys.executable, *program], alone()
    if ranks:
        launcher = Path(sys.executable).with_name("mpirun")
        if not launcher.exists():
            pytest.skip("no mpirun beside python")
        command = [str(launcher), "-n", str(ranks), *command]
        for prefix in ("OMPI", "PRTE"):
            environment[f"{prefix}_ALLOW_RUN_AS_ROOT"] = "1"
            environment[f"{prefix}_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
        environment["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    n_files = max(ranks, 1)
    try:
        wait_for(lambda: len(list(folder.glob("*.pids"))) == n_files or process.poll() is not None)
    except BaseException:
        process.kill()
        raise
    pids = [list(map(int, (folder / f"{r}.pids").read_text().split())) for r in range(n_files)]
    return process, pids


def end(process, pids, seconds=20):
    """Wait for the end; nothing may be left."""
    try:
        output, _ = process.communicate(timeout=seconds)
    finally:
        process.kill()
    wait_for(lambda: not any(exists(pid) for rank in pids for pid in rank), 5)
    return output


def committed(folder):
    return sorted(int(line) for file in folder.glob("*.done") for line in file.open())


@pytest.mark.parametrize("ranks", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_drain(tmp_path, ranks, number):
    """A signal to any one rank: what runs is finished, what is committed counts, all know."""
    process, pids = begin(tmp_path, ranks, 0.1, 20)
    os.kill(pids[-1][0], number)
    output = end(process, pids)
    assert process.returncode == 0, output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["interrupted"] == [[1, 1]] * max(ranks, 1), "the ranks do not agree"
    assert report["left"] > 900
    assert len(report["done"]) + report["left"] == 1000
    assert report["done"] == committed(tmp_path)
    assert report["next_done"] == 0, "a stopped run must not begin another phase"


def test_second_signal_drops_what_runs(tmp_path):
    process, pids = begin(tmp_path, 0, 1.0, 60)
    os.kill(pids[0][0], signal.SIGINT)
    time.sleep(0.2)
    begun = time.monotonic()
    os.kill(pids[0][0], signal.SIGINT)
    end(process, pids)
    assert process.returncode == 0
    assert time.monotonic() - begun < 0.8, "it waited for the task"
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["done"] == committed(tmp_path)


def test_grace_time_ends(tmp_path):
    """A task that does not end in the grace time is dropped."""
    process, pids = begin(tmp_path, 0, 2.0, 0.2)
    begun = time.monotonic()
    os.kill(pids[0][0], signal.SIGTERM)
    end(process, pids)
    assert process.returncode == 0
    assert time.monotonic() - begun < 1.5


@pytest.mark.parametrize("ranks", [0, 2])
@pytest.mark.parametrize("victim", ["MPI process", "all", "mpirun"])
def test_no_orphans(tmp_path, ranks, victim):
    """Killed without warning, a rank takes its zygote and task process along."""
    if victim == "mpirun" and not ranks:
        pytest.skip("no mpirun without ranks")
    process, pids = begin(tmp_path, ranks, 0.1, 20)
    if victim == "mpirun":
        process.send_signal(signal.SIGINT)
    else:
        for rank in pids if victim == "all" else pids[-1:]:
            os.kill(rank[0], signal.SIGKILL)
    end(process, pids)
    assert process.returncode != 0


# -- failing outside a task ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("before", "RuntimeError: lost my way"),
        ("config", "key isr.flat: makes no sense"),
        ("sys.exit", "SystemExit: 3"),
        ("in-commit", "SystemExit: 3"),
        ("wrong-size", "promised 7 ranks, but MPI has made 2"),
    ],
)
def test_a_failing_rank_ends_all(start, mode, said):
    """No rank waits for one that has failed; its host, pid and traceback are shown."""
    begun = time.monotonic()
    process = start(2, "die", mode, seconds=30)
    assert process.returncode != 0
    assert said in process.stderr
    assert "mpipipe: rank 1 on " in process.stderr or mode in ("in-commit", "wrong-size")
    assert "left as if" not in process.stdout
    assert time.monotonic() - begun < 15
