"""Measured terms as a text file that Extra-P opens, to be modelled by others' tools, too.

References
----------
Extra-P, "File format documentation", section "Text file format": PARAMETER, POINTS, then for each
region a METRIC and one line DATA a point, its repeats.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpipipe.trace.model.observation import MEASURED, Observation

_METRIC = "time"


def as_extrap(observations: Sequence[Observation]) -> str:
    """Wall time and terms by ranks, and by tasks where their number differs, in seconds."""
    sizes = sorted({(one.n_ranks, one.n_tasks) for one in observations})
    with_tasks = len({n_tasks for _, n_tasks in sizes}) > 1
    points = [f"({p} {n})" if with_tasks else f"({p})" for p, n in sizes]
    lines = [
        "# mpipipe scaling export: seconds on the mean of ranks; ranks p"
        + ", tasks n" * with_tasks,
        "PARAMETER p n" if with_tasks else "PARAMETER p",
        "POINTS " + " ".join(points),
    ]
    for region in ("run", *(f"run->{term}" for term in MEASURED)):
        lines += ["", f"REGION {region}", f"METRIC {_METRIC}"]
        for size in sizes:
            same = [one for one in observations if (one.n_ranks, one.n_tasks) == size]
            term = region.removeprefix("run->")
            values = [one.wall_s if region == "run" else one.terms[term] for one in same]
            lines.append("DATA " + " ".join(f"{value:.9f}" for value in values))
    return "\n".join(lines) + "\n"
