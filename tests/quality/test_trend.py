"""The history of scorecards and the page of its trend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mpipipe.data.errors import BadDataError
from mpipipe.quality.page.trend import append, entry, read_history, trend_page


def card(value: float | None, verdict: str = "met") -> dict[str, Any]:
    low, high = (None, None) if value is None else (value - 1, value + 1)
    one = {"name": "PA1.r", "value": value, "low": low, "high": high, "verdict": verdict}
    return {"counts": {"met": 1}, "metrics": [one]}


def test_lines_are_appended_and_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "history.jsonl"
    for k in range(3):
        append(path, entry("wide", f"day {k}", f"v{k}", card(float(k))))
    found = read_history(path)
    assert [line["version"] for line in found] == ["v0", "v1", "v2"]
    assert found[2]["metrics"]["PA1.r"] == [2.0, 1.0, 3.0, "met"]


def test_a_line_that_was_cut_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    append(path, entry("wide", "day 0", "v0", card(1.0)))
    with open(path, "a") as stream:
        stream.write('{"set": "wide", "ti')
    append(path, entry("wide", "day 2", "v2", card(2.0)))
    assert [line["time"] for line in read_history(path)] == ["day 0", "day 2"]


def test_the_page_has_a_chart_a_number(tmp_path: Path) -> None:
    history = [entry("wide", f"day {k}", "v", card(3.0 + k)) for k in range(5)]
    history.append(entry("arcsat", "day 9", "<v>", card(1.0, "missed")))
    history.append(entry("cloudy", "day 9", "v", card(None, "not measurable")))
    text = trend_page(history)
    assert text.count("<svg") == 2
    assert "http" not in text
    assert "<v>" not in text
    assert "5 scorecards" in text
    assert "missed" in text


def test_nothing_yet(tmp_path: Path) -> None:
    assert "The history is empty" in trend_page([])
    with pytest.raises(BadDataError):
        read_history(tmp_path / "nowhere.jsonl")
