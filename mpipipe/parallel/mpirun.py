"""Starting ranks from outside: programs of this Python under mpirun, in a session of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mpipipe.data.errors import ConfigError, MpipipeError

_ROOT = Path(__file__).resolve().parents[2]
_WAIT_S = 5.0


def mpirun() -> str | None:
    """The mpirun that belongs to this Python, or the one on the path."""
    own = Path(sys.executable).with_name("mpirun")
    return str(own) if own.exists() else shutil.which("mpirun")


def start_words(n_ranks: int, template: str = "") -> list[str]:
    """The beginning of a command on so many ranks.

    Parameters
    ----------
    template
        A command with ``{ranks}`` in it, e.g. ``srun -n {ranks}``; empty for mpirun.

    Raises
    ------
    ConfigError
        If there is no mpirun, or the template has no ``{ranks}``.
    """
    if template:
        words = template.split()
        if not any("{ranks}" in word for word in words):
            raise ConfigError(f"{template!r} has no {{ranks}} in it", key="--launcher")
        return [word.replace("{ranks}", str(n_ranks)) for word in words]
    found = mpirun()
    if found is None:
        raise ConfigError("finds no mpirun", way_out="tools/setup installs one; or --launcher")
    return [found, "-n", str(n_ranks)]


def rank_environment() -> dict[str, str]:
    """One thread a rank, more ranks than cores, root: everything allowed; this code."""
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    found = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    found.setdefault("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe")
    for prefix in ("OMPI", "PRTE"):
        found[f"{prefix}_ALLOW_RUN_AS_ROOT"] = "1"
        found[f"{prefix}_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
    return found


def run_to_end(
    command: Sequence[str],
    seconds: float,
    environment: Mapping[str, str] | None = None,
    fine: Sequence[int] = (0,),
) -> str:
    """Run a command; what it printed.

    Parameters
    ----------
    seconds
        That it may take.
    environment
        Its; None: that of ranks.
    fine
        Codes that it may end with.

    Raises
    ------
    ConfigError
        If there is no such command.
    MpipipeError
        If it fails or does not end in time; nothing of it is left running, then or when this is
        interrupted.
    """
    with _session(command, environment) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise MpipipeError(f"{' '.join(command)}: did not end in {seconds:g} s") from None
    if process.returncode not in fine:
        last = "\n".join(err.strip().splitlines()[-12:])
        raise MpipipeError(f"{' '.join(command)}: ended with {process.returncode}: {last}")
    return out


@contextlib.contextmanager
def _session(
    command: Sequence[str], environment: Mapping[str, str] | None
) -> Iterator[subprocess.Popen[str]]:
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=dict(environment or rank_environment()),
        )
    except OSError as error:
        raise ConfigError(f"{command[0]!r} can not be started: {error.strerror}") from error
    try:
        yield process
    finally:
        try:
            # A launcher has ranks elsewhere, too, that it alone can end.
            if process.poll() is None:
                process.terminate()
                _wait(process)
        finally:
            end_session(process.pid)
            _wait(process)


def _wait(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired, ValueError):
        process.communicate(timeout=_WAIT_S)


def end_session(session: int) -> None:
    """Kill what is left of a session that we started; ranks lead process groups of their own."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if int((process / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                os.kill(int(process.name), signal.SIGKILL)
        except (OSError, IndexError):
            continue  # it ended meanwhile
