"""What benchmarks of the parallel core share: running a program of their own under mpirun."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]


def launcher() -> str | None:
    """The mpirun that belongs to this Python, or the one on the path."""
    own = Path(sys.executable).with_name("mpirun")
    return str(own) if own.exists() else shutil.which("mpirun")


def environment() -> dict[str, str]:
    """One thread a rank, more ranks than cores, root: everything allowed."""
    found = os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    found.setdefault("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe")
    for prefix in ("OMPI", "PRTE"):
        found[f"{prefix}_ALLOW_RUN_AS_ROOT"] = "1"
        found[f"{prefix}_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
    return found


def run_ranks(ranks: int, arguments: Sequence[object], seconds: float) -> Any:
    """Run Python with these arguments on ranks; what the last line of output says, as JSON.

    Raises
    ------
    RuntimeError
        If it fails or does not end in time; nothing of it is left running.
    """
    command = [str(launcher()), "-n", str(ranks), sys.executable, *map(str, arguments)]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment(),
    ) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            end_session(process.pid)
            raise RuntimeError(f"{command} did not end in {seconds} s") from None
        finally:
            end_session(process.pid)
    if process.returncode or not out.strip():
        raise RuntimeError(f"{command} ended with {process.returncode}: {err[-2000:]}")
    return json.loads(out.strip().splitlines()[-1])


def end_session(session: int) -> None:
    """Kill what is left of a session that we started; ranks lead process groups of their own."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if int((process / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                os.kill(int(process.name), signal.SIGKILL)
        except (OSError, IndexError):
            continue  # it ended meanwhile
