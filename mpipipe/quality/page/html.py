"""The page: one file of HTML that needs nothing else, neither network nor script."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from mpipipe.quality.page.figures import Figure, figures
from mpipipe.quality.page.gallery import Worst, worst_ccds
from mpipipe.quality.page.style import STYLE
from mpipipe.quality.page.svg import number
from mpipipe.quality.scorecard.measured import MISSED, NOT_MEASURABLE, REPORTED, Measured
from mpipipe.quality.scorecard.metric import GROUPS
from mpipipe.quality.scorecard.night import night_log
from mpipipe.quality.scorecard.scoring import Scorecard

LINKED = 20
"""CCD-visits that a number links to: the worst."""
MOST_VISITS = 2000
"""Rows of the night log."""


def page(card: Scorecard) -> str:
    """The scorecard of a run as HTML."""
    name = card.data.layout.root.name
    log = night_log(card.data)
    drawn = figures(card)
    worst = worst_ccds(card)
    parts = [
        f"<header><h1>Scorecard of {escape(name)}</h1>{_summary(card, log)}</header>",
        _contents(card),
        _problems(card),
        *(_group(card, group) for group in GROUPS),
        _pictures(drawn),
        _night(log),
        _gallery(worst),
        _behind(card),
        _exposures(card, {(one.visit, one.ccd) for one in worst}),
        _definitions(card),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Scorecard of {escape(name)}</title><style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def anchor(text: str) -> str:
    """A name as an id: letters, digits, and what is allowed between them."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)


def _summary(card: Scorecard, log: list[dict[str, Any]]) -> str:
    e = card.data.exposures
    bands = ", ".join(card.data.bands) or "no band known"
    ccds = len(np.unique(e["ccd"]))
    what = f"{len(log):,} visits, {ccds:,} CCDs, {len(e):,} CCD-visits; {bands}"
    chips = "".join(
        f'<span class="chip {_class(kind)}">{n} {escape(kind)}</span>'
        for kind, n in card.counts.items()
        if n
    )
    missed = [one for one in card.measured if one.verdict == MISSED]
    told = ""
    if missed:
        links = ", ".join(
            f'<a href="#m-{anchor(one.name)}">{escape(one.title)}</a>' for one in missed
        )
        told = f"<p><b>Missed:</b> {links}</p>"
    return f"<p>{escape(what)}</p><p>{chips}</p>{told}"


def _class(verdict: str) -> str:
    known = {MISSED: "missed", REPORTED: "reported", NOT_MEASURABLE: "unknown", "minimum": "low"}
    return known.get(verdict, "met")


def _contents(card: Scorecard) -> str:
    groups = [group for group in GROUPS if any(m.group == group for m, _ in card.numbers)]
    links = [(f"g-{group}", group) for group in groups]
    links += [
        ("figures", "figures"), ("night", "night log"), ("gallery", "worst CCDs"),
        ("exposures", "CCD-visits"), ("definitions", "definitions"),
    ]  # fmt: skip
    return (
        "<nav>" + " ".join(f'<a href="#{key}">{escape(text)}</a>' for key, text in links) + "</nav>"
    )


def _problems(card: Scorecard) -> str:
    problems = list(dict.fromkeys(card.data.problems))
    if not problems:
        return ""
    shown = "".join(f"<li>{escape(text)}</li>" for text in problems[:20])
    more = f"<li>and {len(problems) - 20:,} more</li>" if len(problems) > 20 else ""
    return f'<section class="warn"><h2>Problems</h2><ul>{shown}{more}</ul></section>'


def _group(card: Scorecard, group: str) -> str:
    rows = []
    for metric, several in card.numbers:
        if metric.group == group:
            rows += [_row(metric.name, one) for one in several if one.verdict != NOT_MEASURABLE]
            rows += _unknown(metric.name, several)
    if not rows:
        return ""
    head = (
        "<thead><tr><th>what</th><th>value</th><th>required</th><th>verdict</th><th>sample</th>"
        "</tr></thead>"
    )
    return (
        f'<section id="g-{anchor(group)}"><h2>{escape(group[0].upper() + group[1:])}</h2>'
        f'<table class="numbers">{head}<tbody>{"".join(rows)}</tbody></table></section>'
    )


