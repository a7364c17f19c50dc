"""The checks against truth on a small set, so that a loss of accuracy is seen at once.

They are started together, to use both cores; each test waits for its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKS = ("check_isr", "check_cr", "check_simulator", "check_recovery", "check_characterization")
SECONDS = 700


@pytest.fixture(scope="module")
def running(
    repo: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[subprocess.Popen[str], Path]]]:
    """All checks with ``--quick``, and where each writes its table."""
    folder = tmp_path_factory.mktemp("checks")
    started = {}
    for name in CHECKS:
        table = folder / f"{name}.json"
        command = [sys.executable, str(repo / "tools" / name), "--quick", "--json", str(table)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started[name] = process, table
    yield started
    for process, _ in started.values():
        process.kill()
        process.wait()


@pytest.mark.timeout(SECONDS + 20)
@pytest.mark.parametrize("name", CHECKS)
def test_every_target_is_met(
    name: str, running: dict[str, tuple[subprocess.Popen[str], Path]]
) -> None:
    process, table = running[name]
    text, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, text
    rows = json.loads(table.read_text())["checks"]
    assert sum(bool(row["target"]) for row in rows) >= 3, "a check without targets checks nothing"
