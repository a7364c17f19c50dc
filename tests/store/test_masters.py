"""Masters come back from their files as they were; damaged or foreign ones are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpipipe.data.errors import BadDataError
from mpipipe.data.masters import MasterFrame
from mpipipe.store.masters import (
    find_masters,
    flat_paths,
    master_path,
    read_flat_level,
    read_master,
    read_masters,
    write_master,
)

SHAPE = (2, 6, 5)


def master(kind: str, detector: str = "R22_S11", band: str = "") -> MasterFrame:
    rng = np.random.default_rng(len(kind))
    image: np.ndarray | None = rng.normal(1.0, 0.1, SHAPE).astype(np.float32)
    variance: np.ndarray | None = np.full(SHAPE, 0.25, np.float32)
    if kind == "defects":
        image, variance = rng.integers(0, 2, SHAPE).astype(np.int32), None
    if kind == "gain":
        image = variance = None
    return MasterFrame(
        kind=kind,  # type: ignore[arg-type]
        camera="made",
        detector=detector,
        names=("C00", "C01"),
        image=image,
        variance=variance,
        gain=np.array([1.5, np.nan]),
        read_noise=np.array([8.0, 9.0]),
        band=band,
        n_frames=5,
        seconds=300.0,
        level=1234.5 if kind == "flat" else float("nan"),
        factor=0.98 if kind == "flat" else 1.0,
        notes=("4 frames: 5 or more are better",),
    )


@pytest.mark.parametrize("kind", ["bias", "dark", "flat", "defects", "gain"])
def test_round_trip(tmp_path: Path, kind: str) -> None:
    before = master(kind, band="r" if kind == "flat" else "")
    path = master_path(tmp_path, kind, before.detector, before.band)
    digest = write_master(path, before, provenance={"input a": "1" * 64})
    after = read_master(path)
    for name in ("image", "variance", "gain", "read_noise"):
        one, two = getattr(before, name), getattr(after, name)
        assert (one is None) == (two is None)
        if one is not None:
            assert one.dtype == two.dtype and np.array_equal(one, two, equal_nan=True)
    for name in ("kind", "camera", "detector", "names", "band", "n_frames", "seconds", "factor"):
        assert getattr(before, name) == getattr(after, name)
    assert after.notes == before.notes
    assert write_master(path, before, provenance={"input a": "1" * 64}) == digest


def test_a_folder_of_masters(tmp_path: Path) -> None:
    for kind, band in (("bias", ""), ("gain", ""), ("flat", "g"), ("flat", "r")):
        frame = master(kind, band=band)
        write_master(master_path(tmp_path, kind, frame.detector, band), frame, provenance={})
    masters = read_masters(tmp_path, "R22_S11", "r")
    assert masters.band == "r" and masters.flat is not None and masters.bias is not None
    assert masters.dark is None and masters.defects is None
    assert masters.gain is not None and masters.gain[0] == 1.5
    assert set(masters.checksums) == {"bias", "gain", "flat"}
    assert set(find_masters(tmp_path, "R22_S11", "z")) == {"bias", "gain"}
    assert [path.name for path in flat_paths(tmp_path, "R22_S11")] == [
        "flat-R22_S11-g.fits",
        "flat-R22_S11-r.fits",
    ]
    assert read_flat_level(flat_paths(tmp_path, "R22_S11")[0]) == 1234.5
    assert read_masters(tmp_path / "nothing", "R22_S11", "r").bias is None


def test_damaged_or_foreign_masters_are_refused(tmp_path: Path) -> None:
    path = master_path(tmp_path, "bias", "R22_S11")
    write_master(path, master("bias"), provenance={})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadDataError, match="bias-R22_S11"):
        read_masters(tmp_path, "R22_S11", "r")
    path.write_bytes(b"no FITS at all")
    with pytest.raises(BadDataError):
        read_masters(tmp_path, "R22_S11", "r")
    write_master(path, master("bias", detector="R22_S12"), provenance={})
    with pytest.raises(BadDataError, match="R22_S12"):
        read_masters(tmp_path, "R22_S11", "r")
    holes = master("bias")
    assert holes.image is not None
    holes.image[0, 0, 0] = np.nan
    write_master(path, holes, provenance={})
    with pytest.raises(BadDataError, match="not finite"):
        read_masters(tmp_path, "R22_S11", "r")


def test_masters_of_other_channels_do_not_mix(tmp_path: Path) -> None:
    write_master(master_path(tmp_path, "bias", "R22_S11"), master("bias"), provenance={})
    other = replace(master("dark"), names=("C00", "C99"))
    write_master(master_path(tmp_path, "dark", "R22_S11"), other, provenance={})
    with pytest.raises(BadDataError, match="channels differ"):
        read_masters(tmp_path, "R22_S11", "r")