def _unknown(metric: str, several: Sequence[Measured]) -> list[str]:
    """A row for all numbers of a metric that the same thing keeps from being measured."""
    reasons: dict[str, list[Measured]] = {}
    for one in several:
        if one.verdict == NOT_MEASURABLE:
            reasons.setdefault(one.why or "no value", []).append(one)
    return [
        f'<tr id="m-{anchor(found[0].name)}" class="unknown"><td><a href="#d-{anchor(metric)}">'
        f"{escape('; '.join(one.title for one in found))}</a></td>"
        f'<td colspan="4">not measurable: {escape(why)}</td></tr>'
        for why, found in reasons.items()
    ]


def _row(metric: str, one: Measured) -> str:
    key = anchor(one.name)
    verdict = one.verdict
    title = f'<a href="#d-{anchor(metric)}">{escape(one.title)}</a>'
    value = f"<b>{number(one.value)}</b> {escape(one.unit)}"
    if len(one.ccds):
        value = f'<a href="#c-{key}" title="the CCDs behind it">{value}</a>'
    if math.isfinite(one.low + one.high) and one.low != one.high:
        value += f'<span class="range">{number(one.low)} … {number(one.high)}</span>'
    asked = ""
    if one.requirement is not None:
        asked = f"{escape(str(one.requirement))} <small>{escape(one.requirement.source)}</small>"
    doubt = ""
    if not one.is_certain:
        known = math.isfinite(one.low + one.high)
        why = "the interval reaches another level" if known else "there is no interval"
        doubt = f' <small title="{why}">?</small>'
    note = f'<span class="note">{escape(one.note)}</span>' if one.note else ""
    return (
        f'<tr id="m-{key}"><td>{title}{note}</td><td data-l="value">{value}</td>'
        f'<td data-l="required">{asked}</td>'
        f'<td data-l="verdict"><span class="chip {_class(verdict)}">{escape(verdict)}</span>{doubt}'
        f'</td><td data-l="sample">{one.n:,} {escape(one.of)}</td></tr>'
    )


def _pictures(drawn: list[Figure]) -> str:
    shown = "".join(
        f'<figure id="{anchor(one.key)}"><h3>{escape(one.title)}</h3>{one.svg}'
        f"<figcaption>{escape(one.caption)}</figcaption></figure>"
        for one in drawn
    )
    return f'<section id="figures"><h2>Figures</h2><div class="grid">{shown}</div></section>'


_LOG = (
    ("visit", "visit", 0), ("mjd", "MJD", 4), ("band", "band", 0), ("airmass", "airmass", 2),
    ("fwhm", "seeing, ″", 2), ("zero_point", "zero point", 3), ("transparency", "lost, mag", 3),
    ("sky", "sky, e⁻", 0), ("depth", "depth", 2), ("n_sources", "sources", 0),
)  # fmt: skip


def _night(log: list[dict[str, Any]]) -> str:
    if not log:
        return '<section id="night"><h2>Night log</h2><p>The run has no visit.</p></section>'
    head = "".join(f"<th>{escape(title)}</th>" for _, title, _ in _LOG) + "<th>flags</th>"
    rows = []
    for entry in log[:MOST_VISITS]:
        cells = "".join(f"<td>{_cell(entry[key], digits)}</td>" for key, _, digits in _LOG)
        mark = ' class="flagged"' if entry["flags"] else ""
        link = f"v-{entry['visit']}"
        rows.append(f'<tr id="{link}"{mark}>{cells}<td>{escape(entry["flags"])}</td></tr>')
    more = ""
    if len(log) > MOST_VISITS:
        more = f"<p>and {len(log) - MOST_VISITS:,} visits more</p>"
    return (
        '<section id="night"><h2>Night log</h2><div class="scroll"><table class="log"><thead><tr>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{more}</section>"
    )


def _cell(value: object, digits: int) -> str:
    if isinstance(value, float):
        return f"{value:.{digits}f}" if math.isfinite(value) else "–"
    return escape(str(value))


