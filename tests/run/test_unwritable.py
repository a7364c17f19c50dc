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
    subprocess.run(["umount", "-l", str(folder / "disk")], check=False, capture_output=True)
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


def test_a_quota_that_is_used_up(public: Path) -> None:
    disk = public / "disk"
    disk.mkdir()
    whole = as_nobody(public, "run", "-q", public / "raw", "-o", public / "cache" / "whole")
    assert whole.code == 0, whole.err
    n_bytes = 512 * sum(p.stat().st_blocks for p in (public / "cache" / "whole").rglob("*"))
    options = f"size=1g,mode=777,usrquota,usrquota_block_hardlimit={n_bytes // 2 // 4096 * 4096}"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no quotas here")
    full = as_nobody(public, "run", "-q", public / "raw", "-o", disk / "run")
    said = full.err + "".join(p.read_text() for p in disk.glob("run/outcomes.json"))
    assert full.code in (1, 3), full.err
    assert "quota" in said.lower() and "Traceback" not in full.err
    assert not list(disk.rglob("*.part"))
    # Root has no quota: what it does stands for a quota that was raised.
    done = subprocess.run(
        [sys.executable, "-m", "mpipipe", "run", "-q", "--resume", str(disk / "run")],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    same = Result(0, "", "", disk / "run").digest
    assert same == Result(0, "", "", public / "cache" / "whole").digest
