"""Real frames from raw to source table, by the command that users give."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mpipipe.data.mask import is_set
from mpipipe.store.hdf5 import read_catalogue
from mpipipe.store.images import read_exposure
from mpipipe.store.masters import read_master

from .conftest import Mpipipe, Result


@pytest.fixture(scope="module")
def night(realdata: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of the ARCSAT night's calibration frames and four of its visits."""
    folder = tmp_path_factory.mktemp("night")
    frames = sorted((realdata / "arcsat-xo1b").glob("*.fits.fz"))
    science = [path for path in frames if path.name.startswith("XO1")]
    listed = [path for path in frames if path not in science[4:]]
    (folder / "frames.txt").write_text("\n".join(map(str, listed)))
    return folder / "frames.txt"


def test_a_real_night_from_raw_frames_under_mpirun(
    night: Path, mpirun: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """No overscan, no gain in the headers, hot pixels by the thousand, frames without a WCS."""
    root = night.parent / "run"
    done = mpirun(2, ["-m", "mpipipe", "run", "-q", night, "-o", root], seconds=170)
    assert done.returncode == 0, done.stderr
    gain = read_master(root / "calibs" / "gain-ccd0.fits")
    assert gain.gain[0] == pytest.approx(1.33, abs=0.05)
    assert gain.read_noise[0] == pytest.approx(16.2, abs=0.8)
    images = sorted(root.glob("calexp/*/calexp-*.fits"))
    assert len(images) == 4
    for path in images:
        exposure = read_exposure(path)
        assert is_set(exposure.mask, "BAD").sum() > 1000
        empty = exposure.mask == 0
        pulls = exposure.image[empty] / np.sqrt(exposure.variance[empty])
        width = 1.4826 * np.median(np.abs(pulls - np.median(pulls)))
        assert width == pytest.approx(1.0, abs=0.06)
        assert abs(np.median(pulls)) < 0.1
    src = read_catalogue(root / "catalogs" / "src.h5")
    visits, counts = np.unique(src["visit"], return_counts=True)
    assert len(visits) == 4 and counts.min() >= 10


def test_a_windowed_and_binned_four_amplifier_frame(
    realdata: Path, tmp_path: Path, mpipipe: Mpipipe
) -> None:
    """LCO Sinistro, no masters: what the camera has not is left out, and said."""
    root = tmp_path / "run"
    result = mpipipe("run", "-q", realdata / "lco-sinistro-raw", "-o", root, root=root)
    assert result.code == 0, result.err
    (task,) = result.calibrated.values()
    assert any("flat" in warning for warning in task["warnings"])
    assert len(read_catalogue(root / "catalogs" / "src.h5")["id"]) > 400


def test_frames_that_were_reduced_elsewhere(
    realdata: Path, tmp_path: Path, mpipipe: Mpipipe
) -> None:
    """SAAO: flat-fielded frames enter at cs, with a variance from sky, gain and read noise."""
    frames = sorted((realdata / "saao-series").glob("*.fits"))[:2]
    (tmp_path / "frames.txt").write_text("\n".join(map(str, frames)))
    root = tmp_path / "run"
    result: Result = mpipipe(
        "run", "-q", tmp_path / "frames.txt", "-o", root, "--camera", "saao-ste3-reduced", root=root
    )
    assert result.code == 0, result.err
    src = read_catalogue(root / "catalogs" / "src.h5")
    assert np.unique(src["visit"]).size == 2 and len(src["id"]) > 300