def _gallery(worst: list[Worst]) -> str:
    if not worst:
        return '<section id="gallery"><h2>Worst CCDs</h2><p>No CCD-visit stands out.</p></section>'
    shown = []
    for one in worst:
        picture = (
            f'<img src="{one.picture}" alt="calexp of visit {one.visit}, {escape(one.ccd)}">'
            if one.picture
            else '<div class="none">no image</div>'
        )
        key = f"{one.visit}-{anchor(one.ccd)}"
        shown.append(
            f'<figure><h3><a href="#e-{key}">{one.visit} {escape(one.ccd)}</a></h3>{picture}'
            f"<figcaption>{escape(one.why)}</figcaption></figure>"
        )
    return (
        '<section id="gallery"><h2>Worst CCDs</h2><div class="grid small">'
        f"{''.join(shown)}</div></section>"
    )


def _behind(card: Scorecard) -> str:
    """The CCDs behind each number; hidden until its link is followed."""
    found = []
    for one in card.measured:
        if not len(one.ccds):
            continue
        rows = "".join(
            f'<tr><td><a href="#e-{visit}-{anchor(ccd)}">{visit} {escape(ccd)}</a></td>'
            f"<td>{number(value)} {escape(one.unit)}</td><td>{n:,}</td></tr>"
            for visit, ccd, value, n in one.worst_ccds(LINKED).tolist()
        )
        key = anchor(one.name)
        count = min(LINKED, len(one.ccds))
        told = f"the {count} worst of {len(one.ccds):,} CCD-visits; the run: {number(one.value)}"
        found.append(
            f'<section class="behind" id="c-{key}"><h3>Behind {escape(one.title)}</h3>'
            f'<p>{told} {escape(one.unit)}. <a href="#m-{key}">back</a></p>'
            f"<table><thead><tr><th>CCD-visit</th><th>value</th><th>sample</th></tr></thead>"
            f"<tbody>{rows}</tbody></table></section>"
        )
    return "".join(found)


def _exposures(card: Scorecard, shown: set[tuple[int, str]]) -> str:
    """The CCD-visits that something links to, with all that is known of each."""
    data = card.data
    values: dict[tuple[int, str], list[tuple[str, float, str]]] = {}
    for one in card.measured:
        for visit, ccd, value, _ in one.worst_ccds(LINKED).tolist():
            known = values.setdefault((visit, ccd), [])
            known.append((one.name, value, one.unit))
    rows = []
    for exposure in data.exposures:
        key = int(exposure["visit"]), str(exposure["ccd"])
        if key not in values and key not in shown:
            continue
        numbers = "; ".join(
            f'<a href="#c-{anchor(name)}">{escape(name)}</a> {number(value)}'
            f"{escape(f' {unit}' if unit else '')}"
            for name, value, unit in values.get(key, [])
        )
        reason = data.reasons.get(key, "")
        told = f"{exposure['outcome']}{f': {reason}' if reason else ''}"
        rows.append(
            f'<tr id="e-{key[0]}-{anchor(key[1])}"><td><a href="#v-{key[0]}">{key[0]}</a> '
            f"{escape(key[1])}</td><td>{escape(str(exposure['band']))}</td>"
            f"<td>{escape(told)}</td><td>{numbers}</td></tr>"
        )
    if not rows:
        return '<section id="exposures"><h2>CCD-visits</h2><p>None is linked.</p></section>'
    return (
        '<section id="exposures"><h2>CCD-visits</h2><details open><summary>'
        f'{len(rows):,} that numbers link to</summary><div class="scroll">'
        '<table class="ccds"><thead><tr><th>CCD-visit</th><th>band</th><th>outcome</th>'
        "<th>what it stands behind</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div></details></section>"
    )


def _definitions(card: Scorecard) -> str:
    shown = "".join(
        f'<dt id="d-{anchor(metric.name)}">{escape(metric.name)}: {escape(metric.title)}</dt>'
        f"<dd>{escape(metric.definition)}</dd>"
        for metric, _ in card.numbers
    )
    return (
        '<section id="definitions"><h2>Definitions</h2><p>Intervals are of 95 %, by a bootstrap '
        "over stars, pairs or CCD-visits. SRD: LSST Science Requirements Document (LPM-17), limits "
        f"stretch / design / minimum.</p><dl>{shown}</dl></section>"
    )
