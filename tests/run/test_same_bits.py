"""One answer: the same bits at any number of ranks, after interruptions, kills and losses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Mpipipe, Result

VISITS = 8


@pytest.fixture(scope="module")
def raw(sixteen_visits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of the visits, and the calibration frames."""
    folder = tmp_path_factory.mktemp("same") / "raw"
    folder.mkdir()
    for path in sixteen_visits.iterdir():
        visit = int(path.name.split("_")[1])
        if not 100000 + VISITS < visit < 200000:
            (folder / path.name).hardlink_to(path)
    return folder


@pytest.fixture(scope="module")
def given(raw: Path, sixteen_refcat: Path) -> tuple[str, ...]:
    """What all runs are given."""
    return str(raw), "--refcat", str(sixteen_refcat), "--forced", str(sixteen_refcat)


@pytest.fixture(scope="module")
def undisturbed(raw: Path, given: tuple[str, ...]) -> str:
    """The digest of a run in one process that nobody disturbed."""
    root = raw.parent / "undisturbed"
    command = [sys.executable, "-m", "mpipipe", "run", "-q", *given, "-o", str(root)]
    subprocess.run(command, check=True, timeout=170, capture_output=True)
    return Result(0, "", "", root).digest


@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_ranks(
    given: tuple[str, ...],
    undisturbed: str,
    tmp_path: Path,
    mpirun: Callable[..., subprocess.CompletedProcess[str]],
    ranks: int,
) -> None:
    root = tmp_path / "run"
    done = mpirun(ranks, ["-m", "mpipipe", "run", "-q", *given, "-o", root], seconds=170)
    assert done.returncode == 0, done.stderr
    assert Result(0, "", "", root).digest == undisturbed


def start_and_wait(given: tuple[str, ...], root: Path, n_images: int) -> subprocess.Popen[bytes]:
    """A run in a session of its own, as far as some exposures."""
    command = [sys.executable, "-m", "mpipipe", "run", "-q", *given, "-o", str(root)]
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    limit = time.monotonic() + 120
    while len(list(root.glob("calexp/*/calexp*.fits"))) < n_images:
        assert process.poll() is None, "the run ended before it could be disturbed"
        assert time.monotonic() < limit
        time.sleep(0.01)
    return process


def test_ctrl_c_commits_and_resume_goes_on(
    given: tuple[str, ...], undisturbed: str, tmp_path: Path, mpipipe: Mpipipe
) -> None:
    root = tmp_path / "run"
    process = start_and_wait(given, root, 2)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 75
    assert mpipipe("verify", root).code == 4
    resumed = mpipipe("run", "--resume", root, "--json", root=root)
    assert resumed.code == 0, resumed.err
    assert '"resumed": 0' not in resumed.out
    assert resumed.digest == undisturbed


def test_sigkill_loses_only_what_was_in_flight(
    given: tuple[str, ...],
    undisturbed: str,
    tmp_path: Path,
    mpirun: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """Killed twice without warning, gone on with at another number of ranks."""
    root = tmp_path / "run"
    process = start_and_wait(given, root, 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
    done = mpirun(2, ["-m", "mpipipe", "run", "-q", "--resume", root], seconds=170)
    assert done.returncode == 0, done.stderr
    assert Result(0, "", "", root).digest == undisturbed
    assert not list(root.rglob("*.part")), "a half-written file was left"


def test_lost_and_altered_products_are_made_again(
    given: tuple[str, ...], undisturbed: str, tmp_path: Path, mpipipe: Mpipipe
) -> None:
    root = tmp_path / "run"
    assert mpipipe("run", "-q", *given, "-o", root).code == 0
    images = sorted(root.glob("calexp/*/calexp*.fits"))
    images[0].unlink()
    sorted(root.glob("psf/*/psf*.fits"))[2].unlink()
    with open(images[1], "r+b") as stream:
        stream.seek(3000)
        stream.write(b"\0\1\2\3")
    assert mpipipe("verify", root).code == 4
    again: Any = mpipipe("run", "-q", "--resume", root, root=root)
    assert again.code == 0, again.err
    assert again.digest == undisturbed
    assert mpipipe("verify", root).code == 0
