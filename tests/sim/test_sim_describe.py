"""`mpipipe simulate describe`: what is in a simulation."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mpipipe.cli.main import app
from mpipipe.data.errors import BadDataError
from mpipipe.sim.describe import lines_of, read_simulation
from mpipipe.sim.picture import draw
from mpipipe.sim.simulate import simulate_survey
from mpipipe.sim.survey import preset


@pytest.fixture(scope="module")
def simulation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("described") / "sim"
    survey = preset(
        "tiny",
        n_visits=1,
        n_ccds=1,
        n_bias=1,
        n_dark=1,
        flat_levels=(1e4,),
        flats_per_level=1,
        variable_mix=(0.3, 0.2, 0.3),
        parallax=1.0,
        clouds=0.5,
        spikes=0.02,
        asteroids=500.0,
        eggs=True,
        truth_images=False,
    )
    simulate_survey(survey, root)
    return root


def test_it_tells_what_is_there(simulation: Path) -> None:
    found = read_simulation(simulation)
    text = "\n".join(lines_of(found))
    for part in (
        "preset tiny, seed 1: 1 CCDs, 1 visits",
        "1 bias, 1 dark of 300 s, 1 flats a band",
        "16 channels: gain 1.",
        "spikes with 2.0%",
        "clouds to",
        "cosmic rays",
        "rr lyrae",
        "galaxies by r",
        "parallax",
        "Solar System",
        "planted: microlensing",
    ):
        assert part in text, part
    assert "tasks left" not in text
    assert found.n_done == found.n_tasks and found.n_bytes > 1e6


def test_what_is_missing_is_told(simulation: Path, tmp_path: Path) -> None:
    shutil.copytree(simulation, tmp_path / "sim")
    min((tmp_path / "sim" / "raw").rglob("*100001*.fits*")).unlink()
    # The folder of the truth is where the options say: the copy's own was moved along.
    text = "\n".join(lines_of(read_simulation(tmp_path / "sim")))
    assert "1 tasks left" in text
    shutil.move(tmp_path / "sim" / "truth", tmp_path / "secret")
    with pytest.raises(BadDataError, match="--truth"):
        read_simulation(tmp_path / "sim")
    assert read_simulation(tmp_path / "sim", tmp_path / "secret").n_tasks > 0
    with pytest.raises(BadDataError, match="no simulation"):
        read_simulation(tmp_path)


def test_it_is_drawn(simulation: Path, tmp_path: Path) -> None:
    draw(read_simulation(simulation), tmp_path / "sim.png")
    assert (tmp_path / "sim.png").read_bytes().startswith(b"\x89PNG")


def test_the_command(simulation: Path) -> None:
    done = CliRunner().invoke(app, ["simulate", "describe", str(simulation)])
    assert done.exit_code == 0, done.output
    assert "preset tiny" in done.output
    wrong = CliRunner().invoke(app, ["simulate", "one", "two"])
    assert wrong.exit_code != 0
