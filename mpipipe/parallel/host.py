"""What this host has for its ranks: memory."""

from __future__ import annotations

import contextlib
import os
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
    with contextlib.suppress(OSError, StopIteration):
        name = next(x for x in cgroup.read_text().splitlines() if x.startswith("0::"))[3:]
        folder = cgroups / name.strip("/")
        for place in (folder, *folder.parents):
            with contextlib.suppress(OSError, ValueError):
                found.append(float((place / "memory.max").read_text()))
            if place == cgroups:
                break
    with contextlib.suppress(KeyError, ValueError):
        megabytes = float(os.environ["SLURM_MEM_PER_NODE"])
        if megabytes > 0:  # 0 asks for all there is
            found.append(megabytes * (1 << 20))
    return min(found)
