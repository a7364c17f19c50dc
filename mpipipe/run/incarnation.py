"""The record of one start of a run: who, when, where, and with which code and libraries.

What changes the bits of products stands in its `Basis`; the rest is for people, and for making the
same environment again.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mpipipe import __version__, jit_cache
from mpipipe.data.errors import BadDataError
from mpipipe.run.basis import Basis
from mpipipe.store.checksums import read_json, write_json_atomically
from mpipipe.store.code_state import CodeState, environment
from mpipipe.store.layout import RunLayout


def write_incarnation(
    layout: RunLayout,
    number: int,
    hosts: Sequence[str],
    basis: Basis,
    code: CodeState | None,
) -> None:
    """Write the record.

    Parameters
    ----------
    hosts
        Where each rank runs.
    code
        None if nobody has looked.

    Raises
    ------
    OutputError
        If it can not be written.
    """
    state = code or CodeState()
    facts = {
        "incarnation": number,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": sys.argv,
        "ranks": len(hosts),
        "hosts": sorted(set(hosts)),
        "rank_hosts": list(hosts),
        "user": os.environ.get("USER", ""),
        "machine": platform.platform(),
        "cpu": jit_cache.cpu_key(),
        "mpipipe": __version__,
        "code": {"describe": state.describe, "diff": state.diff},
        "environment": {"python": platform.python_version()} | environment(),
        "basis": basis.parts,
    }
    write_json_atomically(layout.provenance(number), facts)


@dataclass(frozen=True)
class Incarnation:
    """What the record says; fields that an older record lacks are empty.

    Attributes
    ----------
    hosts
        By rank.
    cpu
        The type of CPU of rank 0's host, as `jit_cache.cpu_key` names it.
    environment
        Name to version of all that was installed, Python itself included.
    basis
        None if it can not be read.
    """

    number: int
    started: str
    user: str
    hosts: tuple[str, ...]
    command: tuple[str, ...]
    describe: str
    is_dirty: bool
    environment: dict[str, str]
    cpu: str
    basis: Basis | None


def read_incarnation(layout: RunLayout, number: int) -> Incarnation:
    """Read it back; what is missing or damaged is empty."""
    try:
        facts: Any = read_json(layout.provenance(number))
    except BadDataError:
        facts = {}
    if not isinstance(facts, dict):
        facts = {}
    code, installed = facts.get("code"), facts.get("environment")
    code = code if isinstance(code, dict) else {}
    return Incarnation(
        number,
        str(facts.get("started", "")),
        str(facts.get("user", "")),
        tuple(map(str, facts.get("rank_hosts") or facts.get("hosts") or ())),
        tuple(map(str, facts.get("command") or ())),
        str(code.get("describe", "")),
        bool(code.get("diff")),
        installed if isinstance(installed, dict) else {},
        str(facts.get("cpu", "")),
        Basis.from_json(facts.get("basis")),
    )
