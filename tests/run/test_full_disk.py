"""A disk that is full at any moment: said clearly, nothing committed is lost, resume goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Mpipipe
from .test_same_bits import given, raw, undisturbed  # noqa: F401


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory; `resize` changes its size."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    if subprocess.run(options, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield place
    with contextlib.suppress(OSError):
        subprocess.run(["umount", "-l", str(place)], check=False)


def resize(disk: Path, n_bytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={n_bytes}", str(disk)], check=True)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_full_disk(
    raw: Path,  # noqa: F811
    given: tuple[str, ...],  # noqa: F811
    undisturbed: str,  # noqa: F811
    small_disk: Path,
    mpipipe: Mpipipe,
    share: float,
) -> None:
    """Full at the start, among the images, and near the end."""
    whole = raw.parent / "undisturbed"
    used = sum(path.stat().st_blocks for path in whole.rglob("*") if path.is_file()) * 512
    resize(small_disk, int(share * used) + (64 << 10))
    root = small_disk / "run"
    full = mpipipe("run", "-q", *given, "-o", root)
    assert full.code in (1, 3), full.err
    said = full.err + full.out
    if (root / "outcomes.json").exists():
        said += (root / "outcomes.json").read_text()
    assert "No space left" in said
    assert not list(small_disk.rglob("*.part"))
    resize(small_disk, 4 * used)
    if (root / "plan.columns").exists():
        done = mpipipe("run", "-q", "--resume", root, root=root)
    else:
        shutil.rmtree(root, ignore_errors=True)
        done = mpipipe("run", "-q", *given, "-o", root, root=root)
    assert done.code == 0, done.err
    assert done.digest == undisturbed
    assert mpipipe("verify", root).code == 0
