"""What a task is told: corrections follow camera, user and the switches of stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpipipe.data.camera import Need
from mpipipe.run.config import load_config
from mpipipe.run.context import RunContext
from mpipipe.store.cameras import load_camera
from mpipipe.store.layout import RunLayout


@pytest.mark.parametrize(
    ("assignment", "name", "expected"),
    [
        ("corrections.flat=require", "flat", Need.REQUIRE),
        ("corrections.flat=off", "flat", Need.OFF),
        ("isr.flat.enabled=false", "flat", Need.OFF),
        ("ca.isrCcdDefect.enabled=false", "defects", Need.OFF),
    ],
)
def test_corrections(tmp_path: Path, assignment: str, name: str, expected: Need) -> None:
    config = load_config(None, [assignment])
    context = RunContext(RunLayout.at(tmp_path), config, load_camera("sim-tiny"), None)
    assert getattr(context.corrections, name) is expected
    untouched = "bias" if name != "bias" else "dark"
    assert getattr(context.corrections, untouched) is load_camera("sim-tiny").corrections.bias
