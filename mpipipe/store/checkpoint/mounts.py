"""Whether several processes may write one file in a folder: what kind of file system it is on."""

from __future__ import annotations

import os
import re
from pathlib import Path

_SEPARATE = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "vboxsf", "virtiofs", "fuse.sshfs"}
)
"""File systems whose clients cache pages each for itself, so that neighbours' bytes get lost."""

_ESCAPED = re.compile(r"\\([0-7]{3})")


def file_system_of(folder: Path, table: Path = Path("/proc/self/mountinfo")) -> str:
    """The type of the file system that holds a folder, e.g. ``ext4``; empty if unknown."""
    try:
        lines = table.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    wanted = os.path.realpath(folder)
    best, found = -1, ""
    for line in lines:
        fields, _, rest = line.partition(" - ")
        parts = fields.split(" ")
        if len(parts) < 5 or not rest:
            continue
        place = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), parts[4])
        inside = wanted == place or wanted.startswith(place.rstrip("/") + "/")
        # Of mounts at the same place the last one is what is seen.
        if inside and len(place) >= best:
            best, found = len(place), rest.split(" ")[0]
    return found


def allows_shared_files(folder: Path) -> bool:
    """Whether the ranks may write one file there together."""
    return file_system_of(folder) not in _SEPARATE
