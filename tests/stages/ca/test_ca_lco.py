"""A real four-amplifier frame, binned and windowed: levels, noise, continuity of the sky."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpipipe.data.exposure import Masters
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages import ca, isr
from mpipipe.stages.stage import run_chain


def test_lco_sinistro(realdata: Path) -> None:
    from mpipipe.store.cameras import load_camera
    from mpipipe.store.raw import read_frame
    from mpipipe.store.scan import scan

    path = realdata / "lco-sinistro-raw" / "mef_raw_test_frame.fits"
    inventory = scan([path], load_camera("lco-sinistro"))
    [visit] = inventory.science
    raw = read_frame(visit.snaps[0], inventory.camera)
    sdqa = Sdqa()
    clipboard = {
        "raw": raw,
        "masters": Masters(),
        "corrections": inventory.camera.corrections,
        "sdqa": sdqa,
        "warnings": [],
    }
    exposure = run_chain(isr.PIPELINE + ca.PIPELINE, {}, clipboard)["exposure"]
    names = [channel.name for channel in raw.channels]
    levels = [sdqa.get("isr.overscan.level", channel=name, snap=0) for name in names]
    assert levels == pytest.approx([2522, 2560, 2553, 2582], abs=1.0)
    noise = [sdqa.get("isr.read_noise", channel=name, snap=0) for name in names]
    assert min(noise) > 7.4 * 0.95 and max(noise) < 7.9 * 1.05
    sky = [sdqa.get("isr.sky.level", channel=name, snap=0) for name in names]
    assert max(sky) / min(sky) < 1.02
    assert min(sky) > 1884 * 0.99 and max(sky) < 1920 * 1.01
    assert exposure.shape == (1024, 1024)
    assert exposure.wcs is not None
