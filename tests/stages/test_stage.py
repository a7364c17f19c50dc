"""Chains of stages: what is missing is found before anything runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mpipipe.data.errors import BadDataError, ConfigError
from mpipipe.stages.stage import Stage, StageConfig, check_chain, run_chain, stage


def make(name: str, needs: tuple[str, ...], adds: tuple[str, ...], always: bool = False) -> Stage:
    @stage(name, needs=needs, adds=adds, always=always)
    def run(config: StageConfig, **values: int) -> dict[str, int]:
        """Add one."""
        return {name: sum(values.values()) + 1 for name in adds}

    return run


LOAD = make("p.load", ("raw",), ("image",), always=True)
FIX = make("p.fix", ("image",), ("image",))
FIND = make("p.find", ("image",), ("peaks",))
MEASURE = make("p.measure", ("image", "peaks"), ("table",))
CHAIN = (LOAD, FIX, FIND, MEASURE)


def test_a_complete_chain_passes() -> None:
    assert check_chain(CHAIN, ["raw"]) == {"raw", "image", "peaks", "table"}


def test_a_missing_value_is_named_with_its_stage() -> None:
    with pytest.raises(ConfigError, match=r"p\.measure needs 'peaks'"):
        check_chain((LOAD, MEASURE), ["raw"])


def test_a_stage_that_only_changes_values_can_be_switched_off() -> None:
    assert "table" in check_chain(CHAIN, ["raw"], disabled=["p.fix"])


def test_switching_off_a_source_names_it() -> None:
    with pytest.raises(ConfigError, match=r"stage p\.find, which adds it, is switched off"):
        check_chain(CHAIN, ["raw"], disabled=["p.find"])


def test_an_indispensable_stage_stays_on() -> None:
    with pytest.raises(ConfigError, match="can not be switched off"):
        check_chain(CHAIN, ["raw"], disabled=["p.load"])


def test_values_flow_and_hooks_see_every_stage() -> None:
    seen: list[str] = []
    clipboard = run_chain(
        CHAIN,
        {"p.fix": StageConfig(enabled=False)},
        {"raw": 1},
        before=lambda step: seen.append(step.name),
        after=lambda step, wall, cpu: seen.append(f"{step.name} done"),
    )
    assert clipboard == {"raw": 1, "image": 2, "peaks": 3, "table": 6}
    assert "p.fix" not in seen
    assert seen[:2] == ["p.load", "p.load done"]


def test_a_stage_that_breaks_its_promise_is_found_out() -> None:
    liar = Stage("p.liar", (), ("image",), StageConfig, lambda config: {})
    with pytest.raises(TypeError, match=r"p\.liar promised"):
        run_chain([liar], {}, {})


def refuse(config: StageConfig, **needs: int) -> dict[str, int]:
    raise BadDataError("no stars")


SHAKY = Stage(
    "p.shaky", ("image",), ("peaks",), StageConfig, refuse,
    fallback=lambda config, image: {"peaks": -image},
)  # fmt: skip


def test_a_fallback_stands_in_for_a_stage_that_fails_and_its_error_is_told() -> None:
    told: list[str] = []
    clipboard = run_chain(
        (LOAD, SHAKY, MEASURE),
        {},
        {"raw": 1},
        failed=lambda step, error: told.append(f"{step.name}: {error}"),
    )
    assert told == ["p.shaky: no stars"]
    assert clipboard["peaks"] == -clipboard["image"] and "table" in clipboard


def test_a_failure_that_nobody_hears_of_ends_the_chain() -> None:
    with pytest.raises(BadDataError, match="no stars"):
        run_chain((LOAD, SHAKY), {}, {"raw": 1})


def test_a_stage_with_a_fallback_can_be_switched_off() -> None:
    assert "table" in check_chain((LOAD, SHAKY, MEASURE), ["raw"], disabled=["p.shaky"])
    off = {"p.shaky": StageConfig(enabled=False)}
    assert run_chain((LOAD, SHAKY), off, {"raw": 1})["peaks"] < 0


def test_lack_of_memory_is_no_reason_to_fall_back() -> None:
    def starve(config: StageConfig, image: int) -> dict[str, int]:
        raise MemoryError

    starving = replace(SHAKY, run=starve)
    with pytest.raises(MemoryError):
        run_chain((LOAD, starving), {}, {"raw": 1}, failed=lambda step, error: None)
