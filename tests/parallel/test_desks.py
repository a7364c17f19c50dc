"""Several task processes without MPI: each is to the master what a rank is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mpipipe.parallel.world import World

PROGRAM = Path(__file__).parent / "programs" / "desks.py"


def test_all_work_and_one_that_dies_is_replaced(tmp_path):
    done = subprocess.run(
        [sys.executable, PROGRAM, tmp_path], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    for phase in ("first", "second"):
        kinds, workers, n_processes = found[phase]
        assert kinds == [0] * 30
        assert workers == [0, 1, 2], "the work was shared"
        assert n_processes >= 3


def test_ranks_have_workers_of_their_own():
    with pytest.raises(AssertionError):
        World(0, 2).seen_by(0, 2)
