"""The command on ranks: killed, out of space, resumed; it ends with the bytes of a quiet run."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mpipipe.data.errors import ConfigError
from mpipipe.sim.simulate import simulate_survey
from mpipipe.sim.survey import preset
from mpipipe.sim.tasks import SimFolder, begun_simulation, prepare

OPTIONS: dict[str, Any] = {
    "n_visits": 1,
    "n_ccds": 1,
    "n_bias": 4,
    "n_dark": 2,
    "flat_levels": (2e4,),
    "star_density": 1.0,
    "galaxy_mag_max": 25.5,
}
COMMAND = ["-m", "mpipipe", "simulate", "--preset", "tiny", "--seed", "3", "--set"]
COMMAND += " --set ".join(
    f"{key}={value[0] if isinstance(value, tuple) else value}" for key, value in OPTIONS.items()
).split()
ULFM = ("--with-ft", "ulfm", "--mca", "async_mpi_finalize", "1")


def digests(folder: Path) -> dict[str, str]:
    """Every file of a simulation but the marks of its tasks."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "simulation.toml"
    }


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What an undisturbed simulation in one process writes."""
    root = tmp_path_factory.mktemp("quiet") / "sim"
    survey = preset("tiny", seed=3, **OPTIONS)
    simulate_survey(survey, root)
    return digests(root)


def resumed(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mpipipe", "simulate", str(root), "--resume"]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def strike(marker: str, seconds: float = 60.0) -> None:
    """Kill the rank process of a run that was seen to have finished a task."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environ = (process / "environ").read_bytes()
                command = (process / "cmdline").read_bytes()
                if marker.encode() in command and b"OMPI_COMM_WORLD_RANK=1\0" in environ:
                    os.kill(int(process.name), signal.SIGKILL)
                    return
        time.sleep(0.05)
    pytest.fail("there was no rank to strike")


@pytest.mark.timeout(400)
def test_a_killed_rank_changes_nothing(
    mpirun: Callable[..., Any],
    mpirun_version: tuple[int, ...],
    quiet: dict[str, str],
    tmp_path: Path,
) -> None:
    """The others finish; without fault tolerance the launcher ends all, and --resume goes on."""
    import threading

    root = tmp_path / "struck"
    survives = mpirun_version >= (5,)

    def blow() -> None:
        while not list((root / ".done").glob("*.json")):
            time.sleep(0.05)
        strike(str(root))

    striker = threading.Thread(target=blow, daemon=True)
    striker.start()
    done = mpirun(3, [*COMMAND, "-q", root], seconds=300, options=ULFM if survives else ())
    striker.join(10)
    assert not striker.is_alive(), "nothing was struck"
    if not survives:
        assert done.returncode != 0
    if digests(root) != quiet:
        assert resumed(root).returncode == 0
    assert digests(root) == quiet


def test_a_killed_simulation_goes_on(quiet: dict[str, str], tmp_path: Path) -> None:
    root = tmp_path / "sim"
    with subprocess.Popen([sys.executable, *COMMAND, "-q", str(root)], start_new_session=True) as p:
        while len(list((root / ".done").glob("*.json"))) < 3:
            assert p.poll() is None
            time.sleep(0.05)
        os.killpg(p.pid, signal.SIGKILL)
    # What its task process was writing when it died.
    (root / "raw" / ".imsim_1.fits.0123456789abcdef.part").write_bytes(b"SIMPLE")
    ended = resumed(root)
    assert ended.returncode == 0, ended.stderr
    assert digests(root) == quiet


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory of 3 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    if os.geteuid() or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)


def test_a_full_disk(small_disk: Path, quiet: dict[str, str]) -> None:
    root = small_disk / "sim"
    command = [sys.executable, *COMMAND, str(root)]
    full = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert full.returncode == 3, full.stderr
    assert "No space left" in full.stderr
    assert "--resume" in full.stderr
    assert not list(small_disk.rglob("*.part"))
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    ended = resumed(root)
    assert ended.returncode == 0, ended.stderr
    assert digests(root) == quiet


def test_resume_takes_the_folders_own_options(tmp_path: Path) -> None:
    survey = preset("tiny", n_visits=1, seed=5)
    prepare(survey, SimFolder.at(tmp_path / "a", tmp_path / "truth"))
    found, folder = begun_simulation(tmp_path / "a")
    assert found == survey
    assert folder.truth == tmp_path / "truth"
    # A copy with its truth inside keeps to it.
    prepare(survey, SimFolder.at(tmp_path / "b"))
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    assert begun_simulation(tmp_path / "c")[1].truth == tmp_path / "c" / "truth"
    command = [sys.executable, "-m", "mpipipe", "simulate", str(tmp_path / "a"), "--resume"]
    wrong = subprocess.run(
        [*command, "--seed", "6"], capture_output=True, text=True, timeout=60, check=False
    )
    assert wrong.returncode == 1
    assert "--seed" in wrong.stderr


def test_one_folder_of_truth_holds_one_truth(tmp_path: Path) -> None:
    first, second = preset("tiny", seed=1), preset("tiny", seed=2)
    prepare(first, SimFolder.at(tmp_path / "a", tmp_path / "truth"))
    with pytest.raises(ConfigError, match="seed 1 instead of 2"):
        prepare(second, SimFolder.at(tmp_path / "b", tmp_path / "truth"))
    assert not (tmp_path / "b").exists()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="holds no truth"):
        prepare(second, SimFolder.at(tmp_path / "b", tmp_path / "thesis"))
