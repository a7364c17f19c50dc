"""Measurements are plug-ins: found, put in order, left out, and never silently zero."""

from __future__ import annotations

import numpy as np
import pytest

from mpipipe.data.errors import ConfigError
from mpipipe.stages.sfm.measurement import (
    Flux,
    Measurement,
    _in_order,
    chosen,
    flag,
    measurement,
    registry,
    rounds,
)
from mpipipe.stages.sfm.source_measurement import SourceMeasurementConfig
from mpipipe.stages.sfm.src_table import FLUXES, SRC


def named(name: str, *after: str, joint: bool = False) -> Measurement:
    """A measurement that does nothing."""
    return measurement(name, after=after, joint=joint)(lambda scene, src: None)


def test_every_measurement_comes_after_what_it_needs() -> None:
    seen: set[str] = set()
    for one in registry().values():
        assert set(one.after) <= seen, one.name
        seen.add(one.name)
    assert {"circles", "moments", "ellipses"} <= seen


def test_order_follows_needs_and_a_circle_of_needs_is_told() -> None:
    found = {one.name: one for one in (named("a", "c"), named("b"), named("c", "b"))}
    assert list(_in_order(found)) == ["b", "c", "a"]
    found = {one.name: one for one in (named("a", "b"), named("b", "a"))}
    with pytest.raises(ConfigError, match="need each other"):
        _in_order(found)


def test_measurements_are_made_in_few_rounds_and_joint_ones_apart() -> None:
    given = [named("a"), named("b", "a", joint=True), named("c", "b"), named("d", "a"),
             named("e", joint=True)]  # fmt: skip
    groups = [[one.name for one in group] for group in rounds(given)]
    assert groups == [["a", "d"], ["b", "e"], ["c"]]
    assert rounds([]) == []
    assert [[one.name for one in group] for group in rounds([given[-1]])] == [["e"]]


def test_what_is_chosen_brings_what_it_needs() -> None:
    assert [one.name for one in chosen(["ellipses"])] == ["moments", "ellipses"]
    with pytest.raises(ValueError, match="no measurement is called 'kronn'"):
        chosen(["kronn"])
    with pytest.raises(ValueError, match="kronn"):
        SourceMeasurementConfig(measurements=("kronn",))


def test_every_measurement_has_a_summary_a_column_and_a_flag() -> None:
    for one in registry().values():
        assert one.summary and "\n" not in one.summary
        assert one.all_columns
        assert any(column.name.startswith("flag_") for column in one.columns), one.name


def test_columns_that_were_not_measured_say_so() -> None:
    for one in registry().values():
        src = SRC.empty(3)
        one.clear(src)
        for column in one.all_columns:
            values = src[column.name]
            kind = np.dtype(column.dtype).kind
            expected = {"b": values.all(), "f": np.isnan(values).all(), "i": (values == -1).all()}
            assert expected[kind], column.name


def test_a_flux_names_its_columns() -> None:
    flux = Flux("ap", "flux in a circle", "_3")
    assert [column.name for column in flux.columns] == [
        "apInstFlux_3", "apInstFluxErr_3", "apFlux_3", "apFluxErr_3",
    ]  # fmt: skip
    assert [column.unit for column in flux.columns] == ["electron", "electron", "nJy", "nJy"]
    assert flag("x", "text").name == "flag_x"


def test_all_fluxes_have_their_columns_in_the_table() -> None:
    for flux in FLUXES:
        for column in flux.columns:
            assert SRC.dtype[column.name] == np.dtype("f8")
