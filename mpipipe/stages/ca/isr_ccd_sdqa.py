"""ca.isrCcdSdqa: does the sky go on smoothly from one amplifier to the next?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from mpipipe.data import mask as planes
from mpipipe.data.exposure import Exposure
from mpipipe.data.sdqa import Sdqa
from mpipipe.data.sections import Section
from mpipipe.stages.isr.sdqa import clipped_mean
from mpipipe.stages.stage import StageConfig, stage

MAX_ROWS = 500
"""Lines across a boundary that are enough to know its step."""


class AmpOffsetConfig(StageConfig):
    """Options of ca.isrCcdSdqa."""

    width: int = Field(
        default=64, ge=2, description="pixels on either side of a boundary that count"
    )


def boundaries(sections: Mapping[str, Section]) -> list[tuple[str, str, int]]:
    """Pairs of channels that touch, lower one first, with the axis (0: y, 1: x) across."""
    pairs = []
    for a, one in sections.items():
        for b, two in sections.items():
            beside = one.y0 < two.y1 and two.y0 < one.y1
            above = one.x0 < two.x1 and two.x0 < one.x1
            if one.x1 == two.x0 and beside:
                pairs.append((a, b, 1))
            elif one.y1 == two.y0 and above:
                pairs.append((a, b, 0))
    return pairs


def amp_offset(
    exposure: Exposure, one: Section, two: Section, axis: int, width: int
) -> tuple[float, float]:
    """Step of the sky from channel `one` to its neighbour `two`, electrons.

    Both sides are clipped means of strips along the boundary. Where the inner and outer halves
    of the strips show a significant gradient of the sky, it is taken out.

    Returns
    -------
    tuple of float
        Step, and the mean sky of both sides; NaN where there are too few good pixels.
    """
    from mpipipe.stages.ca import kernels

    if axis == 1:
        y0, y1 = max(one.y0, two.y0), min(one.y1, two.y1)
        width = min(width, one.x1 - one.x0, two.x1 - two.x0)
        strip = (slice(y0, y1), slice(one.x1 - width, one.x1 + width))
    else:
        x0, x1 = max(one.x0, two.x0), min(one.x1, two.x1)
        width = min(width, one.y1 - one.y0, two.y1 - two.y0)
        strip = (slice(one.y1 - width, one.y1 + width), slice(x0, x1))
    image, mask = exposure.image[strip], exposure.mask[strip]
    if axis == 0:
        image, mask = image.T, mask.T
    avoid = planes.bits("BAD", "SAT", "NO_DATA", "INTRP", "VIGNETTED")
    half = width // 2
    edges = (0, half, width, 2 * width - half, 2 * width)
    cuts = [slice(edges[k], edges[k + 1]) for k in range(4)]
    stats = []
    step = max(1, image.shape[0] // MAX_ROWS)
    for cut in cuts:
        values = kernels.good_values(image[::step, cut], mask[::step, cut], avoid)
        mean, spread = clipped_mean(values)
        stats.append((mean, spread / np.sqrt(max(values.size, 1))))
    means, errors = np.array(stats).T
    # Outer and inner half on each side, centres at -3, -1, +1, +3 quarter widths.
    slope = ((means[1] - means[0]) + (means[3] - means[2])) / 2
    jump = (means[2] + means[3] - means[1] - means[0]) / 2
    if abs(slope) > 2 * np.sqrt(np.sum(errors**2)) / 2:
        jump -= 2 * slope
    return float(jump), float(np.mean(means))


@stage("ca.isrCcdSdqa", needs=("exposure", "sdqa"), adds=("exposure",), config=AmpOffsetConfig)
def isr_ccd_sdqa(config: AmpOffsetConfig, *, exposure: Exposure, sdqa: Sdqa) -> Mapping[str, Any]:
    """Record the step of the sky across every boundary between channels, in per cent of it."""
    snap = exposure.info.snap
    sections = exposure.channel_sections
    steps = []
    for a, b, axis in boundaries(sections):
        step, sky = amp_offset(exposure, sections[a], sections[b], axis, config.width)
        percent = 100.0 * step / sky if sky > 0 else float("nan")
        steps.append(percent)
        sdqa.add(f"ca.amp_offset.{b}", percent, "%", channel=a, snap=snap)
    if steps:
        finite = np.abs([s for s in steps if np.isfinite(s)])
        value = float(np.median(finite)) if finite.size else float("nan")
        sdqa.add("ca.amp_offset.median", value, "%", snap=snap)
        sdqa.add("ca.amp_offset.max", max(finite, default=float("nan")), "%", snap=snap)
    return {"exposure": exposure}
