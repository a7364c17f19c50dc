"""Places that can not be written: a read-only disk, no permission, a quota that is used up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Mpipipe, Result
from .test_full_disk import resize, small_disk  # noqa: F401

# A user who may read everything, so that any installation can be used, and write nothing.
READS = "-all,+dac_read_search"
AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", f"--inh-caps={READS}",
             f"--ambient-caps={READS}")  # fmt: skip


@pytest.fixture
def public(tiny: Path) -> Iterator[Path]:
    """A folder that all users may see, with raw frames."""
    trial = [*AS_NOBODY, sys.executable, "-c", ""]
    if os.geteuid() or shutil.which("setpriv") is None:
        pytest.skip("only root can be somebody else")
    if subprocess.run(trial, check=False, capture_output=True).returncode:
        pytest.skip("being somebody else is not allowed here")
    folder = Path(tempfile.mkdtemp(prefix="mpipipe-public-"))
    folder.chmod(0o755)
    shutil.copytree(tiny, folder / "raw")
    (folder / "cache").mkdir(mode=0o777)
    (folder / "cache").chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def as_nobody(public: Path, *arguments: object) -> Result:
    """`mpipipe ARGUMENTS` as a user without rights."""
    cache = str(public / "cache")
    places = {"XDG_CACHE_HOME": cache, "NUMBA_CACHE_DIR": cache, "HOME": cache}
    done = subprocess.run(
        [*AS_NOBODY, sys.executable, "-m", "mpipipe", *map(str, arguments)],
        env=os.environ | places,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr, public)


def test_a_read_only_disk(tiny: Path, small_disk: Path, mpipipe: Mpipipe) -> None:  # noqa: F811
    resize(small_disk, 1 << 28)
    root = small_disk / "run"
    assert mpipipe("run", "-q", tiny, "-o", root, root=root).code == 0
    (root / "completion.json").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for arguments in (["--resume", root], [tiny, "-o", small_disk / "other"]):
        refused = mpipipe("run", "-q", *arguments)
        assert refused.code == 1
        assert "Read-only file system" in refused.err and "Traceback" not in refused.err
    assert mpipipe("status", root).code == 0
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert mpipipe("run", "-q", "--resume", root).code == 0


def test_no_permission(public: Path, mpipipe: Mpipipe) -> None:
    refused = as_nobody(public, "run", "-q", public / "raw", "-o", public / "run")
    assert refused.code == 1, refused.err
    assert "Permission denied" in refused.err and "permissions" in refused.err
    assert "Traceback" not in refused.err
    assert mpipipe("run", "-q", public / "raw", "-o", public / "run").code == 0
    (public / "run" / "completion.json").unlink()
    refused = as_nobody(public, "run", "-q", "--resume", public / "run")
    assert refused.code == 1, refused.err
    assert "Permission denied" in refused.err and "Traceback" not in refused.err
    assert mpipipe("run", "-q", "--resume", public / "run").code == 0


@pytest.fixture
def with_quota(tmp_path: Path) -> Iterator[Path]:
    """A folder on a btrfs of its own; `limit` sets how much may be in it."""
    needed = ("mkfs.btrfs", "btrfs", "mount", "umount", "truncate")
    if os.geteuid() or not all(map(shutil.which, needed)):
        pytest.skip("quotas are tried on btrfs, by root (Debian package btrfs-progs)")
    image, place = tmp_path / "image", tmp_path / "btrfs"
    place.mkdir()
    steps = (
        ["truncate", "-s", "1G", image],
        ["mkfs.btrfs", "-q", image],
        ["mount", "-o", "loop", image, place],
        ["btrfs", "quota", "enable", place],
        ["btrfs", "subvolume", "create", place / "folder"],
    )
    try:
        for step in steps:
            done = subprocess.run([*map(str, step)], check=False, capture_output=True)
            if done.returncode:
                pytest.skip(f"{step[0]} is not allowed here")
        yield place / "folder"
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)


def limit(folder: Path, n_bytes: int | str) -> None:
    """Let no more than so many bytes be in a folder."""
    subprocess.run(["btrfs", "qgroup", "limit", str(n_bytes), str(folder)], check=True)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_quota_that_is_used_up(
    tiny: Path, with_quota: Path, tmp_path: Path, mpipipe: Mpipipe, share: float
) -> None:
    whole = mpipipe("run", "-q", tiny, "-o", tmp_path / "whole", root=tmp_path / "whole")
    assert whole.code == 0, whole.err
    files = [path for path in whole.root.rglob("*") if path.is_file()]
    n_bytes = 512 * sum(path.stat().st_blocks for path in files)
    limit(with_quota, int(share * n_bytes))
    root = with_quota / "run"
    full = mpipipe("run", "-q", tiny, "-o", root)
    assert full.code in (1, 3), full.err
    said = full.err + "".join(path.read_text() for path in root.glob("outcomes.json"))
    assert "quota exceeded" in said and "Traceback" not in full.err, said
    assert not list(with_quota.rglob("*.part"))
    limit(with_quota, "none")
    if (root / "plan.columns").exists():
        done = mpipipe("run", "-q", "--resume", root, root=root)
    else:
        done = mpipipe("run", "-q", tiny, "-o", root, root=root)
    assert done.code == 0, done.err
    assert done.digest == whole.digest
