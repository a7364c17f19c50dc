"""The package as others install it: light to import, complete, and of use without MPI."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import time
import venv
from importlib import resources
from pathlib import Path

import pytest

import mpipipe

HEAVY = ("numpy", "scipy", "astropy", "h5py", "mpi4py", "numba", "typer", "pydantic", "matplotlib")
HEAVY_FOR_HELP = tuple(name for name in HEAVY if name not in ("typer",))
NO_NETWORK = re.compile(
    r"No matching distribution|Temporary failure in name resolution|Connection ?(Error|refused)"
    r"|Network is unreachable|timed out|ProxyError",
    re.IGNORECASE,
)


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running `code`."""
    code += "\nimport json, sys; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_pulls_in_nothing_heavy() -> None:
    assert modules_after("import mpipipe").isdisjoint(HEAVY)


def test_command_line_pulls_in_nothing_heavy() -> None:
    assert modules_after("import mpipipe.cli.main").isdisjoint(HEAVY_FOR_HELP)


def test_data_of_the_package_is_where_it_is_looked_for() -> None:
    package = resources.files(mpipipe)
    assert package.joinpath("py.typed").is_file()
    cameras = [entry.name for entry in package.joinpath("data", "cameras").iterdir()]
    assert any(name.endswith(".toml") for name in cameras)


def test_mpi_is_an_extra(repo: Path) -> None:
    config = configparser.ConfigParser()
    config.read(repo / "setup.cfg")
    needed = config["options"]["install_requires"]
    assert "mpi" not in needed
    assert all(">=" in line for line in needed.split())
    assert "mpi4py" in config["options.extras_require"]["mpi"]


@pytest.mark.parametrize("command", ["setup", "test", "demo", "weekly"])
def test_commands_explain_themselves(repo: Path, command: str) -> None:
    done = subprocess.run(
        [repo / "tools" / command, "--help"], capture_output=True, text=True, timeout=30, check=True
    )
    assert f"usage: tools/{command}" in done.stdout


def write_part(folder: Path, rank: int, code: int, cases: dict[str, str]) -> None:
    """What one rank of `tools/test` leaves behind."""
    rank_folder = folder / f"rank{rank}"
    rank_folder.mkdir(parents=True)
    (rank_folder / "code").write_text(f"{code}\n")
    body = "".join(
        f'<testcase classname="t" name="{name}">{"" if kind == "passed" else f"<{kind}/>"}'
        "</testcase>"
        for name, kind in cases.items()
    )
    (rank_folder / "junit.xml").write_text(f"<testsuite>{body}</testsuite>")


def summarise(repo: Path, *parts: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, repo / "tools" / "test_summary", *parts],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_summary_adds_up_parts_and_ranks(repo: Path, tmp_path: Path) -> None:
    write_part(tmp_path / "plain", 0, 0, {"a": "passed", "b": "skipped"})
    write_part(tmp_path / "mpi-2", 0, 0, {"c": "passed", "d": "passed"})
    write_part(tmp_path / "mpi-2", 1, 0, {"c": "passed", "d": "passed"})
    done = summarise(repo, f"{tmp_path}/plain:1", f"{tmp_path}/mpi-2:2")
    assert done.stdout.splitlines()[-1] == "3 passed, 0 failed"
    assert done.returncode == 0


def test_failure_on_one_rank_fails_the_test(repo: Path, tmp_path: Path) -> None:
    write_part(tmp_path / "mpi-2", 0, 0, {"c": "passed", "d": "passed"})
    write_part(tmp_path / "mpi-2", 1, 1, {"c": "failure", "d": "passed"})
    (tmp_path / "mpi-2" / "rank1" / "output").write_text("why it failed")
    done = summarise(repo, f"{tmp_path}/mpi-2:2")
    assert done.stdout.splitlines()[-1] == "1 passed, 1 failed"
    assert "why it failed" in done.stdout
    assert done.returncode == 1


