"""Small simulated surveys, and runs of the command as users start it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mpipipe.sim.simulate import simulate_survey
from mpipipe.sim.survey import preset
from mpipipe.store.layout import RunLayout


@dataclass(frozen=True)
class Result:
    """What a command gave back, and what its run folder says."""

    code: int
    out: str
    err: str
    root: Path

    def json(self, name: str) -> Any:
        """One of the JSON files of the run folder."""
        return json.loads((self.root / name).read_text())

    @property
    def digest(self) -> str:
        """The checksum over all products."""
        digest: str = self.json("completion.json")["digest"]
        return digest

    @property
    def calibrated(self) -> dict[int, dict[str, Any]]:
        """Visit to the outcome of its calibrate task (surveys of one CCD)."""
        tasks = self.json("outcomes.json")["tasks"]
        return {task["visit"]: task for task in tasks if task["phase"] == "calibrate"}


Mpipipe = Callable[..., Result]


@pytest.fixture
def mpipipe(tmp_path: Path) -> Mpipipe:
    """Run ``python -m mpipipe ARGS``; the result knows the folder named `root`."""

    def run(*args: object, root: Path | None = None, **environment: str) -> Result:
        command = [sys.executable, "-m", "mpipipe", *map(str, args)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=170,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr, root or tmp_path)

    return run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two CCDs, two visits, calibration frames."""
    root = tmp_path_factory.mktemp("tiny")
    simulate_survey(preset("tiny", seed=1, truth_images=False), root / "sim")
    return root / "sim" / "raw"


@pytest.fixture(scope="session")
def done(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> RunLayout:
    """A finished run of `tiny`; tests that alter it take a copy."""
    from mpipipe.run.drive import drive
    from mpipipe.run.prepare import Request, make_run

    layout = RunLayout.at(tmp_path_factory.mktemp("done") / "run")
    drive(layout, lambda: make_run(Request(tiny), layout), quiet=True)
    return layout


@pytest.fixture(scope="session")
def sixteen_visits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One CCD, sixteen visits in r, calibration frames."""
    root = tmp_path_factory.mktemp("sixteen")
    survey = preset(
        "tiny", seed=2, n_ccds=1, n_visits=16, bands=("r",), streaks=(), truth_images=False
    )
    simulate_survey(survey, root / "sim")
    return root / "sim" / "raw"


@pytest.fixture(scope="session")
def sixteen_refcat(sixteen_visits: Path) -> Path:
    """The reference catalogue of `sixteen_visits`, ingested."""
    folder = sixteen_visits.parent / "ingested"
    source = sixteen_visits.parent / "refcat" / "reference.fits"
    command = [sys.executable, "-m", "mpipipe", "refcat", "ingest", "-q", source, "-o", folder]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    return folder
