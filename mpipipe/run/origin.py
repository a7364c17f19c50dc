"""What a product follows from, as the rows of its table PROVENANCE: names to values.

- ``task``: what made it;
- ``input NAME``, ``master KIND``, ``reference SHARD``, ``position SHARD``: SHA-256 of what was
  read;
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
from mpipipe.run.task import Task

_OF_SOURCES = ("code sources", "configuration sources", "option ic.", "option sfm.", "reference ",
               "position ")  # fmt: skip
"""How rows begin that tell of the sources of an image, not of the image."""


def origin_of(task: Task, basis: Basis, part: str) -> dict[str, str]:
    """Task, options, code, camera and versions behind one of `mpipipe.run.basis.PARTS`."""
    facts = basis.parts[part]
    label = task.label if task.visit < 0 else f"{task.phase} {task.label}"
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
    for word, folder in (("reference", context.refcat), ("position", context.forced)):
        if folder is None:
            continue
        for path, digest in result.inputs.items():
            if Path(path).is_relative_to(folder):
                rows[f"{word} {Path(path).relative_to(folder).as_posix()}"] = digest
    return rows


def without_sources(rows: Mapping[str, str]) -> dict[str, str]:
    """The rows that tell of an image, of those of a calexp."""
    return {name: value for name, value in rows.items() if not name.startswith(_OF_SOURCES)}


def origin_of_tables(basis: Basis, parts: tuple[str, ...]) -> dict[str, dict[str, object]]:
    """What the rows of a published table follow from besides the files that tasks have read."""
    return {
        part: {
            name: value
            for name, value in basis.parts[part].items()
            if not name.startswith("folder of the ")
        }
        for part in parts
    }
