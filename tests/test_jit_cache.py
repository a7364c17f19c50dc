"""Compiled kernels are kept apart by CPU and by the code they were compiled from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpipipe import jit_cache


def test_every_change_of_a_kernel_has_another_folder_and_nothing_else_has(tmp_path: Path) -> None:
    inner = tmp_path / "stages"
    inner.mkdir()
    (inner / "kernel.py").write_text("@njit\ndef f(): return 1\n")
    (tmp_path / "plain.py").write_text("x = 1\n")
    key = jit_cache.code_key(str(tmp_path))
    (tmp_path / "plain.py").write_text("x = 2\n")
    assert jit_cache.code_key(str(tmp_path)) == key
    (inner / "kernel.py").write_text("@njit\ndef f(): return 2\n")
    assert jit_cache.code_key(str(tmp_path)) != key
    (inner / "kernel.py").write_text("@njit\ndef f(): return 1\n")
    assert jit_cache.code_key(str(tmp_path)) == key
    (inner / "kernel.py").rename(inner / "other.py")
    assert jit_cache.code_key(str(tmp_path)) != key


@pytest.mark.parametrize("given", [True, False])
def test_the_folder_is_what_the_user_sets_or_tells_cpu_and_code(
    tmp_path: Path, given: bool
) -> None:
    kept = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    kept["XDG_CACHE_HOME"] = str(tmp_path)
    if given:
        kept["NUMBA_CACHE_DIR"] = str(tmp_path / "mine")
    code = "import mpipipe, os; print(os.environ['NUMBA_CACHE_DIR'])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept, capture_output=True, text=True, check=True,
        timeout=60,
    )  # fmt: skip
    folder = Path(done.stdout.strip())
    expected = tmp_path / "mpipipe" / "numba" / jit_cache.cpu_key() / jit_cache.code_key()
    assert folder == (tmp_path / "mine" if given else expected)
