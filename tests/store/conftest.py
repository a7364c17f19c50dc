"""Raw files that tests of the store read: small, made here, in each layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from mpipipe.data.camera import Camera
from mpipipe.data.inventory import FrameFiles
from mpipipe.store.cameras import load_camera
from mpipipe.store.scan import scan

MakeVisit = Callable[..., list[Path]]


@pytest.fixture(scope="session")
def tiny() -> Camera:
    """The simulated camera with CCDs of 512 x 500."""
    return load_camera("sim-tiny")


@pytest.fixture
def make_visit(tmp_path: Path, tiny: Camera) -> MakeVisit:
    """A function that writes the channel files of read-outs of the tiny camera.

    ``make_visit(visit=1, detector="R22_S11", snaps=(0, 1), kind="object", cards={...})``; the
    value of every data pixel is its place on the assembled CCD plus 1000 (modulo 50,000).
    """
    kind = tiny.types["ccd"]
    nx, ny = kind.size
    assembled = (1000 + np.arange(nx * ny).reshape(ny, nx) % 50_000).astype(np.uint16)

    def make(
        visit: int = 1,
        detector: str = "R22_S11",
        snaps: tuple[int, ...] = (0, 1),
        image_type: str = "OBJECT",
        suffix: str = ".fits",
        cards: dict[str, Any] | None = None,
        folder: Path = tmp_path,
    ) -> list[Path]:
        written = []
        for snap in snaps:
            for channel in kind.channels:
                assert channel.raw_size and channel.datasec and channel.detsec
                raw = np.full(channel.raw_size[::-1], 990, np.uint16)
                raw[channel.datasec.slices] = channel.detsec.cut(assembled)
                hdu = fits.PrimaryHDU(raw)
                hdu.header.update(
                    OBSID=visit, SNAP=snap, CHIPID=detector, AMPID=channel.name, FILTER="r",
                    EXPTIME=15.0, IMGTYPE=image_type, INSTRUME="sim-tiny",
                )  # fmt: skip
                hdu.header["MJD-OBS"] = 60000.25
                for key, value in (cards or {}).items():
                    if value is None:
                        hdu.header.remove(key, ignore_missing=True)
                    else:
                        hdu.header[key] = value
                path = folder / f"imsim_{visit}_{detector}_{channel.name}_E{snap:03d}{suffix}"
                if suffix.endswith(".fz"):
                    packed = fits.CompImageHDU(raw, hdu.header, compression_type="RICE_1")
                    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(path)
                else:
                    hdu.writeto(path)
                written.append(path)
        return written

    make.assembled = assembled  # type: ignore[attr-defined]
    return make


@pytest.fixture
def first_frame(tiny: Camera) -> Callable[[Path], FrameFiles]:
    """A function that scans a folder and gives the files of its first snap."""

    def find(folder: Path, camera: Camera | None = None) -> FrameFiles:
        inventory = scan(folder, camera or tiny)
        return next(iter(inventory.science[0].snaps.values()))

    return find
