"""Pipeline sfm: single frame measurement, the sources of a calibrated exposure."""

from __future__ import annotations

from mpipipe.stages.sfm.initialize import initialize
from mpipipe.stages.sfm.output import output
from mpipipe.stages.sfm.source_detection import source_detection
from mpipipe.stages.sfm.source_measurement import source_measurement
from mpipipe.stages.stage import Stage

PIPELINE: tuple[Stage, ...] = (initialize, source_detection, source_measurement, output)
