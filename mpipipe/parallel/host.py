"""What this host has for its ranks: memory and cores."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")


def memory_bytes(
    meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP, cgroups: Path = _CGROUPS
) -> float:
    """Memory that the processes of this user's job may take together on this host.

    The least of what there is, what control groups (version 2; batch systems and containers set
    them) allow, and what Slurm has promised. Infinite if nothing is known.
    """
    found = [float("inf")]
    with contextlib.suppress(OSError, ValueError, IndexError, StopIteration):
        line = next(x for x in meminfo.read_text().splitlines() if x.startswith("MemTotal:"))
        found.append(float(line.split()[1]) * 1024)
    for folder in _folders(cgroup, cgroups):
        with contextlib.suppress(OSError, ValueError):
            found.append(float((folder / "memory.max").read_text()))
    with contextlib.suppress(KeyError, ValueError):
        megabytes = float(os.environ["SLURM_MEM_PER_NODE"])
        if megabytes > 0:  # 0 asks for all there is
            found.append(megabytes * (1 << 20))
    return min(found)


def cores(cgroup: Path = _CGROUP, cgroups: Path = _CGROUPS) -> int:
    """Cores that this process may keep busy: those it may run on, or what control groups allow.

    At least 1; a share of a core counts as one.
    """
    if hasattr(os, "sched_getaffinity"):
        found = float(len(os.sched_getaffinity(0)))
    else:
        found = float(os.cpu_count() or 1)
    for folder in _folders(cgroup, cgroups):
        with contextlib.suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text().split()
            found = min(found, float(quota) / float(period))  # "max": no limit
    return max(round(found), 1)


def _folders(cgroup: Path, cgroups: Path) -> Iterator[Path]:
    """The control groups (version 2) of this process, the innermost first."""
    try:
        lines = cgroup.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if line.startswith("0::"):
            folder = cgroups / line[3:].strip("/")
            for place in (folder, *folder.parents):
                yield place
                if place == cgroups:
                    return
