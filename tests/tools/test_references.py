"""What is compared with what when reference sets are scored."""

from __future__ import annotations

import importlib.util
import json
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def references(repo: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repo / "tools"))
    loader = SourceFileLoader("score_references", str(repo / "tools" / "score_references"))
    spec = importlib.util.spec_from_loader("score_references", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def card(value: float) -> dict[str, Any]:
    one = {
        "name": "PA1.r", "metric": "PA1", "group": "photometry", "title": "PA1", "unit": "mmag",
        "value": value, "low": value - 0.1, "high": value + 0.1, "verdict": "design",
        "requirement": {"limits": {"design": 5.0}, "centre": None, "is_floor": False},
    }  # fmt: skip
    return {"format": "mpipipe scorecard", "version": 1, "counts": {"met": 1}, "metrics": [one]}


def test_what_got_worse_is_told_until_it_is_accepted(
    references: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = tmp_path / "history.jsonl"

    def judged(value: float, accept: bool = False) -> bool:
        def mpipipe(*words: Any, **_: Any) -> None:
            Path(words[words.index("--json") + 1]).write_text(json.dumps(card(value)))

        monkeypatch.setattr(references, "mpipipe", mpipipe)
        return all(check.ok for check in references.judge("wide", ["run"], history, accept))

    assert judged(3.0)
    assert not judged(4.0)
    assert not judged(4.0), "a second time it is as much worse as before"
    assert judged(4.0, accept=True)
    assert judged(4.0)
    assert judged(2.0), "better is taken at once"
    assert not judged(3.0)
    assert len(history.read_text().splitlines()) == 7
    assert not list(tmp_path.glob("*.new"))


def test_a_set_that_fails_keeps_none_of_the_others_away(
    references: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The night comes last, and is scored though neither survey could be run."""

    def mpipipe(*words: Any, **_: Any) -> None:
        if words[0] == "simulate":
            raise RuntimeError("no space")
        if words[0] == "scorecard":
            Path(words[words.index("--json") + 1]).write_text(json.dumps(card(3.0)))

    history = tmp_path / "weekly" / "history.jsonl"
    (tmp_path / "frames" / "arcsat-xo1b").mkdir(parents=True)
    table = tmp_path / "table.json"
    words = ["--history", history, "--realdata", tmp_path / "frames", "--json", table]
    monkeypatch.setattr(references, "mpipipe", mpipipe)
    monkeypatch.setattr("sys.argv", ["score_references", *map(str, words)])
    assert references.main() == 1
    (line,) = history.read_text().splitlines()
    assert json.loads(line)["set"] == "arcsat"
    told = table.read_text()
    assert "wide: came through" in told and "cloudy: came through" in told
    assert (history.parent / "trend.html").exists()
