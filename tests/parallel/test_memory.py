"""Freed memory stays with a task process, so that the next arrays cost no page faults."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import resource, sys
import numpy as np
from mpipipe.parallel.memory import keep_memory
kept = keep_memory() if sys.argv[1] == "keep" else False
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        np.ones(10_000_000, np.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(int(kept), faults())
"""


def _run(how: str, **more: str) -> tuple[int, int]:
    environment = {"NUMPY_MADVISE_HUGEPAGE": "0", "PYTHONPATH": ":".join(sys.path), **more}
    out = subprocess.run(
        [sys.executable, "-c", CODE, how], env=environment, capture_output=True, text=True,
        check=True,
    ).stdout  # fmt: skip
    kept, faults = out.split()
    return int(kept), int(faults)


def test_arrays_of_one_size_are_mapped_once() -> None:
    kept, faults = _run("keep")
    if not kept:
        pytest.skip("the C library is not glibc")
    _, usual = _run("leave")
    assert faults < 0.1 * usual


def test_a_users_own_settings_hold() -> None:
    assert _run("keep", MALLOC_MMAP_MAX_="65536")[0] == 0
