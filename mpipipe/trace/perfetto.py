"""Events in the trace event format of Chrome, which ui.perfetto.dev opens.

References
----------
"Trace Event Format", Google, 2016: complete events (X), counters (C), metadata (M).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import numpy as np

_MICRO = 1e6


def as_trace(events: np.ndarray) -> Iterator[str]:
    """The JSON document, piece by piece.

    A rank is a process of the trace; its MPI process and each of its task processes are threads.

    Parameters
    ----------
    events
        Rows of `mpipipe.trace.eventfile.EVENTS`.
    """
    origin = float(events["start"].min()) if len(events) else 0.0
    yield '{"displayTimeUnit": "ms", "traceEvents": [\n'
    pieces = [*_names(events)]
    yield ",\n".join(map(json.dumps, pieces))
    for row in events:
        yield ",\n" + json.dumps(_event(row, origin))
    yield "\n]}\n"


def _names(events: np.ndarray) -> Iterator[dict[str, object]]:
    for rank in np.unique(events["rank"]).tolist():
        yield {"ph": "M", "name": "process_name", "pid": rank, "tid": 0,
               "args": {"name": f"rank {rank}"}}  # fmt: skip
        mine = events[events["rank"] == rank]
        ran = set(np.unique(mine["process"][mine["kind"] == b"task"]).tolist())
        for process in np.unique(mine["process"]).tolist():
            name = "task process" if process in ran else "MPI process"
            yield {"ph": "M", "name": "thread_name", "pid": rank, "tid": process,
                   "args": {"name": f"{name} {process}"}}  # fmt: skip


def _event(row: np.void, origin: float) -> dict[str, object]:
    name = row["name"].decode("utf-8", "replace")
    where = {"pid": int(row["rank"]), "tid": int(row["process"])}
    start = round((float(row["start"]) - origin) * _MICRO, 3)
    if row["kind"] == b"sample":
        value = {name: int(row["nBytes"])}
        # Counters are told apart by process and name alone.
        track = f"{name}, process {int(row['process'])}"
        return {"ph": "C", "name": track, "ts": start, **where, "args": value}
    facts: dict[str, object] = {}
    if row["task"] >= 0:
        facts["task"] = int(row["task"])
    for key, value_of in (("bytes", "nBytes"), ("page faults", "nFaults")):
        if row[value_of]:
            facts[key] = int(row[value_of])
    if math.isfinite(float(row["cpu"])):
        facts["CPU s"] = round(float(row["cpu"]), 6)
    duration = round(float(row["duration"]) * _MICRO, 3)
    kind = row["kind"].decode()
    return {"ph": "X", "name": name, "cat": kind, "ts": start, "dur": duration, **where,
            "args": facts}  # fmt: skip
