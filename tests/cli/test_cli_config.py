"""config diff and explain as a user calls them."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from mpipipe.cli.main import app
from mpipipe.data.errors import ConfigError

RUNNER = CliRunner()


def config(*args):
    result = RUNNER.invoke(app, ["config", *map(str, args)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_diff_compares_runs_files_and_defaults(tmp_path):
    """A run has its configuration at its top, a flat folder in its folder run."""
    run, flat, file = tmp_path / "run1", tmp_path / "flat", tmp_path / "my.toml"
    (flat / "run").mkdir(parents=True)
    (flat / "run" / "flat").touch()
    run.mkdir()
    (run / "config.toml").write_text("seed = 3\n")
    (flat / "run" / "config.toml").write_text("[isr.dark]\nenabled = false\n")
    file.write_text("seed = 3\n")
    assert config("diff", run, file) == ""
    assert config("diff", run) == "seed: 3 | 0\n"
    assert config("diff", flat, run) == "seed: 0 | 3\nisr.dark.enabled: false | true\n"
    assert json.loads(config("diff", flat, "--json")) == {"isr.dark.enabled": [False, True]}
    with pytest.raises(ConfigError, match="is no run folder"):
        config("diff", tmp_path)
    with pytest.raises(ConfigError, match="can not be read"):
        config("diff", run, tmp_path / "none.toml")


def test_explain_tells_value_and_meaning():
    told = config("explain", "sfm.sourceDetection.threshold")
    assert told.startswith("sfm.sourceDetection.threshold = 5.0\n    least height")
    with pytest.raises(ConfigError, match="did you mean isr.dark.enabled"):
        config("explain", "isr.dark.enable")
