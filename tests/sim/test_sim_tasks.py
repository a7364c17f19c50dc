"""A simulation in files: same bytes in any order, resumed, never mixed, truth apart."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from mpipipe.data.errors import BadDataError, ConfigError, OutputError
from mpipipe.sim.exposures import simulate_visit
from mpipipe.sim.instrument import make_instrument
from mpipipe.sim.simulate import simulate_survey
from mpipipe.sim.survey import Survey, preset
from mpipipe.sim.tasks import (
    CAMERA_FILE,
    OPTIONS_FILE,
    SimFolder,
    is_done,
    make_tasks,
    prepare,
    read_survey,
    run_task,
)
from mpipipe.sim.truth import EXPECTED_STEP
from mpipipe.store.cameras import load_camera
from mpipipe.store.raw import read_frame
from mpipipe.store.scan import scan


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.fits*"))
    }


def backwards(tasks: Any, execute: Any) -> None:
    for task in reversed(tasks):
        execute(task)


def test_same_bytes_in_any_order(survey: Survey, tmp_path: Path) -> None:
    simulate_survey(survey, tmp_path / "a")
    simulate_survey(survey, tmp_path / "b", run_all=backwards)
    first, second = digests(tmp_path / "a"), digests(tmp_path / "b")
    assert first == second
    assert len(first) > 50


def test_one_task_alone_gives_the_same_bytes(survey: Survey, tmp_path: Path) -> None:
    """Nothing may depend on what a process did before."""
    folder = simulate_survey(survey, tmp_path / "whole")
    alone = SimFolder.at(tmp_path / "alone")
    prepare(survey, alone)
    for cached in (make_instrument,):
        cached.cache_clear()
    task = next(task for task in make_tasks(survey) if task.kind == "science")
    run_task(survey, task, alone)
    whole = digests(folder.root)
    assert {name: whole[name] for name in digests(alone.root)} == digests(alone.root)


def test_task_keys_are_unique() -> None:
    tasks = make_tasks(preset("small", n_ccds=3))
    assert len({task.key for task in tasks}) == len(tasks)


def test_resume_redoes_only_what_is_missing(survey: Survey, tmp_path: Path) -> None:
    folder = simulate_survey(survey, tmp_path)
    before = digests(tmp_path)
    victim = next(folder.raw.glob("imsim_3*"))
    victim.write_bytes(victim.read_bytes()[:-2880])
    done: list[tuple[str, bool]] = []

    def watch(tasks: Any, execute: Any) -> None:
        done.extend((task.kind, execute(task)) for task in tasks)

    simulate_survey(survey, tmp_path, run_all=watch)
    assert [kind for kind, worked in done if worked] == ["dark"]
    assert digests(tmp_path) == before


def test_other_options_are_refused_and_named(survey: Survey, tmp_path: Path) -> None:
    prepare(survey, SimFolder.at(tmp_path))
    prepare(survey, SimFolder.at(tmp_path))
    other = preset("tiny", n_ccds=1, n_visits=1)
    with pytest.raises(ConfigError, match="another simulation.*n_bias"):
        prepare(other, SimFolder.at(tmp_path))
    assert read_survey(tmp_path) == survey


def test_folders_that_are_no_simulation_are_left_alone(survey: Survey, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="no simulation"):
        prepare(survey, SimFolder.at(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadDataError):
        read_survey(tmp_path / "empty")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        prepare(survey, SimFolder.at(tmp_path / "file" / "below"))


def test_truth_goes_only_where_it_was_sent(survey: Survey, tmp_path: Path) -> None:
    folder = simulate_survey(survey, tmp_path / "out", tmp_path / "hidden")
    names = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert not names & {"objects.fits", "visits.json"}
    assert not (tmp_path / "out" / "truth").exists()
    shown = {path.name for path in (tmp_path / "hidden").iterdir() if path.name[0] != "."}
    assert shown == {
        "objects.fits",
        "visits.json",
        "detectors",
        "science",
        "simulation.toml",  # whose truth it is, so that another simulation does not mix with it
    }
    assert all(is_done(task, folder) for task in make_tasks(survey))


def test_without_truth_images(survey: Survey, tmp_path: Path) -> None:
    import dataclasses

    survey = dataclasses.replace(survey, truth_images=False)
    folder = SimFolder.at(tmp_path)
    prepare(survey, folder)
    run_task(survey, make_tasks(survey)[-1], folder)
    with fits.open(next((folder.truth / "science").iterdir())) as hdus:
        names = {hdu.name for hdu in hdus}
    assert "SOURCES" in names
    assert "EXPECTED" not in names


@pytest.mark.parametrize(
    ("file_format", "gzip"),
    [
        ("", False),
        ("channel-files", True),
        ("mef", True),
        ("amps-in-hdu", False),
        ("single", False),
    ],
)
def test_readers_read_every_format(
    survey: Survey, tmp_path: Path, file_format: str, gzip: bool
) -> None:
    """Written by one hand, read by another: kinds, pixels, places and constants must agree."""
    import dataclasses

    survey = dataclasses.replace(survey, format=file_format, gzip=gzip, galaxy_mag_max=25.0)
    folder = simulate_survey(survey, tmp_path)
    camera = load_camera(tmp_path / CAMERA_FILE if file_format else survey.camera)
    inventory = scan(folder.raw, camera if file_format else None)
    assert not inventory.problems
    assert sorted(group.kind for group in inventory.calibs) == ["bias", "dark", "flat"]
    (visit,) = inventory.science
    assert sorted(visit.snaps) == [0, 1]
    assert visit.band == "r"
    raw, _ = simulate_visit(survey, visit.detector, 0)
    for snap, files in visit.snaps.items():
        frame = read_frame(files, inventory.camera)
        assert frame.info.exposure_time == survey.snap_time
        assert frame.wcs_header["CTYPE1"] == "RA---TAN"
        pixels = [channel.pixels for channel in frame.channels]
        if len(raw[snap]) == len(pixels):
            assert all(np.array_equal(a, b) for a, b in zip(raw[snap], pixels, strict=True))
        else:
            for channel, wanted in zip(frame.channels, make_wanted(survey, raw[snap]), strict=True):
                assert np.array_equal(channel.datasec.cut(channel.pixels), wanted)
    assert (tmp_path / OPTIONS_FILE).exists()


def make_wanted(survey: Survey, images: list[np.ndarray]) -> list[np.ndarray]:
    """The data of the channels that share an image."""
    instrument = make_instrument(survey)
    channels = instrument.camera.type_of(instrument.detectors[0]).channels
    return [c.datasec.cut(images[0]) for c in channels if c.datasec is not None]


def test_truth_describes_the_pixels(survey: Survey, tmp_path: Path) -> None:
    """Expected image, states and rays in the file are those the raw frames were made of."""
    folder = SimFolder.at(tmp_path)
    prepare(survey, folder)
    run_task(survey, make_tasks(survey)[-1], folder)
    ccd = make_instrument(survey).detectors[0].name
    _, truth = simulate_visit(survey, ccd, 0)
    with fits.open(next((folder.truth / "science").iterdir())) as hdus:
        assert np.abs(hdus["EXPECTED"].data - truth.expected).max() <= 0.51 * EXPECTED_STEP + (
            1e-6 * truth.expected.max()
        )
        assert np.array_equal(hdus["STATE"].data, truth.state)
        assert len(hdus["RAYS"].data) == sum(len(hits[0]) for hits in truth.rays)
        rows = hdus["SOURCES"].data
        bright = (rows["kind"] == 0) & (rows["snr"] > 200) & (rows["flux"] < 1e6)
        assert bright.any()
        for row in rows[bright][:20]:
            if 15 < row["x"] < 496 and 15 < row["y"] < 484:
                at = truth.expected[round(row["y"]), round(row["x"])]
                around = truth.expected[round(row["y"]) - 6, round(row["x"]) - 6]
                assert at > around
        assert hdus["PSF"].data.sum(axis=(1, 2)) == pytest.approx(0.99, abs=0.015)
