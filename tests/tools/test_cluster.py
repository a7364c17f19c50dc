"""Hosts that are namespaces: what they say without root, and runs that lose nodes and links."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

SECONDS = 1200


@pytest.fixture(scope="module")
def bed_module(repo: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("_bed", repo / "tools" / "_bed.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cluster_bed(
    repo: Path, state: Path, *words: str, path: str = ""
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repo / "tools" / "cluster_bed"), "--state", str(state), *words]
    environment = os.environ | ({"PATH": path} if path else {})
    return subprocess.run(
        command, capture_output=True, text=True, timeout=100, env=environment, check=False
    )


def test_help_teaches(repo: Path, tmp_path: Path) -> None:
    done = cluster_bed(repo, tmp_path / "bed", "--help")
    assert done.returncode == 0
    for word in ("up N", "exec HOST", "poweroff HOST", "linkdown HOST", "plm_ssh_agent", "down"):
        assert word in done.stdout
    assert cluster_bed(repo, tmp_path / "bed").returncode == 2


@pytest.mark.parametrize(
    "words", [("fly",), ("up",), ("up", "many"), ("crash",), ("crash", "n1", "n2")]
)
def test_a_command_line_without_sense(words: tuple[str, ...], repo: Path, tmp_path: Path) -> None:
    done = cluster_bed(repo, tmp_path / "bed", *words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words", [("status",), ("crash", "n1"), ("boot", "n1"), ("exec", "n1", "true")]
)
def test_without_a_bed_it_says_how_to_make_one(
    words: tuple[str, ...], repo: Path, tmp_path: Path
) -> None:
    done = cluster_bed(repo, tmp_path / "bed", *words)
    assert done.returncode == 1
    assert "'up N' makes one" in done.stderr


def test_down_without_a_bed_is_no_fault(repo: Path, tmp_path: Path) -> None:
    assert cluster_bed(repo, tmp_path / "bed", "down").returncode == 0
    (tmp_path / "mine").mkdir()
    done = cluster_bed(repo, tmp_path / "mine", "down")
    assert done.returncode == 1
    assert "not the state folder of a bed" in done.stderr
    assert (tmp_path / "mine").exists()


def test_it_says_what_is_missing(
    bed_module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "needs root" in bed_module.why_not()
    with pytest.raises(bed_module.BedError, match="needs root"):
        bed_module.Bed(tmp_path / "bed").up(2)
    assert not (tmp_path / "bed").exists()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "iproute2" in bed_module.why_not()


def test_the_check_says_why_nothing_was_checked(repo: Path, tmp_path: Path) -> None:
    """Without the programs it needs it neither fails nor claims anything."""
    table = tmp_path / "table.json"
    done = subprocess.run(
        [sys.executable, str(repo / "tools" / "check_cluster"), "--quick", "--json", str(table)],
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"PATH": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(table.read_text())["checks"]
    assert len(rows) == 1 and "nothing was checked" in rows[0]["what"] and not rows[0]["target"]


def test_output_and_exit_code_of_the_remote_shell(
    bed_module: ModuleType, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert bed_module._relay(iter([b"one\n", b"two\0", b"1", b"7\n"])) == 17
    assert capfdbinary.readouterr().out == b"one\ntwo"
    assert bed_module._relay(iter([b"one\n"])) == 255
    assert b"lost" in capfdbinary.readouterr().err


# -- with root -------------------------------------------------------------------------------------


@pytest.fixture
def bed(bed_module: ModuleType, tmp_path: Path):
    if reason := bed_module.why_not():
        pytest.skip(reason)
    bed = bed_module.Bed(tmp_path / "bed")
    bed.up(2, tied=True)
    yield bed
    bed.down()


@pytest.mark.slow
def test_hosts_come_and_go(bed, bed_module: ModuleType, tmp_path: Path) -> None:
    def run(host: str, *words: str) -> tuple[int, str]:
        done = subprocess.run(
            bed.command(host, words), capture_output=True, text=True, timeout=60, check=False
        )
        return done.returncode, done.stdout + done.stderr

    assert run("n1", "hostname") == (0, "n1\n")
    assert run("n1", "touch", "/tmp/private")[0] == 0
    assert run("n2", "test", "-e", "/tmp/private")[0] == 1
    assert not Path("/tmp/private").exists()
    shell = bed_module.agent_command().split()
    assert run("ctl", *shell, "n2", "hostname; exit 7") == (7, "n2\n")
    bed.link("n2", up=False)
    assert run("ctl", "timeout", "20", *shell, "n2", "hostname")[0] == 255
    bed.link("n2", up=True)
    assert run("ctl", *shell, "n2", "hostname") == (0, "n2\n")
    bed.poweroff("n2")
    assert "dead" in bed.status()[2]
    with pytest.raises(bed_module.BedError, match="n2 is dead"):
        bed.command("n2", ["true"])
    bed.boot("n2")
    assert run("ctl", *shell, "n2", "hostname") == (0, "n2\n")
    # A second one beside has the same names and addresses, and they never meet.
    other = bed_module.Bed(tmp_path / "other")
    other.up(1, tied=True)
    other.poweroff("n1")
    assert run("ctl", *shell, "n1", "hostname") == (0, "n1\n")
    other.down()
    with pytest.raises(bed_module.BedError, match="a bed is up"):
        bed.up(2)
    inits = [bed.init_of(host) for host in ("switch", *bed.hosts())]
    bed.down()
    assert not bed.state.exists()
    assert not any(bed_module._started(pid) for pid in inits)


def test_from_the_command_line(repo: Path, bed_module: ModuleType, tmp_path: Path) -> None:
    if reason := bed_module.why_not():
        pytest.skip(reason)
    (tmp_path / "data").mkdir()
    state = tmp_path / "bed"
    done = cluster_bed(repo, state, "up", "1", "--share", str(tmp_path / "data"))
    try:
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        seen = f"hostname; touch {tmp_path}/data/seen; exit 3"
        done = cluster_bed(repo, state, "exec", "n1", "sh", "-c", seen)
        assert (done.returncode, done.stdout) == (3, "n1\n")
        assert (tmp_path / "data" / "seen").exists()
        assert cluster_bed(repo, state, "crash", "n1").returncode == 0
        shown = cluster_bed(repo, state, "status").stdout.splitlines()
        assert "alive  link up" in shown[0] and "dead" in shown[1]
        done = cluster_bed(repo, state, "linkdown", "n1")
        assert done.returncode == 1 and "'boot n1' starts it" in done.stderr
        assert "there is no host" in cluster_bed(repo, state, "crash", "n2").stderr
    finally:
        assert cluster_bed(repo, state, "down").returncode == 0
    assert not state.exists()


def test_a_tied_bed_dies_with_its_maker(repo: Path, bed_module: ModuleType, tmp_path: Path) -> None:
    if reason := bed_module.why_not():
        pytest.skip(reason)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import _bed\n"
        "_bed.Bed(Path(sys.argv[2])).up(1, tied=True); print('up', flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(repo / "tools"), str(tmp_path / "bed")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as maker:
        assert maker.stdout and maker.stdout.readline() == b"up\n"
        bed = bed_module.Bed(tmp_path / "bed")
        assert all(bed.init_of(host) for host in ("switch", "ctl", "n1"))
        maker.kill()
    limit = time.monotonic() + 20
    while any(bed.init_of(host) for host in ("switch", "ctl", "n1")):
        assert time.monotonic() < limit
        time.sleep(0.05)
    bed.down()
    assert not bed.state.exists()


def test_a_failed_start_leaves_nothing(
    bed_module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := bed_module.why_not():
        pytest.skip(reason)
    bed = bed_module.Bed(tmp_path / "bed")
    started = []
    boot = bed.boot

    def fail(host: str) -> None:
        started.extend([bed.init_of("switch"), bed.init_of("ctl")])
        if host == "n1":
            raise bed_module.BedError("on purpose")
        boot(host)

    monkeypatch.setattr(bed, "boot", fail)
    with pytest.raises(bed_module.BedError, match="on purpose"):
        bed.up(2)
    assert not bed.state.exists()
    assert started[-1] and not any(bed_module._started(pid) for pid in started if pid)


@pytest.mark.weekly
@pytest.mark.timeout(SECONDS + 20)
def test_a_node_and_a_link_lost(repo: Path, bed_module: ModuleType, tmp_path: Path) -> None:
    if reason := bed_module.why_not():
        pytest.skip(reason)
    table = tmp_path / "table.json"
    done = subprocess.run(
        [sys.executable, str(repo / "tools" / "check_cluster"), "--quick", "--json", str(table)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(table.read_text())["checks"]
    if len(rows) == 1:
        pytest.skip(rows[0]["what"])
    assert sum(bool(row["target"]) for row in rows) >= 10
