"""What a product follows from, as the rows of its table PROVENANCE: names to values.

- ``task``: what made it;
- ``input NAME``, ``master KIND``, ``reference SHARD``: SHA-256 of what was read;
- ``option KEY``: every option that can change it, as TOML has it;
- ``code PART``, ``camera``, ``version LIBRARY``: SHA-256 of mpipipe's modules and of the camera's
  description, versions.

Nothing here tells when, where, or in which attempt a product was made: that would make another file
of it each time. It stands in the run's own record, under the product's checksum.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from mpipipe.data.exposure import Masters
from mpipipe.run.basis import Basis
from mpipipe.run.context import RunContext, TaskResultTables
from mpipipe.run.task import Task, full_label_of

Origin = dict[str, dict[str, object]]
"""Of a table: part of the basis to names and values."""

_OF_SOURCES = ("code sources", "configuration sources", "option ic.", "option sfm.", "reference ")
"""How rows begin that tell of the sources of an image, not of the image."""


def origin_of(task: Task, basis: Basis, part: str) -> dict[str, str]:
    """Task, options, code, camera and versions behind one of `mpipipe.run.basis.PARTS`."""
    facts = basis.parts[part]
    label = full_label_of(task.phase, task.visit, task.ccd, task.band)
    rows = {"task": label, "camera": str(facts["camera"])}
    rows[f"code {part}"] = str(facts["code"])
    rows[f"configuration {part}"] = basis.options_digest(part)
    for name, value in facts.items():
        if name.startswith("version "):
            rows[name] = str(value)
        elif name.startswith("option "):
            rows[name] = json.dumps(value, sort_keys=True)
    return rows


def origin_of_masters(masters: Masters) -> dict[str, str]:
    """Checksums of the masters that were used."""
    return {f"master {kind}": digest for kind, digest in masters.checksums.items()}


def origin_of_sources(task: Task, context: RunContext, result: TaskResultTables) -> dict[str, str]:
    """What the sources of an image follow from besides it."""
    rows = origin_of(task, context.basis, "sources")
    if context.refcat is not None:
        for path, digest in result.inputs.items():
            if Path(path).is_relative_to(context.refcat):
                rows[f"reference {Path(path).relative_to(context.refcat).as_posix()}"] = digest
    return rows


def without_sources(rows: Mapping[str, str]) -> dict[str, str]:
    """The rows that tell of an image, of those of a calexp."""
    return {name: value for name, value in rows.items() if not name.startswith(_OF_SOURCES)}


def origin_of_table(basis: Basis, parts: tuple[str, ...], *, is_forced: bool = False) -> Origin:
    """What the rows of a published table follow from besides the files that tasks have read.

    Parameters
    ----------
    is_forced
        Whether it is of measurements at given positions: no other table follows from those.
    """
    left_out = ("folder of the ",) if is_forced else ("folder of the ", "catalogue of positions")
    return {
        part: {
            name: value
            for name, value in basis.parts[part].items()
            if not name.startswith(left_out)
        }
        for part in parts
    }
