"""How the numbers of scorecards and benchmarks went, as one page of HTML."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from mpipipe.data.errors import BadDataError
from mpipipe.quality.page.html import anchor
from mpipipe.quality.page.style import STYLE
from mpipipe.quality.page.svg import OTHER, Chart, number

MOST_SHOWN = 60
"""Entries of a set that are drawn: the newest."""


def entry(set_name: str, time: str, version: str, card: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the history.

    Parameters
    ----------
    set_name
        The reference set.
    time, version
        Of the scorecard and of the code; text.
    card
        The scorecard's JSON.
    """
    return {
        "set": set_name,
        "time": time,
        "version": version,
        "counts": dict(card["counts"]),
        "metrics": {
            one["name"]: [one["value"], one["low"], one["high"], one["verdict"]]
            for one in card["metrics"]
        },
    }


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Add a line to a history; one that was cut in the middle stays alone on its own line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(line, allow_nan=False) + "\n"
    if path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
        text = "\n" + text
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(text)


def read_history(path: Path) -> list[dict[str, Any]]:
    """The lines of a history that can be read, in order.

    Raises
    ------
    BadDataError
        If there is none.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise BadDataError(f"can not be read: {error.strerror}", file=path) from error
    found = []
    for line in lines:
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if isinstance(content, dict) and {"set", "time", "version", "metrics"} <= content.keys():
            found.append(content)
    return found


def trend_page(history: Sequence[Mapping[str, Any]], what: str = "scorecards") -> str:
    """A chart for every number of every set, oldest to the left; `what` the history is of."""
    sets = list(dict.fromkeys(str(line["set"]) for line in history))
    links = " ".join(f'<a href="#s-{anchor(name)}">{escape(name)}</a>' for name in sets)
    sections = "".join(
        _section(name, [line for line in history if line["set"] == name], what) for name in sets
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Trend of {what}</title><style>{STYLE}</style></head>\n"
        f"<body><header><h1>Trend of {what}</h1></header><nav>{links}</nav>"
        f"{sections or '<p>The history is empty.</p>'}</body></html>\n"
    )


def _section(name: str, lines: list[Mapping[str, Any]], what: str) -> str:
    lines = lines[-MOST_SHOWN:]
    newest = lines[-1]
    told = (
        f"{len(lines)} {what}, the newest of {newest['time']}, version {newest['version']}: "
        + ", ".join(f"{n} {kind}" for kind, n in newest.get("counts", {}).items())
    )
    charts = []
    for metric in newest["metrics"]:
        rows = [line["metrics"].get(metric, [None] * 4) for line in lines]
        value, low, high = (
            np.array([math.nan if row[k] is None else float(row[k]) for row in rows])
            for k in range(3)
        )
        if not np.isfinite(value).any():
            continue
        charts.append(_chart(metric, value, low, high, str(rows[-1][3])))
    return (
        f'<section id="s-{anchor(name)}"><h2>{escape(name)}</h2><p>{escape(told)}</p>'
        f'<div class="grid small">{"".join(charts)}</div></section>'
    )


def _chart(metric: str, value: np.ndarray, low: np.ndarray, high: np.ndarray, verdict: str) -> str:
    ends = np.concatenate([value, low, high])
    ends = ends[np.isfinite(ends)]
    margin = 0.1 * float(np.ptp(ends)) or 0.05 * abs(float(ends[0])) or 1.0
    number_of = np.arange(1.0, len(value) + 1)
    chart = Chart(
        (0.5, len(value) + 0.5), (float(ends.min()) - margin, float(ends.max()) + margin),
        "scorecard", "",
    )  # fmt: skip
    for k in np.flatnonzero(np.isfinite(low + high)).tolist():
        chart.line(np.full(2, number_of[k]), np.array([low[k], high[k]]), "#a9c3dc")
    chart.line(number_of, value, OTHER)
    chart.dots(number_of, value, OTHER, "", 3.0, 1.0)
    last = value[np.isfinite(value)][-1]
    kind = "missed" if verdict == "missed" else "reported"
    return (
        f"<figure><h3>{escape(metric)}</h3>{chart.svg(metric)}<figcaption>{number(float(last))} "
        f'<span class="chip {kind}">{escape(verdict)}</span></figcaption></figure>'
    )
