"""A PostgreSQL server of a test's own: made, started, stopped and removed by it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def find_server() -> Path | None:
    """The folder with initdb and postgres of the newest server that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_version)
    if found:
        return found[-1].parent
    elsewhere = shutil.which("initdb")
    return None if elsewhere is None else Path(elsewhere).resolve().parent


def _version(path: Path) -> int:
    name = path.parents[1].name
    return int(name) if name.isdigit() else 0


@contextmanager
def running(binaries: Path) -> Iterator[str]:
    """A server that listens on a socket in a folder of its own; gives the URL of its database.

    The server refuses to be root, so it is the user that its package has made.
    """
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0:
        as_user = {"user": "postgres", "group": "postgres", "extra_groups": []}
    folder = Path(tempfile.mkdtemp(prefix="mpipipe-pg-"))
    try:
        if as_user:
            shutil.chown(folder, "postgres", "postgres")
        data = folder / "data"
        command = [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N"]
        made = subprocess.run(
            [*command, "-E", "UTF8", "--locale=C"], cwd=folder, capture_output=True, **as_user
        )
        assert made.returncode == 0, made.stderr.decode()
        log = folder / "log"
        settings = ["listen_addresses=", f"unix_socket_directories={folder}", "fsync=off"]
        options = " ".join(f"-c {setting}" for setting in settings)
        control = [binaries / "pg_ctl", "-D", data, "-w", "-t", "60", "-l", log]
        started = subprocess.run(
            [*control, "-o", options, "start"],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **as_user,
        )  # fmt: skip
        assert started.returncode == 0, log.read_text() if log.exists() else "no log"
        try:
            yield f"postgresql://postgres@/postgres?host={folder}"
        finally:
            subprocess.run(
                [*control, "-m", "immediate", "stop"], cwd=folder, stdout=subprocess.DEVNULL,
                **as_user,
            )  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)
