"""Camera descriptions: grids make the channels they should, faults are told with their key."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from mpipipe.data.camera import Camera, ChannelGrid, DetectorGrid, DetectorType
from mpipipe.data.validation import explain, nearest


def description(**changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "name": "mine",
        "format": "single",
        "pixel_scale": 0.5,
        "types": {"ccd": {"size": [20, 10], "channels": [{"name": "A"}]}},
        "detectors": [{"name": "ccd0", "number": 0, "type": "ccd"}],
    }
    return {**content, **changes}


def fault(content: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        Camera.model_validate(content)
    return str(explain(caught.value, "mine.toml", Camera))


def test_grid_tiles_the_ccd() -> None:
    """Every pixel of the CCD belongs to exactly one channel, and parts do not overlap."""
    grid = ChannelGrid(
        columns=4, rows=2, names=tuple("abcdefgh"), data=(16, 25), prescan=3, overscan=7,
        parallel_prescan=1, parallel_overscan=5, flip_x=(True, False), flip_y=(False, True),
    )  # fmt: skip
    kind = DetectorType(size=(64, 50), grid=grid)
    count = np.zeros((50, 64), int)
    for channel in kind.channels:
        assert channel.detsec is not None and channel.datasec is not None
        assert channel.biassec is not None and channel.parallel_biassec is not None
        count[channel.detsec.slices] += 1
        assert channel.datasec.shape == channel.detsec.shape
        raw = np.zeros((channel.raw_size or (0, 0))[::-1], int)
        for section in (channel.datasec, channel.biassec, channel.parallel_biassec):
            raw[section.slices] += 1
        assert raw.max() == 1
        assert channel.detsec.flip_x == (channel.name in "abcd")
        assert channel.detsec.flip_y == (channel.name in "efgh")
    assert (count == 1).all()


def test_bias_is_the_prescan_where_there_is_no_overscan() -> None:
    grid = ChannelGrid(columns=1, rows=1, names=("a",), data=(509, 2000), prescan=4)
    assert str(grid.channels()[0].biassec) == "[1:4,1:2000]"


def test_detector_grid_numbers_and_places() -> None:
    grid = DetectorGrid(
        type="ccd",
        name="{group}_S{row}{column}",
        columns=3,
        rows=3,
        pitch_mm=(10.0, 20.0),
        groups={"R22": (0.0, 0.0), "R23": (100.0, 0.0)},
    )
    made = {detector.name: detector for detector in grid.detectors()}
    assert [detector.number for detector in made.values()] == list(range(18))
    assert (made["R22_S11"].x_mm, made["R22_S11"].y_mm) == (0.0, 0.0)
    assert (made["R23_S02"].x_mm, made["R23_S02"].y_mm) == (110.0, -20.0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"pixel_scal": 1.0}, ["key pixel_scal", "did you mean 'pixel_scale'"]),
        ({"format": "mfe"}, ["key format", "'mef'"]),
        ({"pixel_scale": -1}, ["key pixel_scale", "greater than 0"]),
        ({"detectors": []}, ["there must be a detector"]),
        (
            {"detectors": [{"name": "a", "number": 0, "type": "cdc"}]},
            ["detector 'a' has unknown type 'cdc'"],
        ),
        (
            {"types": {"ccd": {"size": [20, 10], "channels": [{"name": "A", "gian": 2}]}}},
            ["key types.ccd.channels[0].gian", "did you mean 'gain'"],
        ),
        (
            {"types": {"ccd": {"size": [20, 10], "channels": [{"name": "A", "datasec": "x"}]}}},
            ["key types.ccd.channels[0].datasec", "no image section"],
        ),
        (
            {
                "types": {
                    "ccd": {"size": [20, 10], "channels": [{"name": "A", "detsec": "[1:21,1:10]"}]}
                }
            },
            ["leaves the CCD"],
        ),
        ({"types": {"ccd": {"size": [20, 10]}}}, ["either channels or a grid"]),
        ({"header": {"constants": {"gian": 1}}}, ["'gian' is no quantity", "gain"]),
        ({"corrections": {"dark": "maybe"}}, ["key corrections.dark", "'if-available'"]),
        ({"file_names": {"pattern": "("}}, ["no regular expression"]),
        ({"file_names": {"pattern": "(?P<visit>.)", "detector": "{ccd}"}}, ["'ccd'"]),
    ],
)
def test_faults_name_key_and_way_out(changes: dict[str, Any], expected: list[str]) -> None:
    text = fault(description(**changes))
    assert text.startswith("mine.toml")
    for part in expected:
        assert part in text


def test_json_round_trip_after_grids_are_made() -> None:
    """A run stores its camera; reading it back must give the same camera."""
    content = description(
        types={"ccd": {"size": [4, 2], "grid": {"columns": 2, "rows": 1, "names": ["a", "b"],
                                                 "data": [2, 2]}}}
    )  # fmt: skip
    camera = Camera.model_validate(content)
    assert Camera.model_validate_json(camera.model_dump_json()) == camera


def test_nearest_word() -> None:
    assert nearest("overscn", ["overscan", "bias"]) == "overscan"
    assert nearest("zzz", ["overscan", "bias"]) is None
