"""The commands about cameras, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mpipipe.cli.camera import app
from mpipipe.data.errors import ConfigError
from mpipipe.store.cameras import builtin_cameras

RUNNER = CliRunner()


def test_list() -> None:
    result = RUNNER.invoke(app, ["list"])
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.splitlines()] == builtin_cameras()
    assert set(json.loads(RUNNER.invoke(app, ["list", "--json"]).output)) == set(builtin_cameras())


@pytest.mark.parametrize("name", builtin_cameras())
def test_check_prints_every_channel(name: str) -> None:
    result = RUNNER.invoke(app, ["check", name])
    assert result.exit_code == 0 and "The description is sound" in result.output


def test_check_draws(tmp_path: Path) -> None:
    for name in ("sim-tiny", "generic"):
        path = tmp_path / f"{name}.png"
        result = RUNNER.invoke(app, ["check", name, "-o", str(path)])
        assert result.exit_code == 0 and str(path) in result.output
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 10_000


def test_drawing_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        RUNNER.invoke(app, ["check", "arcsat", "-o", str(tmp_path / name)])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_check_of_a_faulty_file_names_the_key(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "generic"\n[types.ccd]\nsise = [10, 10]\n')
    result = RUNNER.invoke(app, ["check", str(path)])
    assert isinstance(result.exception, ConfigError)
    assert "key types.ccd.sise" in str(result.exception)
    assert "did you mean 'size'" in str(result.exception)


def test_explain_knows_every_key() -> None:
    output = RUNNER.invoke(app, ["check", "--explain"]).output
    for key in ("pixel_scale", "datasec", "overscan_skip", "crosstalk", "flip_y", "constants"):
        assert f"    {key} (" in output
    assert "Electrons per ADU" in output


def test_nothing_to_check() -> None:
    assert isinstance(RUNNER.invoke(app, ["check"]).exception, ConfigError)