@pytest.mark.parametrize("fault", ["rank lost", "launcher failed", "crash at exit", "torn results"])
def test_no_sum_is_claimed_when_something_did_not_finish(
    repo: Path, tmp_path: Path, fault: str
) -> None:
    part = tmp_path / "mpi-2"
    write_part(part, 0, 0, {"c": "passed"})
    write_part(part, 1, 139 if fault == "crash at exit" else 0, {"c": "passed"})
    if fault == "rank lost":
        shutil.rmtree(part / "rank1")
    elif fault == "launcher failed":
        (part / "code").write_text("137\n")
    elif fault == "torn results":
        (part / "rank1" / "junit.xml").write_text("<testsuites><testsu")
    done = summarise(repo, f"{part}:2")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("INCOMPLETE")


def test_hung_mpirun_is_ended_with_all_its_ranks(repo: Path, tmp_path: Path) -> None:
    pytest.importorskip("mpi4py")
    if not shutil.which("mpirun", path=str(Path(sys.executable).parent)):
        pytest.skip("no mpirun in this environment")
    (tmp_path / "hang.py").write_text(
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        # The child leaves the group of its rank, so that mpirun can not reach it.
        "if os.fork() == 0: os.setpgrp()\n"
        "open(f'{sys.argv[1]}/{os.getpid()}.pid', 'w').close()\n"
        "time.sleep(600)\n"
    )
    script = (
        f"source {repo}/tools/_env.sh; "
        f"limited 4 mpirun -n 2 {sys.executable} {tmp_path}/hang.py {tmp_path}"
    )
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode in (124, 137)
    pids = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert len(pids) == 4
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment after `pip install .` alone: no MPI, plain h5py."""
    repo = Path(__file__).resolve().parents[1]
    folder = tmp_path_factory.mktemp("bare")
    # A copy, since building leaves traces in the sources.
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.cfg", "LICENSE", "README.md"):
        if (repo / name).exists():
            shutil.copy(repo / name, source)
    shutil.copytree(
        repo / "mpipipe", source / "mpipipe", ignore=shutil.ignore_patterns("__pycache__")
    )
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    # A wheel of h5py that was built here, perhaps with MPI, must not come from pip's cache.
    command = [python, "-m", "pip", "install", "--quiet", "--only-binary=h5py", "."]
    done = subprocess.run(
        command, cwd=source, capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode and NO_NETWORK.search(done.stderr):
        pytest.skip(f"libraries can not be fetched: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return python


def run_bare(python: Path, *arguments: str | Path) -> str:
    """Run with nothing of this environment in reach, and give what was printed."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "OMPI_", "PMIX_", "PRTE_", "VIRTUAL_ENV"))
    }
    environ["PATH"] = f"{python.parent}:/usr/bin:/bin"
    done = subprocess.run(
        [python, *arguments],
        cwd=python.parent,
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_plain_install_has_no_mpi(bare_python: Path) -> None:
    code = (
        "import importlib.util as u, h5py; "
        "print(u.find_spec('mpi4py') is None, not h5py.get_config().mpi)"
    )
    assert run_bare(bare_python, "-c", code).split() == ["True", "True"]
    assert mpipipe.__version__ in run_bare(bare_python, "-m", "mpipipe", "--version")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_plain_install_carries_its_data(bare_python: Path) -> None:
    code = (
        "import mpipipe; from importlib import resources; "
        "print(*(p.name for p in resources.files(mpipipe).joinpath('data/cameras').iterdir()))"
    )
    assert ".toml" in run_bare(bare_python, "-c", code)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_plain_install_makes_a_run(bare_python: Path, tmp_path: Path) -> None:
    raw, run = tmp_path / "tiny", tmp_path / "run"
    run_bare(bare_python, "-m", "mpipipe", "simulate", raw, "--preset", "tiny", "--seed", "1")
    run_bare(bare_python, "-m", "mpipipe", "run", raw / "raw", "-o", run)
    assert (run / "completion.json").is_file()
