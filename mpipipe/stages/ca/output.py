"""ca.output: hand over the assembled exposure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mpipipe.data import mask as planes
from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import Exposure
from mpipipe.stages.stage import StageConfig, stage


@stage("ca.output", needs=("exposure",), adds=("exposure",), always=True)
def output(config: StageConfig, *, exposure: Exposure) -> Mapping[str, Any]:
    """Hand over the exposure; one without a single usable pixel is bad data."""
    unusable = planes.bits("NO_DATA", "BAD", "SAT")
    # Row by row: the first usable pixel ends the search.
    if all(bool(((row & unusable) != 0).all()) for row in exposure.mask):
        raise BadDataError(
            "no pixel of the CCD is usable: all are masked BAD, SAT or NO_DATA",
            file=exposure.info.files[0] if exposure.info.files else None,
        )
    return {"exposure": exposure}
