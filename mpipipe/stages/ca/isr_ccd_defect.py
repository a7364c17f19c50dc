"""ca.isrCcdDefect: mask known defects, and bridge them for those who need smooth values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from mpipipe.data import mask as planes
from mpipipe.data.camera import Corrections
from mpipipe.data.exposure import ChannelStack, Exposure, Masters
from mpipipe.data.raw import RawFrame
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages.ca.assemble_ccd import corner
from mpipipe.stages.isr.needs import is_wanted
from mpipipe.stages.stage import StageConfig, stage


class DefectConfig(StageConfig):
    """Options of ca.isrCcdDefect."""

    interpolate: bool = Field(
        default=True,
        description="bridge BAD pixels along rows and set INTRP; saturated ones keep their value",
    )
    longest: int = Field(default=8, ge=1, description="longest run of pixels that is bridged")


@stage(
    "ca.isrCcdDefect",
    needs=("raw", "masters", "corrections", "channels", "exposure", "sdqa", "warnings"),
    adds=("exposure",),
    config=DefectConfig,
)
def isr_ccd_defect(
    config: DefectConfig,
    *,
    raw: RawFrame,
    masters: Masters,
    corrections: Corrections,
    channels: ChannelStack,
    exposure: Exposure,
    sdqa: Sdqa,
    warnings: list[str],
) -> Mapping[str, Any]:
    """Set the defects' mask planes and bridge bad pixels; the mask stays."""
    from mpipipe.stages.ca import kernels

    defects = masters.defects
    if is_wanted(
        "defects",
        corrections.defects,
        defects is not None,
        "defects",
        exposure.applied,
        warnings,
    ):
        assert defects is not None
        for plane, section in zip(defects, channels.detsecs, strict=True):
            place = corner(section, raw.shape[0], raw.flip_y_after_assembly)
            kernels.or_channel(plane, exposure.mask, *place)
        exposure.applied["defects"] = "masked"
    n_made = 0
    if config.interpolate:
        n_made = kernels.bridge_rows(
            exposure.image,
            exposure.mask,
            planes.bits("BAD"),
            planes.bits("BAD", "SAT", "NO_DATA"),
            config.longest,
            planes.bits("INTRP"),
        )
    sdqa.add("ca.interpolated", n_made, "pixel", snap=exposure.info.snap)
    return {"exposure": exposure}
