"""Pipeline sfm: single frame measurement, the sources of a calibrated exposure."""

from __future__ import annotations

from mpipipe.stages.sfm.ap_correct_apply import ap_correct_apply
from mpipipe.stages.sfm.compute_source_sky_coords import compute_source_sky_coords
from mpipipe.stages.sfm.forced_measurement import forced_measurement
from mpipipe.stages.sfm.initialize import initialize
from mpipipe.stages.sfm.output import output
from mpipipe.stages.sfm.source_detection import source_detection
from mpipipe.stages.sfm.source_measurement import source_measurement
from mpipipe.stages.stage import Stage

PIPELINE: tuple[Stage, ...] = (
    initialize,
    source_detection,
    source_measurement,
    ap_correct_apply,
    compute_source_sky_coords,
    output,
)

FORCED: tuple[Stage, ...] = (forced_measurement,)
"""Run behind `PIPELINE` where there are positions to measure at."""
