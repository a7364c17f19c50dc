"""Costs measured by one run serve the plan of the next."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpipipe.data.errors import ConfigError
from mpipipe.run.costs import DEFAULTS, Measured, load_costs, measure, save_costs


def test_equal_tasks_give_a_rate() -> None:
    tasks = [Measured("calibrate", 2.0, wall, 460_000_000) for wall in (1.0, 1.0, 1.2)]
    found = measure(tasks)["calibrate"]
    assert found.fixed_s == 0 and found.seconds == pytest.approx(0.5)
    assert found.memory == pytest.approx(100e6)
    assert found.n_tasks == 3
    assert measure(tasks)["bias"] == DEFAULTS["bias"]


def test_tasks_of_different_size_give_a_constant_too() -> None:
    tasks = [Measured("flat", size, 0.5 + 0.25 * size, 0) for size in (1.0, 2.0, 4.0, 8.0)]
    found = measure(tasks)["flat"]
    assert found.fixed_s == pytest.approx(0.5) and found.seconds == pytest.approx(0.25)
    assert found.memory == DEFAULTS["flat"].memory, "unknown peaks say nothing"


def test_the_first_task_of_a_process_does_not_count() -> None:
    """It imports and compiles."""
    walls = (60.0, 1.0, 1.1, 0.9, 1.0)
    found = measure([Measured("dark", 1.0, wall, 0) for wall in walls])["dark"]
    assert found.seconds == pytest.approx(1.0)


def test_stages_are_told_apart() -> None:
    tasks = [Measured("calibrate", 2.0, 1.0, 0, {"isr.bias": 0.2, "cs.reject": 0.6})] * 3
    assert measure(tasks)["calibrate"].stages == {"isr.bias": 0.1, "cs.reject": 0.3}


def test_costs_are_read_back(tmp_path: Path) -> None:
    costs = measure([Measured("calibrate", 2.0, 1.0, 500_000_000, {"isr.bias": 0.2})])
    save_costs(tmp_path / "costs.json", costs)
    assert load_costs(tmp_path) == load_costs(tmp_path / "costs.json") == costs


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"version": 9, "phases": {}}', '{"version": 1, "phases": {"bias": 3}}',
     '{"version": 1, "phases": {"bias": {"fixed_s": -1, "seconds": 1, "memory": 1, "output": 1,'
     ' "masters": 0, "stages": {}, "n_tasks": 1}}}'],
)  # fmt: skip
def test_nonsense_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "costs.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match="no list of costs"):
        load_costs(file)


def test_a_run_without_costs_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no measured costs"):
        load_costs(tmp_path)
