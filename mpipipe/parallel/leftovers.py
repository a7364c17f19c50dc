"""What killed runs leave behind in shared memory and temporary folders, and how to remove it.

Only what is our own: owned by this user, made by Open MPI, and in use by no living process.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
_SEGMENT = re.compile(r"sm_segment\.(?P<host>.+)\.(?P<uid>\d+)\.(?P<job>[0-9a-f]+)\.(?P<rank>\d+)")
_LAUNCHER = re.compile(r"(ompi|prte|pmix)\.(?P<pid>\d+)")
_YOUNG_S = 3.0


def remove(shared_memory: Path = SHARED_MEMORY, temporary: Path | None = None) -> list[Path]:
    """Remove what earlier runs of this user left; those that go on keep theirs.

    Returns
    -------
    list of Path
        What was removed.
    """
    found = [path for path in segments(shared_memory) if _age(path) > _YOUNG_S]
    if found:
        used = _mapped_by_living()
        found = [path for path in found if str(path) not in used]
    folders = list(launcher_folders(temporary or Path(tempfile.gettempdir())))
    removed = []
    for path in found:
        with contextlib.suppress(OSError):
            path.unlink()
            removed.append(path)
    for path in folders:
        shutil.rmtree(path, ignore_errors=True)
        removed.append(path)
    return removed


def segments(folder: Path = SHARED_MEMORY) -> Iterator[Path]:
    """Shared-memory segments of this user's MPI processes, living and dead."""
    for path in _listed(folder):
        match = _SEGMENT.fullmatch(path.name)
        if match and int(match["uid"]) == os.geteuid() and _is_own(path):
            yield path


def launcher_folders(folder: Path) -> Iterator[Path]:
    """Temporary folders of this user's launchers that are dead."""
    for path in _listed(folder):
        match = _LAUNCHER.fullmatch(path.name)
        if match and _is_own(path) and not Path(f"/proc/{match['pid']}").exists():
            yield path


def remove_segments_of_lost(living: Iterable[int]) -> None:
    """Remove the segments of this job's ranks that have died; MPI removes those of the living.

    Parameters
    ----------
    living
        Ranks of the job's COMM_WORLD.
    """
    alive = set(living)
    for name in _mapped(os.getpid()):
        match = _SEGMENT.fullmatch(Path(name).name)
        if match and int(match["rank"]) not in alive:
            with contextlib.suppress(OSError):
                os.unlink(name)


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _is_own(path: Path) -> bool:
    try:
        return path.lstat().st_uid == os.geteuid() and not path.is_symlink()
    except OSError:
        return False


def _age(path: Path) -> float:
    try:
        return time.time() - path.lstat().st_mtime
    except OSError:
        return 0.0


def _mapped(pid: int | str) -> set[str]:
    """The segments that a process has mapped."""
    found = set()
    with contextlib.suppress(OSError), open(f"/proc/{pid}/maps", errors="replace") as lines:
        for line in lines:
            if "/sm_segment." in line:
                found.add(line[line.index("/") :].removesuffix("\n").removesuffix(" (deleted)"))
    return found


def _mapped_by_living() -> set[str]:
    found: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        found |= _mapped(process.name)
    return found
