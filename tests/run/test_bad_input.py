"""Bad input ends as an outcome that names it, and the rest of the run goes on.

One run over sixteen visits, most of them damaged, each in its own way: what is said of each is
tested apart, so that a new kind of damage is one more entry in the table.
"""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from .conftest import Mpipipe, Result

VISIT_0 = 100001
CCD = "R22_S11"


def file_of(raw: Path, visit: int, channel: str = "C03", snap: int = 0) -> Path:
    return raw / f"imsim_{visit}_{CCD}_{channel}_E{snap:03d}.fits"


def files_of(raw: Path, visit: int, snap: int | None = None) -> list[Path]:
    end = "*" if snap is None else f"{snap:03d}"
    return sorted(raw.glob(f"imsim_{visit}_{CCD}_*_E{end}.fits*"))


def truncate(raw: Path, visit: int) -> None:
    path = file_of(raw, visit)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def corrupt_gzip(raw: Path, visit: int) -> None:
    path = file_of(raw, visit)
    packed = bytearray(gzip.compress(path.read_bytes(), mtime=0))
    packed[len(packed) // 2] ^= 0xFF
    path.with_name(path.name + ".gz").write_bytes(packed)
    path.unlink()


def not_fits(raw: Path, visit: int) -> None:
    file_of(raw, visit).write_bytes(b"<html>404 Not Found</html>" * 200)


def missing_channel(raw: Path, visit: int) -> None:
    file_of(raw, visit).unlink()


def missing_snap(raw: Path, visit: int) -> None:
    for path in files_of(raw, visit, snap=1):
        path.unlink()


def change_pixels(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    with fits.open(path) as hdus:
        header, data = hdus[0].header.copy(), hdus[0].data.copy()
    fits.PrimaryHDU(change(data), header).writeto(path, overwrite=True)


def wrong_shape(raw: Path, visit: int) -> None:
    change_pixels(file_of(raw, visit), lambda image: image[:-40, :-20])


def wrong_bitpix(raw: Path, visit: int) -> None:
    path = file_of(raw, visit)
    content = path.read_bytes()
    path.write_bytes(
        content.replace(b"BITPIX  =                   16", b"BITPIX  =                   17", 1)
    )


def all_nan(raw: Path, visit: int) -> None:
    for path in files_of(raw, visit):
        change_pixels(path, lambda image: np.full(image.shape, np.nan, np.float32))


def all_zero(raw: Path, visit: int) -> None:
    for path in files_of(raw, visit):
        change_pixels(path, np.zeros_like)


def all_saturated(raw: Path, visit: int) -> None:
    for path in files_of(raw, visit):
        change_pixels(path, lambda image: np.full_like(image, 65535))


def two_files_for_a_channel(raw: Path, visit: int) -> None:
    path = file_of(raw, visit)
    with gzip.open(path.with_name(path.name + ".gz"), "wb") as stream:
        stream.write(path.read_bytes())


def no_exposure_time(raw: Path, visit: int) -> None:
    for path in files_of(raw, visit):
        with fits.open(path, mode="update") as hdus:
            for key in ("EXPTIME", "DARKTIME", "EXPOSURE"):
                hdus[0].header.remove(key, ignore_missing=True)


def unknown_filter(raw: Path, visit: int) -> None:
    for path in files_of(raw, visit):
        with fits.open(path, mode="update") as hdus:
            hdus[0].header["FILTER"] = "Q17"


@dataclass(frozen=True)
class Case:
    damage: Callable[[Path, int], None]
    outcomes: tuple[str, ...]
    says: str


SNAP_LOST = ("partial",)
"""One snap of two can not be used: the other one is, and the outcome says so."""

CASES = (
    Case(truncate, SNAP_LOST, r"imsim_\d+_R22_S11_C03_E000\.fits.*(truncated|ends|incomplete)"),
    Case(corrupt_gzip, SNAP_LOST, r"C03_E000\.fits\.gz.*gzip"),
    Case(not_fits, SNAP_LOST, r"(C03_E000\.fits.*FITS|C03)"),
    Case(missing_channel, SNAP_LOST, r"C03"),
    Case(missing_snap, SNAP_LOST, r"snap"),
    Case(wrong_shape, SNAP_LOST, r"C03"),
    Case(wrong_bitpix, SNAP_LOST, r"BITPIX|FITS"),
    Case(all_nan, ("bad data",), r"finite|NaN"),
    Case(all_zero, ("bad data",), r"every pixel is zero"),
    Case(all_saturated, ("bad data",), r"every pixel is 65535"),
    Case(two_files_for_a_channel, SNAP_LOST, r"C03.*(double|twice|two)|(double|twice|two).*C03"),
    Case(no_exposure_time, ("bad data", "partial"), r"EXPTIME|exposure"),
    Case(unknown_filter, ("bad data",), r"Q17"),
)


@pytest.fixture(scope="module")
def damaged(sixteen_visits: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """One run over everything that can go wrong, and two visits that are fine."""
    folder = tmp_path_factory.mktemp("damaged")
    raw = folder / "raw"
    shutil.copytree(sixteen_visits, raw)
    for number, case in enumerate(CASES):
        case.damage(raw, VISIT_0 + number)
    command = [sys.executable, "-m", "mpipipe", "run", str(raw), "-o", str(folder / "run")]
    command += ["--set", "corrections.flat=require"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    return Result(done.returncode, done.stdout, done.stderr, folder / "run")


@pytest.mark.parametrize(
    ("number", "case"), list(enumerate(CASES)), ids=[case.damage.__name__ for case in CASES]
)
def test_damage_ends_as_an_outcome_that_names_it(damaged: Result, number: int, case: Case) -> None:
    task = damaged.calibrated[VISIT_0 + number]
    assert task["outcome"] in case.outcomes, task
    text = " ".join([task["reason"], *task["warnings"]])
    assert re.search(case.says, text), text
    assert not task["traceback"], task["traceback"]
    image = damaged.root / "calexp" / str(VISIT_0 + number)
    assert image.exists() == (task["outcome"] == "partial")


def test_the_rest_of_the_run_goes_on(damaged: Result) -> None:
    for number in range(len(CASES), 16):
        assert damaged.calibrated[VISIT_0 + number]["outcome"] == "done"


def test_the_exit_code_says_done_with_failures(damaged: Result) -> None:
    assert damaged.code == 3, damaged.err


def test_a_run_with_failures_is_complete_and_verifies(damaged: Result, mpipipe: Mpipipe) -> None:
    assert mpipipe("verify", damaged.root).code == 0


# -- what concerns the whole run ------------------------------------------------------------------


def test_an_unknown_configuration_key_names_the_nearest(tiny: Path, mpipipe: Mpipipe) -> None:
    result = mpipipe("run", tiny, "-o", tiny.parent / "never", "--set", "isr.overscn.enabled=false")
    assert result.code == 1
    assert "isr.overscn" in result.err and "overscan" in result.err
    assert "Traceback" not in result.err


def test_a_run_is_not_written_over(tiny: Path, tmp_path: Path, mpipipe: Mpipipe) -> None:
    first = mpipipe("calibs", tiny, "-o", tmp_path / "c")
    assert first.code == 0, first.err
    again = mpipipe("calibs", tiny, "-o", tmp_path / "c")
    assert again.code == 1 and "--resume" in again.err


def test_an_output_folder_that_can_not_be_made(
    tiny: Path, tmp_path: Path, mpipipe: Mpipipe
) -> None:
    (tmp_path / "file").write_text("")
    result = mpipipe("run", tiny, "-o", tmp_path / "file" / "run")
    assert result.code == 1
    assert str(tmp_path / "file") in result.err and "Traceback" not in result.err


def test_no_raw_frames_at_all(tmp_path: Path, mpipipe: Mpipipe) -> None:
    (tmp_path / "empty").mkdir()
    result = mpipipe("run", tmp_path / "empty", "-o", tmp_path / "run")
    assert result.code == 1 and "Traceback" not in result.err


def test_a_required_master_that_is_missing(
    sixteen_visits: Path, tmp_path: Path, mpipipe: Mpipipe
) -> None:
    """No flats in the band: bad data that names the master, for every visit, before pixels."""
    raw = tmp_path / "raw"
    shutil.copytree(sixteen_visits, raw)
    keep = {VISIT_0}
    for path in raw.iterdir():
        visit = int(path.name.split("_")[1])
        is_flat = fits.getheader(path)["IMGTYPE"].lower() == "flat"
        if is_flat or (100000 < visit < 200000 and visit not in keep):
            path.unlink()
    run = tmp_path / "run"
    result = mpipipe("run", raw, "-o", run, "--set", "corrections.flat=require", root=run)
    assert result.code == 3, result.err
    task = result.calibrated[VISIT_0]
    assert task["outcome"] == "bad data" and "master flat of band 'r'" in task["reason"]
    assert task["stage"] == "isr.initialize"


def test_too_few_calibration_frames(sixteen_visits: Path, tmp_path: Path, mpipipe: Mpipipe) -> None:
    """Two darks are too few for a master: said so; the visits do without, and say that."""
    raw = tmp_path / "raw"
    raw.mkdir()
    darks = set()
    for path in sorted(sixteen_visits.iterdir()):
        visit, kind = int(path.name.split("_")[1]), fits.getheader(path)["IMGTYPE"].lower()
        if kind == "dark":
            darks.add(visit)
            if len(darks) > 2:
                continue
        if 100000 < visit < 200000 and visit != VISIT_0:
            continue
        (raw / path.name).hardlink_to(path)
    run = tmp_path / "run"
    result = mpipipe("run", raw, "-o", run, root=run)
    assert result.code == 3, result.err
    tasks = result.json("outcomes.json")["tasks"]
    dark = next(task for task in tasks if task["phase"] == "dark")
    assert dark["outcome"] == "bad data" and "2" in dark["reason"] and "3" in dark["reason"]
    calibrated = result.calibrated[VISIT_0]
    assert calibrated["outcome"] == "done"
    assert any("dark" in warning for warning in calibrated["warnings"])
