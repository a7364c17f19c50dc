"""Small made frames, every ingredient known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mpipipe.data.camera import Linearity
from mpipipe.data.raw import FrameInfo, RawChannel, RawFrame
from mpipipe.data.sections import Section

NY, NX, OVERSCAN = 60, 40, 24


def make_frame(
    pixels: list[np.ndarray] | None = None,
    *,
    n: int = 4,
    seed: int = 1,
    level: float = 1000.0,
    sky: float = 100.0,
    noise: float = 5.0,
    overscan: bool = True,
    seconds: float = 15.0,
    kind: str = "science",
    gain: float | None = 2.0,
    read_noise: float | None = 10.0,
    saturation: float = 60000.0,
    linearity: Linearity | None = None,
    crosstalk: np.ndarray | None = None,
    signal: np.ndarray | None = None,
) -> RawFrame:
    """Channels side by side: level + sky (or signal, ADU) + noise, an overscan on the right."""
    rng = np.random.default_rng(seed)
    channels = []
    width = NX + (OVERSCAN if overscan else 0)
    for i in range(n):
        if pixels is not None:
            image = pixels[i]
        else:
            values = rng.normal(level, noise, (NY, width)) if noise else np.full((NY, width), level)
            values[:, :NX] += sky if signal is None else signal[i]
            image = np.clip(np.rint(values), 0, 65535).astype(np.uint16)
        channels.append(
            RawChannel(
                name=f"C{i}",
                pixels=image,
                datasec=Section(0, NX, 0, NY),
                biassec=Section(NX, width, 0, NY) if overscan else None,
                parallel_biassec=None,
                detsec=Section(i * NX, (i + 1) * NX, 0, NY),
                gain=gain,
                read_noise=read_noise,
                saturation=saturation,
                linearity=linearity or Linearity(),
            )
        )
    info = FrameInfo("made", 1, 0, "ccd", 0, kind, "r", seconds, seconds, 60000.0, files=("made",))
    return RawFrame(info, tuple(channels), (NY, n * NX), crosstalk=crosstalk)


@pytest.fixture
def frame() -> Callable[..., RawFrame]:
    """The maker of frames."""
    return make_frame


@pytest.fixture
def run() -> Callable[..., dict[str, Any]]:
    """Run isr on a frame, as far as the stage `last`."""
    from mpipipe.data.camera import Corrections
    from mpipipe.data.exposure import Masters
    from mpipipe.data.sdqa import Sdqa
    from mpipipe.stages import isr
    from mpipipe.stages.stage import run_chain

    def run_isr(raw: RawFrame, last: str = "isr.output", **given: Any) -> dict[str, Any]:
        names = [step.name for step in isr.PIPELINE]
        chain = isr.PIPELINE[: names.index(last) + 1]
        clipboard = {
            "raw": raw,
            "masters": Masters(),
            "corrections": Corrections(),
            "sdqa": Sdqa(),
            "warnings": [],
        }
        configs = given.pop("configs", {})
        return run_chain(chain, configs, clipboard | given)

    return run_isr
