"""Options: presets stand, nonsense is refused by name, values survive text."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpipipe.data.errors import ConfigError
from mpipipe.sim.instrument import make_instrument
from mpipipe.sim.survey import PRESETS, RANGES, Survey, help_of, parse_option, preset
from mpipipe.sim.tasks import SimFolder, prepare
from mpipipe.sim.toml_text import to_toml
from mpipipe.sim.visits import plan_visits


@pytest.mark.parametrize("name", PRESETS)
def test_presets_find_their_camera_and_ccds(name: str) -> None:
    survey = preset(name)
    assert len(make_instrument(survey).detectors) == survey.n_ccds
    assert {visit.band for visit in plan_visits(survey, 2)} == set(survey.bands)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_visits": 0},
        {"bands": ("x",)},
        {"bands": ()},
        {"seeing_min": 2.0},
        {"sky": -1.0},
        {"sky": float("nan")},
        {"core_beta": 3.3},
        {"wing_fraction": 1.5},
        {"sky_rates": (1.0, 2.0)},
        {"streaks": (9,)},
        {"airmass_min": 0.5},
        {"dec": 90.0},
        {"star_counts": "besancon"},
        {"star_counts": "galactic", "ra": 266.0, "dec": -29.0},
        {"spike_arms": 3},
        {"flat_levels": ()},
        {"flat_levels": (0.0,)},
        {"variable_mix": (0.5, 0.6, 0.0)},
        {"wing_fraction": 0.9, "coma_fraction": 0.2},
        {"n_visits": 10**6},
        {"bias_level": 65000.0},
        {"star_density": 9e3, "star_slope": 1.0},
        {"galaxy_mag_max": 40.0, "galaxy_slope_faint": 1.0},
        {"camera": "no-such-camera"},
        {"format": "tiff"},
        {"n_ccds": 100},
    ],
)
def test_impossible_options_are_refused_with_their_key(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    """Before anything is written: the key, and the way out of it."""
    with pytest.raises(ConfigError) as caught:
        prepare(preset("tiny", **changes), SimFolder.at(tmp_path / "sim"))
    found = caught.value
    assert found.key in {*changes, "seeing_min", "star_counts", "galaxy_density"} or (
        "camera" in changes
    )
    assert found.way_out
    assert not (tmp_path / "sim").exists()


@given(st.data())
def test_no_number_gets_past_its_range(data: st.DataObject) -> None:
    """Whatever is not finite, negative where it can not be, or beyond the range, has its key."""
    fields = {entry.name: entry.type for entry in dataclasses.fields(Survey)}
    key = data.draw(st.sampled_from([k for k, kind in fields.items() if kind in ("int", "float")]))
    low, high = RANGES.get(key, (0, math.inf))
    wrong = st.sampled_from([math.nan, math.inf, -math.inf])
    if low > -math.inf:
        wrong |= st.floats(max_value=low, exclude_max=True, allow_nan=False)
    if high < math.inf:
        wrong |= st.floats(min_value=high, exclude_min=True, allow_nan=False)
    with pytest.raises(ConfigError) as caught:
        preset("tiny", **{key: data.draw(wrong)})
    assert caught.value.key == key


def test_ranges_are_of_options_that_there_are_and_hold_their_defaults() -> None:
    defaults = Survey()
    for key, (low, high) in RANGES.items():
        assert low <= getattr(defaults, key) <= high, key


def test_unknown_names_get_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="seeing_min"):
        preset("tiny", seeing_mim=1.0)
    with pytest.raises(ConfigError, match="cosmic_rays"):
        parse_option("cosmic_ray", "1")
    with pytest.raises(ConfigError, match="tiny"):
        preset("tinny")
    with pytest.raises(ConfigError, match="9 CCDs"):
        make_instrument(preset("tiny", n_ccds=10))
    with pytest.raises(ConfigError, match="mef"):
        make_instrument(preset("tiny", format="tiff"))


def test_every_option_is_described_and_reads_back_from_text() -> None:
    survey = Survey()
    for entry in dataclasses.fields(Survey):
        assert help_of(entry.name)
        value = getattr(survey, entry.name)
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert parse_option(entry.name, text) == value


def test_visits_do_not_change_when_more_are_asked_for() -> None:
    few, many = preset("small", n_visits=4), preset("small", n_visits=9)
    assert plan_visits(few, 2) == plan_visits(many, 2)[:4]


leaf = st.one_of(st.booleans(), st.integers(-(2**60), 2**60), st.text(), st.floats(-1e300, 1e300))
scalars = st.one_of(leaf, st.lists(st.integers(), max_size=3))
tables = st.recursive(
    st.dictionaries(st.text(min_size=1), scalars, max_size=4),
    lambda inner: st.dictionaries(
        st.text(min_size=1), st.one_of(scalars, inner, st.lists(inner, min_size=1)), max_size=4
    ),
    max_leaves=8,
)


@given(tables)
def test_toml_text_reads_back_as_it_was(content: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(content)) == content
