"""`compare`: what moved by more than noise, which sources changed, and the exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from mpipipe.cli.exits import Exit
from mpipipe.cli.main import app
from mpipipe.data.errors import BadDataError, ConfigError
from mpipipe.quality.comparison import compare_numbers, compare_runs, matches
from mpipipe.quality.scorecard.scoring import read_scorecard

Make = Callable[..., Path]
RNG = np.random.default_rng
GOOD = 17.0 + 1e-3 * RNG(1).normal(0, 3, (60, 3))


def invoke(*words: object) -> Any:
    return CliRunner().invoke(app, ["compare", *map(str, words)])


def test_the_same_run_does_not_differ(make_run: Make) -> None:
    done = invoke(make_run(GOOD, "one"), make_run(GOOD, "two"))
    assert done.exit_code == 0, done.output
    assert "0 of" in done.output
    assert "180 sources are in both, 0 of them with another flux" in done.output


def test_worse_photometry_is_seen(make_run: Make, tmp_path: Path) -> None:
    bad = 17.0 + 1e-3 * RNG(2).normal(0, 12, (60, 3))
    one, two, told = make_run(GOOD, "one"), make_run(bad, "two"), tmp_path / "told.json"
    done = invoke(one, two, "--json", told)
    assert done.exit_code == Exit.DIFFERS
    content = json.loads(told.read_text())
    moved = {row["name"]: row for row in content["metrics"] if row["is_moved"]}
    assert moved["PA1.r"]["is_worse"] is True
    assert moved["PA1.r"]["verdicts"] == ["stretch", "missed"]
    assert content["sources"]["n_changed"] > 100
    assert invoke(one, two, "--worse").exit_code == Exit.DIFFERS
    assert invoke(two, one, "--worse").exit_code == 0


def test_sources_in_one_run_only(make_run: Make) -> None:
    fewer = GOOD.copy()
    fewer[:5, 1] = np.nan
    found = compare_runs(make_run(GOOD, "one"), make_run(fewer, "two"), 3.0).sources
    assert found is not None
    assert (found.n_matched, found.only_first, found.only_second, found.n_changed) == (175, 5, 0, 0)
    assert (found.changes["id2"] == -1).all()
    assert set(found.changes["visit"]) == {12}


def test_sources_are_matched_by_place_where_ids_have_moved() -> None:
    """A source more in front shifts the numbers of all behind it."""
    x = np.array([1.0, 20.0, 40.0, 60.0])
    one = {"id": np.arange(4), "x": x, "y": 0 * x}
    more = np.concatenate([[10.0], x + 0.3])
    two = {"id": np.arange(5), "x": more, "y": 0 * more}
    i, j = matches(one, two)
    assert dict(zip(i.tolist(), j.tolist(), strict=True)) == {0: 1, 1: 2, 2: 3, 3: 4}


def test_a_stored_scorecard_will_do(make_run: Make, tmp_path: Path) -> None:
    root, stored = make_run(GOOD, "one"), tmp_path / "stored.json"
    assert CliRunner().invoke(app, ["scorecard", str(root), "--json", str(stored)]).exit_code == 0
    found = compare_runs(stored, root, 3.0)
    assert not found.is_different
    assert found.sources is None


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ({"value": "1"}, "b has a value that is no number"),
        ({"requirement": {}}, "b lacks centre, is_floor, limits"),
        ({"requirement": 3}, "is no scorecard"),
        ({"requirement": {"limits": {}, "is_floor": False, "centre": "x"}}, "no number"),
    ],
)
def test_a_stored_scorecard_with_a_wrong_number(tmp_path: Path, broken: Any, why: str) -> None:
    one = {"name": "b", "group": "x", **number(1.0), "requirement": None}
    assert read_scorecard(stored_card(tmp_path, [one]))["b"]["value"] == 1.0
    with pytest.raises(BadDataError, match=why):
        read_scorecard(stored_card(tmp_path, [{**one, **broken}]))


@pytest.mark.parametrize(
    "metrics", [[{"name": "b"}], [{"value": 1.0}], ["text"], [None], None, "text", 5]
)
def test_a_stored_scorecard_that_lacks_keys(tmp_path: Path, metrics: Any) -> None:
    with pytest.raises(BadDataError, match="is no scorecard"):
        read_scorecard(stored_card(tmp_path, metrics))


def stored_card(folder: Path, metrics: Any) -> Path:
    path = folder / "card.json"
    head = {"format": "mpipipe scorecard", "version": 1}
    path.write_text(json.dumps({**head, "metrics": metrics}))
    return path


def number(value: float | None, half: float = 0.1, **more: Any) -> dict[str, Any]:
    low, high = (None, None) if value is None else (value - half, value + half)
    return {
        "title": "", "unit": "", "value": value, "low": low, "high": high, "verdict": "met",
        "requirement": {"is_floor": False, "centre": None}, **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "moved", "worse"),
    [
        (number(1.0), number(1.05), False, None),
        (number(1.0), number(2.0), True, True),
        (number(2.0), number(1.0), True, False),
        (number(1.0, 0.0), number(1.0, 0.0), False, None),
        (number(0.0, 0.0), number(1.0, 0.0), True, True),
        (number(1.0), number(None), True, True),
        (number(None), number(1.0), True, False),
        (number(None), number(None), False, None),
        (None, number(1.0), True, False),
        (None, number(1.0, group="truth"), False, None),
        (number(1.0, requirement=None), number(2.0, requirement=None), True, None),
        (
            number(95.0, requirement={"is_floor": True, "centre": None}),
            number(90.0, requirement={"is_floor": True, "centre": None}),
            True,
            True,
        ),
        (
            number(0.5, requirement={"is_floor": False, "centre": 1.0}),
            number(1.1, requirement={"is_floor": False, "centre": 1.0}),
            True,
            False,
        ),
    ],
)
def test_what_counts_as_moved(before: Any, after: Any, moved: bool, worse: bool | None) -> None:
    first, second = ({} if part is None else {"a": part} for part in (before, after))
    (found,) = compare_numbers(first, second, 3.0)
    assert (found.is_moved, found.is_worse) == (moved, worse)


def test_without_sources_it_says_so(make_run: Make) -> None:
    one, two = make_run(GOOD, "one"), make_run(GOOD, "two")
    (two / "catalogs" / "src.h5").unlink()
    assert "sources could not be compared: the run has no table src" in invoke(one, two).output


def test_what_is_no_run(make_run: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        compare_runs(make_run(GOOD), tmp_path / "nowhere", 3.0)
