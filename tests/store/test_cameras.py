"""Built-in cameras are sound and told apart; a user's file may build on another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mpipipe.data.camera import Camera
from mpipipe.data.errors import ConfigError
from mpipipe.store.cameras import builtin_cameras, load_camera, recognise_camera


@pytest.mark.parametrize("name", builtin_cameras())
def test_builtin_is_sound(name: str) -> None:
    camera = load_camera(name)
    assert camera.name == name and camera.description
    assert Camera.model_validate_json(camera.model_dump_json()) == camera
    for detector in camera.detectors:
        assert camera.type_of(detector).channels


@pytest.mark.parametrize(
    ("name", "n_detectors", "n_channels"),
    [("lsst-sim", 189, 16), ("lsstcam", 189, 16), ("decam", 62, 2), ("lco-sinistro", 1, 4),
     ("arcsat", 1, 1), ("sim-full", 9, 16)],
)  # fmt: skip
def test_sizes(name: str, n_detectors: int, n_channels: int) -> None:
    camera = load_camera(name)
    assert len(camera.detectors) == n_detectors
    assert {len(kind.channels) for kind in camera.types.values()} == {n_channels}


@pytest.mark.parametrize("name", ["lsst-sim", "lsstcam", "decam", "sim-full"])
def test_detectors_do_not_overlap(name: str) -> None:
    camera = load_camera(name)
    boxes = []
    for detector in camera.detectors:
        kind = camera.type_of(detector)
        half = np.array(kind.size) * kind.pixel_size_um / 2000.0
        centre = np.array([detector.x_mm, detector.y_mm])
        boxes.append((centre - half, centre + half))
    for i, (low, high) in enumerate(boxes):
        for other_low, other_high in boxes[:i]:
            assert (low >= other_high - 1e-9).any() or (other_low >= high - 1e-9).any()


def test_lsst_numbers_are_the_official_ones() -> None:
    for name in ("lsst-sim", "lsstcam"):
        camera = load_camera(name)
        numbers = {detector.name: detector.number for detector in camera.detectors}
        assert sorted(numbers.values()) == list(range(189))
        assert (numbers["R01_S00"], numbers["R22_S11"], numbers["R43_S22"]) == (0, 94, 188)


def test_decam_numbers_are_the_official_ones() -> None:
    numbers = {detector.name: detector.number for detector in load_camera("decam").detectors}
    assert sorted(numbers.values()) == list(range(1, 63))
    expected = {"S29": 1, "S31": 3, "S7": 31, "N1": 32, "N4": 35, "N31": 62}
    assert {name: numbers[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ({"INSTRUME": "dcam-spare", "TELESCOP": "ARCSAT 0.5-m"}, "arcsat"),
        ({"INSTRUME": "dcam-spare"}, None),
        ({"INSTRUME": "fa05"}, "lco-sinistro"),
        ({"INSTRUME": "lsstCam "}, "lsstcam"),
        ({"INSTRUME": "DECam"}, "decam"),
        ({"CREATOR": "LSST IMAGE SIMULATOR"}, "lsst-sim"),
        ({"INSTRUME": "sim-small"}, "sim-small"),
        ({"INSTRUME": "HST"}, None),
        ({}, None),
    ],
)
def test_recognition(header: dict[str, str], name: str | None) -> None:
    assert recognise_camera(header) == name


def test_file_builds_on_another(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "arcsat"\nname = "mine"\n[types.ccd]\nsize = [2048, 1024]\n')
    camera = load_camera(path)
    assert camera.name == "mine" and camera.types["ccd"].size == (2048, 1024)
    assert camera.types["ccd"].pixel_size_um == 13.0
    assert camera.corrections == load_camera("arcsat").corrections
    (tmp_path / "again.toml").write_text('base = "mine.toml"\npixel_scale = 0.1\n')
    assert load_camera(tmp_path / "again.toml").name == "mine"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('name = "x', "is no TOML"),
        ('base = "self.toml"', "leads back"),
        ('base = "nowhere.toml"', "there is no such camera file"),
        ("base = 3", "must be a camera's name"),
        ('base = "generic"\npixel_scael = 1', "key pixel_scael: is unknown (did you mean"),
        ('base = "generic"\n[header]\ngian = ["G"]', "key header.gian"),
    ],
)
def test_faults_name_the_file(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "self.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_camera(path)
    assert expected in str(caught.value) and ".toml" in str(caught.value)


def test_unknown_name_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'arcsat'"):
        load_camera("arcsta")
    with pytest.raises(ConfigError, match="camera list"):
        load_camera("qqqqqq")
