"""Which state of mpipipe's code this is, as far as git can tell."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import mpipipe

_PATIENCE_S = 10.0
_MOST_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class CodeState:
    """A state of the code.

    Attributes
    ----------
    describe
        What ``git describe`` says; empty if the package is no checkout.
    diff
        How files differ from that commit; at most a million characters.
    """

    describe: str = ""
    diff: str = ""


def code_state() -> CodeState:
    """Look at the checkout that the package lies in. Starts git: not for processes with MPI."""
    root = Path(mpipipe.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return CodeState()
    describe = _git(root, "describe", "--always", "--long", "--dirty", "--tags").strip()
    diff = _git(root, "diff", "HEAD", "--no-color", "--no-ext-diff", "--", "mpipipe")
    return CodeState(describe, diff[:_MOST_CHARACTERS])


def _git(root: Path, *arguments: str) -> str:
    """What git prints; nothing where there is no git, or it refuses."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            timeout=_PATIENCE_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""


def environment() -> dict[str, str]:
    """Name to version of every installed distribution."""
    from importlib.metadata import distributions

    found = {}
    for one in distributions():
        name = one.metadata["Name"]
        if name and name not in found:  # the first on the path is the one in use
            found[name] = one.version
    return dict(sorted(found.items(), key=lambda pair: pair[0].lower()))
