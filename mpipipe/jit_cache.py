"""Where compiled kernels are kept: a folder keyed by CPU type and code, outside the package.

Clusters share home directories between machines of different CPUs; kernels compiled for one may
use instructions that another lacks, so each type has a cache of its own. A kernel holds the code of
the kernels it calls, but numba compiles it again only when its own file changes: with one folder
for all versions, a kernel would go on with what its callee used to be. So each state of the files
with kernels has a folder, too. `NUMBA_CACHE_DIR`, when set by the user, is left alone. Imported
with the package: only builtin modules here.
"""

from __future__ import annotations

import os
import zlib


def cpu_key() -> str:
    """A short name of this CPU type: architecture and a checksum of model and features."""
    lines = set()
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as stream:
            for line in stream:
                if line.startswith(("model name", "flags", "Features", "CPU part")):
                    lines.add(line.strip())
                elif not line.strip():
                    break  # the first core stands for all
    except OSError:
        pass
    return f"{os.uname().machine}-{zlib.crc32(chr(10).join(sorted(lines)).encode()):08x}"


def code_key(package: str = os.path.dirname(__file__)) -> str:
    """A checksum of all files of the package that hold kernels."""
    key = 0
    for folder, subfolders, names in os.walk(package):
        subfolders.sort()
        for name in sorted(names):
            if not name.endswith(".py"):
                continue
            with open(os.path.join(folder, name), "rb") as stream:
                content = stream.read()
            if b"njit" in content:
                place = os.path.relpath(os.path.join(folder, name), package)
                key = zlib.crc32(content, zlib.crc32(place.encode(), key))
    return f"{key:08x}"


def _is_usable(folder: str) -> bool:
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def configure() -> str:
    """Point numba at the cache of this CPU type and code; must run before numba is imported.

    Returns
    -------
    str
        The folder in force.
    """
    if "NUMBA_CACHE_DIR" in os.environ:
        return os.environ["NUMBA_CACHE_DIR"]
    home_cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    temporary = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"mpipipe-numba-{os.getuid()}")
    for base in (os.path.join(home_cache, "mpipipe", "numba"), temporary):
        folder = os.path.join(base, cpu_key(), code_key())
        if _is_usable(folder):
            os.environ["NUMBA_CACHE_DIR"] = folder
            return folder
    return ""
