"""A graph of `mpipipe.run.lineage` as text, JSON, W3C PROV (PROV-JSON) or Graphviz (DOT)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mpipipe.run.incarnation import Incarnation
from mpipipe.run.lineage import Lineage, Source, Step

_SHOWN = 6
"""Files of one kind that the text names."""


def as_text(lineage: Lineage, steps: Sequence[Step]) -> str:
    """A paragraph a task."""
    lines: list[str] = []
    for step in steps:
        where = f" on {step.host}" if step.host else ""
        lines.append(
            f"{step.name}: {step.outcome}, {_time(step.ended)}, rank {step.rank}{where}, attempt "
            f"{step.attempt} of incarnation {step.incarnation}, {step.wall_s:.1f} s"
        )
        lines += [f"  made  {p.sha256[:12]}  {p.path}" for p in step.products]
        lines += [f"  used  {m.sha256[:12]}  master {m.path}" for m in step.masters]
        lines += _some([f"  read  {s.sha256[:12]}  {s.path}" for s in step.inputs])
    for number in sorted({step.incarnation for step in steps}):
        lines += _incarnation_lines(lineage.incarnation(number))
    return "\n".join(lines)


def _some(lines: list[str]) -> list[str]:
    if len(lines) <= _SHOWN + 1:
        return lines
    return [*lines[:_SHOWN], f"  read  and {len(lines) - _SHOWN} more files (--to json lists all)"]


def _incarnation_lines(found: Incarnation) -> Iterator[str]:
    user = f" by {found.user}" if found.user else ""
    yield f"incarnation {found.number}: started {found.started}{user}, {len(found.hosts)} ranks"
    if found.describe:
        changed = ", with changes (kept in its record)" if found.is_dirty else ""
        yield f"  code {found.describe}{changed}"
    if found.basis is not None:
        facts = found.basis.parts["image"]
        versions = [f"{name.removeprefix('version ')} {value}"
                    for name, value in facts.items() if name.startswith("version ")]  # fmt: skip
        yield f"  {', '.join(versions)}"


def as_json(lineage: Lineage, steps: Sequence[Step]) -> str:
    """Everything, as JSON."""
    numbers = sorted({step.incarnation for step in steps})
    content = {
        "steps": [asdict(step) for step in steps],
        "incarnations": [_incarnation_facts(lineage.incarnation(number)) for number in numbers],
    }
    return json.dumps(content, indent=1)


def _incarnation_facts(found: Incarnation) -> dict[str, Any]:
    return {
        "incarnation": found.number,
        "started": found.started,
        "user": found.user,
        "hosts": found.hosts,
        "command": found.command,
        "code": found.describe,
        "code_has_changes": found.is_dirty,
        "environment": found.environment,
        "basis": None if found.basis is None else found.basis.parts,
    }


def as_prov(lineage: Lineage, steps: Sequence[Step]) -> str:
    """PROV-JSON: files are entities, tasks activities, mpipipe and the user agents.

    References
    ----------
    W3C PROV-DM (2013); the JSON serialization is the W3C member submission of 2013-04-24.
    """
    document: dict[str, dict[str, Any]] = {
        name: {}
        for name in ("entity", "activity", "agent", "used", "wasGeneratedBy", "wasAssociatedWith")
    }
    document["prefix"] = {"mpipipe": "urn:mpipipe:", "sha256": "urn:hash:sha256:"}
    for step in steps:
        activity = f"mpipipe:run/{step.incarnation}/task/{step.task}/attempt/{step.attempt}"
        document["activity"][activity] = {
            "prov:startTime": _time(step.ended - step.wall_s),
            "prov:endTime": _time(step.ended),
            "prov:label": step.name,
            "mpipipe:outcome": step.outcome,
            "mpipipe:rank": step.rank,
            "mpipipe:host": step.host,
        }
        for product in step.products:
            entity = _entity(document, Source(product.path, product.sha256), product.kind)
            _relate(document, "wasGeneratedBy", activity, entity)
        for source, kind in ((s, k) for k in ("input", "master") for s in _sources(step, k)):
            _relate(document, "used", activity, _entity(document, source, kind))
        agent = _agent(document, lineage.incarnation(step.incarnation))
        number = len(document["wasAssociatedWith"])
        document["wasAssociatedWith"][f"_:a{number}"] = {
            "prov:activity": activity,
            "prov:agent": agent,
        }
    return json.dumps(document, indent=1)


def _sources(step: Step, kind: str) -> tuple[Source, ...]:
    return step.inputs if kind == "input" else step.masters


def _entity(document: dict[str, dict[str, Any]], source: Source, kind: str) -> str:
    name = f"sha256:{source.sha256}"
    # A master is known by its path where the step that made it is told of, too.
    known = document["entity"].get(name)
    if known is None or kind not in ("input", "master"):
        document["entity"][name] = {"prov:label": source.path, "prov:type": f"mpipipe:{kind}"}
    return name


def _relate(document: dict[str, dict[str, Any]], how: str, activity: str, entity: str) -> None:
    number = len(document[how])
    document[how][f"_:{how[0]}{number}"] = {"prov:activity": activity, "prov:entity": entity}


def _agent(document: dict[str, dict[str, Any]], found: Incarnation) -> str:
    name = f"mpipipe:incarnation/{found.number}"
    version = found.environment.get("mpipipe", "")
    document["agent"][name] = {
        "prov:type": "prov:SoftwareAgent",
        "prov:label": f"mpipipe {found.describe or version}",
        "mpipipe:user": found.user,
        "mpipipe:started": found.started,
    }
    return name


def as_graph(lineage: Lineage, steps: Sequence[Step]) -> str:
    """DOT: boxes are files, ellipses tasks; ``dot -Tsvg`` draws it."""
    nodes: dict[str, str] = {}
    arrows: list[tuple[str, str]] = []
    for step in steps:
        task = f"t{step.task}"
        nodes[task] = f"label={_quoted(step.name)}, shape=ellipse"
        for product in step.products:
            nodes[product.sha256] = f"label={_quoted(product.path)}, shape=box"
            arrows.append((task, product.sha256))
        for source in (*step.inputs, *step.masters):
            nodes.setdefault(source.sha256, f"label={_quoted(Path(source.path).name)}, shape=box")
            arrows.append((source.sha256, task))
    lines = [f"  {_quoted(name)} [{how}];" for name, how in nodes.items()]
    lines += [f"  {_quoted(a)} -> {_quoted(b)};" for a, b in dict.fromkeys(arrows)]
    return "\n".join(["digraph provenance {", "  rankdir=LR;", *lines, "}"])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _time(seconds: float) -> str:
    if seconds <= 0:
        return "at an unknown time"
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


FORMATS: Mapping[str, Callable[[Lineage, Sequence[Step]], str]] = {
    "text": as_text,
    "json": as_json,
    "prov": as_prov,
    "graph": as_graph,
}
