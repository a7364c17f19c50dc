"""The picture of the stage chain names every stage and every value."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from mpipipe.data.errors import ConfigError
from mpipipe.run.graph import chains, edges, mermaid, svg, write_graph

STAGES = [step for chain in chains() for step in chain.stages]


def test_svg_is_whole_and_names_all() -> None:
    root = ET.fromstring(svg(["bias", "calibrate"], ["cs.reject"]))
    texts = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]
    for step in STAGES:
        off = step.name == "cs.reject"
        assert (f"{step.name} (off)" if off else step.name) in texts
        if not off:
            assert ", ".join(step.needs) in texts
    assert "bias" in texts


def test_mermaid_has_every_edge() -> None:
    text = mermaid(["calibrate"])
    for chain in chains():
        for a, b, value in edges(chain):
            wanted = f"{a.replace('.', '_')}"
            arrows = [line for line in text.splitlines() if line.endswith(b.replace(".", "_"))]
            assert any(value in line and (a == "given" or wanted in line) for line in arrows)


def test_every_need_is_met() -> None:
    for chain in chains():
        found = {(b, value) for _, b, value in edges(chain)}
        assert found == {(step.name, value) for step in chain.stages for value in step.needs}


def test_files(tmp_path: Path) -> None:
    for name in ("chain.svg", "chain.mmd"):
        write_graph(tmp_path / name, ["calibrate"])
        assert (tmp_path / name).stat().st_size > 1000
    with pytest.raises(ConfigError, match=r"\.svg or \.mmd"):
        write_graph(tmp_path / "chain.png", ["calibrate"])
