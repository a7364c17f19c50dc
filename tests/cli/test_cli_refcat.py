"""The commands about reference catalogues, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mpipipe.cli.refcat import app
from mpipipe.data.errors import BadDataError, ConfigError

RUNNER = CliRunner()


@pytest.fixture
def stars(tmp_path: Path) -> Path:
    path = tmp_path / "stars.csv"
    lines = ["id,RA,Dec,rmag,gmag,epoch", "1,10.0,1.0,15,15.5,2016", "2,10.1,1.0,14,14.5,2016"]
    path.write_text("\n".join([*lines, "3,,,16,17,2016", "2,10.1,1.0,14,14.5,2016"]) + "\n")
    return path


def test_ingest_and_show(stars: Path, tmp_path: Path) -> None:
    folder = tmp_path / "refcat"
    made = RUNNER.invoke(app, ["ingest", str(stars), "-o", str(folder), "--relative"])
    assert made.exit_code == 0, made.output
    assert "2 stars in 1 shards" in made.output
    assert "1 rows without a position" in made.output and "1 rows that stand twice" in made.output
    shown = RUNNER.invoke(app, ["show", str(folder)])
    assert "refcat: 2 stars, relative" in shown.output and "bands: r, g" in shown.output
    cone = RUNNER.invoke(app, ["show", str(folder), "--cone", "10.1", "1.0", "0.01"])
    assert "1 stars, in 1 shards" in cone.output and "10.1000000" in cone.output


def test_json(stars: Path, tmp_path: Path) -> None:
    folder = str(tmp_path / "refcat")
    command = ["ingest", str(stars), "-o", folder, "--name", "mine", "--max-rows", "1", "--json"]
    made = json.loads(RUNNER.invoke(app, command).output)
    assert (made["stars"], made["shards"], made["name"]) == (2, 2, "mine")
    assert made["made"]["sources"][0]["columns"]["ra"] == "RA"
    shown = json.loads(RUNNER.invoke(app, ["show", folder, "--json"]).output)
    assert shown["bands"] == ["r", "g"] and shown["is_absolute"] is True
    cone = RUNNER.invoke(app, ["show", folder, "--cone", "0", "-0.5", "180", "--json"])
    found = json.loads(cone.output)
    assert found["stars"]["id"] == [1, 2] and found["stars"]["parallax"] == [None, None]


def test_columns_and_epoch(stars: Path, tmp_path: Path) -> None:
    folder = str(tmp_path / "refcat")
    options = ["--column", "mag_z=rmag-0.5", "--column", "id=id", "--epoch", "2000"]
    assert RUNNER.invoke(app, ["ingest", str(stars), "-o", folder, *options]).exit_code == 0
    cone = RUNNER.invoke(app, ["show", folder, "--cone", "10", "1", "0.01", "--json"])
    found = json.loads(cone.output)
    assert found["stars"]["mag_z"] == [14.5]
    assert found["stars"]["epoch"] == [57388.5], "a column that tells goes before --epoch"


def test_what_can_not_be_is_told(stars: Path, tmp_path: Path) -> None:
    def error_of(*args: str) -> BaseException | None:
        return RUNNER.invoke(app, list(args)).exception

    folder = str(tmp_path / "refcat")
    assert isinstance(error_of("ingest", str(stars), "-o", str(tmp_path)), ConfigError)
    missing = error_of("ingest", str(stars), "-o", folder, "--column", "ra=RAA")
    assert isinstance(missing, BadDataError) and "near it: RA" in str(missing)
    assert isinstance(error_of("show", folder), BadDataError)
    assert isinstance(error_of("ingest", str(stars), "-o", folder, "--epoch", "3"), ConfigError)
    assert not Path(folder).exists()
