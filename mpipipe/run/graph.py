"""Pictures of the stage chain: what each stage needs and adds, as Mermaid text or as SVG."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from mpipipe.data.errors import ConfigError
from mpipipe.run.pipelines import (
    AT_POSITIONS,
    GIVEN_AT_POSITIONS,
    GIVEN_ON_CALEXP,
    GIVEN_PER_SNAP,
    GIVEN_PER_VISIT,
    ON_CALEXP,
    PER_SNAP,
    PER_VISIT,
)
from mpipipe.stages.stage import Stage
from mpipipe.store.checksums import write_text_atomically


@dataclass(frozen=True)
class Chain:
    """Stages that run after each other on values that are given at the start."""

    title: str
    given: tuple[str, ...]
    stages: tuple[Stage, ...]


def chains() -> tuple[Chain, ...]:
    """The chains of a calibrate task."""
    return (
        Chain("once a snap", GIVEN_PER_SNAP, PER_SNAP),
        Chain("once a visit and CCD", GIVEN_PER_VISIT, PER_VISIT),
        Chain(
            "on the calexp as it is stored",
            GIVEN_ON_CALEXP + GIVEN_AT_POSITIONS,
            ON_CALEXP + AT_POSITIONS,
        ),
    )


def write_graph(path: Path, phases: Sequence[str], disabled: Collection[str] = ()) -> None:
    """Draw phases and stages into a ``.svg`` or ``.mmd`` file.

    Parameters
    ----------
    disabled
        Stages that are switched off; they are drawn as such.

    Raises
    ------
    ConfigError
        If the name of the file ends otherwise.
    OutputError
        If it can not be written.
    """
    drawers = {".svg": svg, ".mmd": mermaid}
    if path.suffix not in drawers:
        raise ConfigError(
            "is drawn as .svg or .mmd (Mermaid)", file=path, way_out="--graph chain.svg"
        )
    write_text_atomically(path, drawers[path.suffix](phases, disabled))


def edges(chain: Chain, disabled: Collection[str] = ()) -> list[tuple[str, str, str]]:
    """Who hands what to whom: (stage or ``given``, stage, value), in the order of the chain."""
    source = dict.fromkeys(chain.given, "given")
    found = []
    for step in chain.stages:
        if step.name in disabled:
            continue
        found += [(source[value], step.name, value) for value in step.needs if value in source]
        source.update(dict.fromkeys(step.adds, step.name))
    return found


# -- Mermaid --------------------------------------------------------------------------------------


def mermaid(phases: Sequence[str], disabled: Collection[str] = ()) -> str:
    """Phases and both chains as a Mermaid flow chart."""
    lines = ["flowchart TD", "  subgraph phases"]
    lines += [f"    phase_{phase}([{phase}])" for phase in phases]
    lines += [f"    phase_{a} --> phase_{b}" for a, b in zip(phases, phases[1:], strict=False)]
    lines.append("  end")
    for number, chain in enumerate(chains()):
        given = f"given{number}"
        lines.append(f'  subgraph chain{number}["{chain.title}"]')
        lines.append(f'    {given}[/"{", ".join(chain.given)}"/]')
        for step in chain.stages:
            adds = ", ".join(step.adds) or "nothing"
            lines.append(f'    {_node(step.name)}["{step.name}<br/>adds {adds}"]')
        lines += [
            f"    {given if a == 'given' else _node(a)} -->|{values}| {_node(b)}"
            for (a, b), values in _joined(edges(chain, disabled)).items()
        ]
        lines.append("  end")
    off = [_node(step.name) for chain in chains() for step in chain.stages if step.name in disabled]
    if off:
        lines += ["  classDef off stroke-dasharray:4,color:#888", f"  class {','.join(off)} off"]
    lines.append("  chain0 -->|exposure of each snap| chain1")
    lines.append("  chain1 -->|calexp as it is stored| chain2")
    return "\n".join(lines) + "\n"


def _joined(found: Iterable[tuple[str, str, str]]) -> dict[tuple[str, str], str]:
    joined: dict[tuple[str, str], str] = {}
    for a, b, value in found:
        joined[a, b] = f"{joined[a, b]}, {value}" if (a, b) in joined else value
    return joined


def _node(name: str) -> str:
    return name.replace(".", "_")


# -- SVG ------------------------------------------------------------------------------------------

_WIDTH, _ROW, _BOX_X, _BOX_W, _BOX_H, _MARGIN = 1180, 40, 400, 250, 28, 20
_FILLS = {"isr": "#dbeafe", "ca": "#dcfce7", "cs": "#fef3c7", "ic": "#fce7f3", "sfm": "#ede9fe"}


def svg(phases: Sequence[str], disabled: Collection[str] = ()) -> str:
    """Phases in a row, below them each chain as a column: left what a stage needs, right adds."""
    body: list[str] = []
    y = _phases_row(body, phases)
    for chain in chains():
        y = _column(body, chain, disabled, y)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y}" '
        f'viewBox="0 0 {_WIDTH} {y}" font-family="sans-serif" font-size="12">'
    )
    arrow = (
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#555"/></marker></defs>'
    )
    page = f'<rect width="{_WIDTH}" height="{y}" fill="white"/>'
    return "\n".join([head, arrow, page, *body, "</svg>"]) + "\n"


def _phases_row(body: list[str], phases: Sequence[str]) -> int:
    x, y = _MARGIN, _MARGIN
    for number, phase in enumerate(phases):
        width = 24 + 8 * len(phase)
        if number:
            body.append(_line(x - 22, y + _BOX_H // 2, x - 2, y + _BOX_H // 2))
        body.append(_box(x, y, width, "#e5e7eb", phase, rounded=14))
        x += width + 24
    return y + _BOX_H + 24


def _column(body: list[str], chain: Chain, disabled: Collection[str], y: int) -> int:
    body.append(_text(_MARGIN, y + 14, f"{chain.title}:", "start", bold=True))
    body.append(_text(_BOX_X - 30, y + 14, "needs", "end", bold=True))
    body.append(_text(_BOX_X + _BOX_W + 30, y + 14, "adds", "start", bold=True))
    y += 26
    given = ", ".join(chain.given)
    body.append(_box(_BOX_X, y, _BOX_W, "#ffffff", "given", dashed=True))
    body.append(_text(_BOX_X + _BOX_W + 30, y + 18, given, "start"))
    for step in chain.stages:
        y += _ROW
        off = step.name in disabled
        centre = _BOX_X + _BOX_W // 2
        body.append(_line(centre, y - _ROW + _BOX_H, centre, y - 1))
        fill = "#ffffff" if off else _FILLS.get(step.name.partition(".")[0], "#f3f4f6")
        label = f"{step.name} (off)" if off else step.name
        body.append(_box(_BOX_X, y, _BOX_W, fill, label, dashed=off, title=step.summary))
        if off:
            continue
        body.append(_text(_BOX_X - 30, y + 18, ", ".join(step.needs), "end"))
        body.append(_line(_BOX_X - 26, y + 14, _BOX_X - 2, y + 14))
        if step.adds:
            body.append(_text(_BOX_X + _BOX_W + 30, y + 18, ", ".join(step.adds), "start"))
            body.append(_line(_BOX_X + _BOX_W, y + 14, _BOX_X + _BOX_W + 26, y + 14))
    return y + _ROW + _MARGIN


def _box(
    x: int,
    y: int,
    width: int,
    fill: str,
    label: str,
    *,
    rounded: int = 4,
    dashed: bool = False,
    title: str = "",
) -> str:
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    hint = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<g>{hint}<rect x="{x}" y="{y}" width="{width}" height="{_BOX_H}" rx="{rounded}" '
        f'fill="{fill}" stroke="#555"{dash}/>{_text(x + width // 2, y + 18, label, "middle")}</g>'
    )


def _text(x: int, y: int, text: str, anchor: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'


def _line(x1: int, y1: int, x2: int, y2: int) -> str:
    return f'<path d="M{x1} {y1}L{x2} {y2}" stroke="#555" marker-end="url(#a)"/>'
