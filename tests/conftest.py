"""What tests of all layers share: a communicator, a launcher, the optional real data."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A busy machine or a slow disk is no defect; hangs are ended by the timeout of each test.
settings.register_profile("mpipipe", deadline=None)
settings.load_profile("mpipipe")

REPO = Path(__file__).resolve().parents[1]
REALDATA = Path(os.environ.get("MPIPIPE_REALDATA", REPO.parent / "shared" / "realdata"))


@pytest.fixture(scope="session")
def repo() -> Path:
    """The top of the repository."""
    return REPO


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real frames; skips where they are not (they are no part of the repository)."""
    if not REALDATA.is_dir():
        pytest.skip(f"no real frames in {REALDATA}; name their folder with MPIPIPE_REALDATA")
    return REALDATA


@pytest.fixture(scope="session")
def comm() -> Any:
    """The world communicator, for tests marked ``mpi``; initialises MPI."""
    return pytest.importorskip("mpi4py.MPI").COMM_WORLD


def rank_environment() -> dict[str, str]:
    """The environment for an mpirun of its own, also when the tests run under mpirun as root."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OMPI_COMM_", "PMIX_", "PMI_"))
    }
    environ["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"
    # Programs outside the top folder find the package also where it is not installed.
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPO), environ.get("PYTHONPATH")]))
    for prefix in ("OMPI", "PRTE"):
        environ[f"{prefix}_ALLOW_RUN_AS_ROOT"] = "1"
        environ[f"{prefix}_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
    return environ


@pytest.fixture
def mpirun() -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function ``mpirun(ranks, python_arguments, seconds=60)`` that gives the ended process.

    `options` are mpirun's, `environment` is added to the ranks'. It ends the whole session at
    the limit, so that no hung rank outlives a test.
    """
    own = Path(sys.executable).with_name("mpirun")
    launcher = str(own) if own.exists() else shutil.which("mpirun")
    if launcher is None:
        pytest.skip("no mpirun")
    pytest.importorskip("mpi4py")

    def start(
        ranks: int,
        arguments: Sequence[str | Path],
        seconds: float = 60,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        **popen: Any,
    ) -> subprocess.CompletedProcess[str]:
        command = [launcher, *options, "-n", str(ranks), sys.executable, *map(str, arguments)]
        popen = {"env": rank_environment() | dict(environment or {}), **popen}
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **popen,
        ) as process:
            try:
                out, err = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                end_session(process.pid)
                out, err = process.communicate()
                pytest.fail(f"{command} did not end in {seconds} s\n{out}\n{err}")
            finally:
                end_session(process.pid)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    return start


@pytest.fixture(scope="session")
def mpirun_version() -> tuple[int, ...]:
    """The version of Open MPI's mpirun beside python; (0,) for another launcher or none."""
    own = Path(sys.executable).with_name("mpirun")
    launcher = str(own) if own.exists() else shutil.which("mpirun")
    if launcher is None:
        return (0,)
    done = subprocess.run([launcher, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"Open MPI\)? (\d+)\.(\d+)", done.stdout)
    return tuple(map(int, found.groups())) if found else (0,)


def end_session(session: int) -> None:
    """Kill every process of a session; mpirun's ranks are in process groups of their own."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                os.kill(int(process.name), signal.SIGKILL)
        except (OSError, IndexError):
            continue  # it ended meanwhile
